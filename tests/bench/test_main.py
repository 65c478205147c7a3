from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent


def test_the_list_of_commands_may_be_cut_short_by_a_reader_that_goes_away() -> None:
    line = f"{sys.executable} -m bench --help | head -1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", line], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["usage: python -m bench COMMAND ...", "0"]
    assert done.stderr == ""
