from __future__ import annotations

import hashlib
import re

from tests.advisor.report.browser.checks import AXE


def test_axe_is_the_file_that_its_readme_names() -> None:
    readme = (AXE.parent / "README.md").read_text(encoding="utf-8")
    (named,) = re.findall(r"sha256 is `([0-9a-f]{64})`", readme)
    assert hashlib.sha256(AXE.read_bytes()).hexdigest() == named
    (version,) = re.findall(r"axe-core\) ([0-9.]+),", readme)
    assert f'axe.version="{version}"' in AXE.read_text(encoding="utf-8")
    assert (AXE.parent / "LICENSE").read_text(encoding="utf-8").startswith("Mozilla Public License, version 2.0")
