"""Which Chromium the checks of pages drive; as a script it prints its path, or nothing where there is none.

Install one with `apt-get install chromium` (Debian; Ubuntu: chromium-browser), or name any Chromium or Chrome in
ADVISOR_TEST_BROWSER. Needs the standard library alone until one is started.
"""

from __future__ import annotations

import os
import shutil
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
QUIET = (
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)


def find_browser() -> str | None:
    """Path of the browser that ADVISOR_TEST_BROWSER names, else of the first of NAMES; None without any."""
    return os.environ.get("ADVISOR_TEST_BROWSER") or next(filter(None, map(shutil.which, NAMES)), None)


def start_browser(playwright: Any, path: str) -> Any:
    """A headless Chromium that asks for nothing by itself, in its sandbox unless this is root, who cannot have one."""
    unprivileged = hasattr(os, "geteuid") and os.geteuid() != 0
    return playwright.chromium.launch(executable_path=path, args=QUIET, chromium_sandbox=unprivileged)


if __name__ == "__main__":
    print(find_browser() or "")
