"""Build the documentation site with `--strict`, and check that it stands by itself.

zensical checks links between pages and their anchors. Here: every other link, image, script and style sheet of the
pages is a file of the site, none is fetched from elsewhere, and a browser, where there is one, opens every page of
the navigation without a message on its console and without a request that leaves this machine.
"""

from __future__ import annotations

import functools
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).resolve().parent.parent
SITE = ROOT / "reports" / "docs" / "site"
REPORTS = (SITE / "accuracy", SITE / "gpus")  # pages of their own, with their own tests


def main() -> None:
    """Run every check; exit with what was found."""
    shutil.rmtree(SITE, ignore_errors=True)
    zensical = Path(sys.executable).with_name("zensical")
    subprocess.run([zensical, "build", "--strict", "--clean", "-f", ROOT / "reports/zensical.toml"], check=True)
    pages = sorted(page for page in SITE.rglob("*.html") if not {*REPORTS} & {*page.parents})
    faults = [fault for page in pages for fault in faults_of(page)]
    if faults:
        raise SystemExit("\n".join(faults))
    looked_at = browse([page for page in pages if page.name == "index.html"])
    print(f"site: {len(pages)} pages build with --strict and need nothing from elsewhere; {looked_at}")


class References(HTMLParser):
    """What a page loads, and where its links lead."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.linked: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note the attributes that name another file."""
        given = {name: value for name, value in attrs if value}
        for name in ("src", "srcset", "poster", "data"):
            if name in given:
                self.loaded.append(given[name].split()[0])
        if "href" in given:
            leads_only = tag == "a" or given.get("rel") in {"canonical", "next", "prev"}
            (self.linked if leads_only else self.loaded).append(given["href"])


def faults_of(page: Path) -> Iterator[str]:
    """What is wrong with the references of one page of the site."""
    name, found = page.relative_to(SITE), References(page.read_text(encoding="utf-8"))
    yield from (f"{name}: loads {url} from elsewhere" for url in found.loaded if urlsplit(url).netloc)
    for url in [*found.loaded, *found.linked]:
        parts = urlsplit(url)
        if parts.scheme or parts.netloc or not parts.path:
            continue
        base = SITE if parts.path.startswith("/") else page.parent
        target = (base / unquote(parts.path).lstrip("/")).resolve()
        if not (target / "index.html" if target.is_dir() else target).exists():
            yield f"{name}: {url} leads nowhere"


def browse(pages: list[Path]) -> str:
    """Open the pages in Chromium, as a reader's browser would; say what was done."""
    sys.path.insert(0, str(ROOT))
    from tests.browser import find_browser, start_browser

    path = find_browser()
    if path is None:
        return "not looked at in a browser: no Chromium here (.ci/install-browser)"
    from playwright.sync_api import sync_playwright

    handler = functools.partial(QuietHandler, directory=str(SITE))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server, sync_playwright() as playwright:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        home, faults = f"http://127.0.0.1:{server.server_port}/", []
        browser = start_browser(playwright, path)
        view = browser.new_page()
        view.on("console", lambda message: faults.append(f"{view.url}: {message.text}"))
        view.on("pageerror", lambda error: faults.append(f"{view.url}: {error}"))
        view.on(
            "request", lambda request: request.url.startswith((home, "data:", "blob:")) or faults.append(request.url)
        )
        for page in pages:
            view.goto(home + page.relative_to(SITE).as_posix(), wait_until="networkidle")
        browser.close()
        server.shutdown()
    if faults:
        raise SystemExit("\n".join(faults))
    return f"{len(pages)} looked at in a browser"


class QuietHandler(SimpleHTTPRequestHandler):
    """A web server that says nothing."""

    def log_message(self, *_: object) -> None:
        """Not a word."""


if __name__ == "__main__":
    main()
