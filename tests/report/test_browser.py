"""The page in a browser, as a person opens it: nothing leaves it, nothing in it runs, and it fits a phone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from report.config import ReportConfig
from report.report import report
from tests.report.test_page import plant

pytestmark = pytest.mark.browser

WIDTHS = (390, 1280)
# Ratios of WCAG 2.2: text against what lies behind it, as the browser computes both.
CONTRASTS = """() => {
  const luminance = (color) => {
    const [r, g, b] = color.match(/[\\d.]+/g).slice(0, 3).map((part) => {
      const value = part / 255;
      return value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const color = getComputedStyle(at).backgroundColor;
      if (color !== 'rgba(0, 0, 0, 0)') return color;
    }
    return 'rgb(255, 255, 255)';
  };
  return [...document.querySelectorAll('p, li, td, th, dt, dd, h1, h2, h3, h4, code, small, strong, svg text')].map((element) => {
    const style = getComputedStyle(element);
    const [one, other] = [luminance(element.closest('svg') ? style.fill : style.color), luminance(behind(element))];
    return (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
  });
}"""


def opened(browser: Any, path: Path, **options: Any) -> tuple[Any, list[str]]:
    """The page, and all that happened beside it: requests, messages of the console, errors, dialogs."""
    context = browser.new_context(offline=True, **options)
    page, events = context.new_page(), []
    page.on("request", lambda request: events.append(f"request {request.url}"))
    page.on("console", lambda message: events.append(f"console {message.text}"))
    page.on("pageerror", lambda error: events.append(f"error {error}"))
    page.on("dialog", lambda dialog: (events.append("dialog"), dialog.dismiss()))
    page.goto(path.as_uri())
    page.wait_for_load_state("load")
    return page, events


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_fits_reads_and_asks_for_nothing(browser: Any, run: Path, width: int, scheme: str) -> None:
    path = report(ReportConfig(run)).path
    assert path is not None
    page, events = opened(browser, path, viewport={"width": width, "height": 900}, color_scheme=scheme)
    assert events == [f"request {path.as_uri()}"]
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    wide = page.evaluate(
        """(width) => [...document.querySelectorAll('body *')].filter((element) => !element.closest('.scroll')
        && element.getBoundingClientRect().right > width + 0.5).map((element) => element.outerHTML.slice(0, 80))""",
        width,
    )
    assert wide == []
    assert page.locator("svg.plot").count() == 2
    assert min(page.evaluate(CONTRASTS)) >= 4.5
    size = page.evaluate(
        "Math.min(...[...document.querySelectorAll('svg text')].map((it) => it.getBoundingClientRect().height))"
    )
    assert size >= 9, "the plots' words are too small to read"


@pytest.mark.parametrize("width", WIDTHS)
def test_planted_text_runs_nowhere_and_breaks_no_layout(browser: Any, run: Path, width: int) -> None:
    plant(run)
    path = report(ReportConfig(run)).path
    assert path is not None
    page, events = opened(browser, path, viewport={"width": width, "height": 900})
    assert events == [f"request {path.as_uri()}"]
    assert page.evaluate("window.planted") is None
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_everything_is_open_on_paper(browser: Any, run: Path) -> None:
    path = report(ReportConfig(run)).path
    assert path is not None
    page, _ = opened(browser, path, viewport={"width": 794, "height": 1100}, color_scheme="dark")
    protocol = page.get_by_text("Zero-shot.")
    assert not protocol.first.is_visible()
    page.emulate_media(media="print")
    assert protocol.first.is_visible()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert not page.locator("nav").is_visible()
