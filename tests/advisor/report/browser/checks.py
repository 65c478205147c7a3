"""What any page of ours is held to, in any browser window: nothing clipped, no barrier, charts drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

AXE = Path(__file__).parent / "axe" / "axe.min.js"

_CLIPPED = """() => {
  const wrong = [];
  const edge = document.documentElement.clientWidth + 1;
  if (document.documentElement.scrollWidth > edge) wrong.push("the page scrolls sideways");
  for (const region of document.querySelectorAll(".scroll")) {
    if (region.tabIndex !== 0) wrong.push("a region that scrolls cannot be reached by keyboard");
  }
  const name = (el) => `${el.tagName}.${el.getAttribute("class") ?? ""} "${el.textContent.trim().slice(0, 60)}"`;
  for (const el of document.querySelectorAll("body *")) {
    const box = el.getBoundingClientRect();
    if (!box.width || el.closest("svg, .unseen, .skip") || el.parentElement.closest(".scroll")) continue;
    if (box.right > edge || box.left < -1) wrong.push(`${name(el)} leaves the window`);
    const free = getComputedStyle(el).display === "inline" || el.matches(".scroll");
    if (!free && el.scrollWidth > el.clientWidth + 1) wrong.push(`${name(el)} is wider than its box`);
    const cut = getComputedStyle(el).overflowY === "hidden";
    if (cut && el.scrollHeight > el.clientHeight + 1) wrong.push(`${name(el)} is higher than its box`);
  }
  for (const text of document.querySelectorAll(".plot svg text")) {
    const box = text.getBoundingClientRect();
    const plot = text.closest(".plot").getBoundingClientRect();
    if (!box.width || !text.textContent) continue;
    const sideways = box.left < plot.left - 1 || box.right > plot.right + 1;
    const upwards = box.top < plot.top - 1 || box.bottom > plot.bottom + 1;
    if (sideways || upwards) wrong.push(`"${text.textContent}" leaves its chart`);
  }
  return wrong;
}"""

_OVERLAPPING = """() => {
  const wrong = [];
  for (const plot of document.querySelectorAll(".plot")) {
    const labels = [...plot.querySelectorAll("svg text")].filter((text) => text.textContent);
    const boxes = labels.map((text) => [text.textContent, text.getBoundingClientRect()]).filter(([, box]) => box.width);
    boxes.forEach(([one, a], place) => boxes.slice(place + 1).forEach(([other, b]) => {
      const width = Math.min(a.right, b.right) - Math.max(a.left, b.left);
      const height = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
      if (width > 1 && height > 3) wrong.push(`"${one}" and "${other}" overlap`);
    }));
  }
  return wrong;
}"""


def draw_all(page: Any) -> None:
    """Scroll through the page, so that every chart is drawn, and back."""
    for chart in page.locator(".media:has(.interactive)").all():
        chart.scroll_into_view_if_needed()
        chart.locator(".interactive[data-ready]").wait_for()
    page.evaluate("scrollTo(0, 0)")
    page.evaluate("() => Promise.all([...document.images].map((image) => image.decode()))")


def clipped(page: Any) -> list[str]:
    """What leaves its box or the window, and scrolling that no keyboard reaches; regions that scroll may be wider."""
    return list(page.evaluate(_CLIPPED))


def overlapping(page: Any) -> list[str]:
    """Words of interactive charts that lie on one another."""
    return list(page.evaluate(_OVERLAPPING))


def barriers(page: Any) -> list[str]:
    """What axe-core finds against WCAG and good practice, contrast among it."""
    page.evaluate(AXE.read_text("utf-8"))
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [f"{rule['id']}: {[node['html'] for node in rule['nodes']]}" for rule in found["violations"]]


def background(page: Any) -> tuple[int, int, int]:
    """Red, green and blue behind the page."""
    text = page.evaluate("getComputedStyle(document.body).backgroundColor")
    red, green, blue = (int(part) for part in text.removeprefix("rgb(").removesuffix(")").split(","))
    return red, green, blue
