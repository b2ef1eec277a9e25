"""The page in a real browser, driven as a person would, with every other machine out of reach."""

from __future__ import annotations

import re
from typing import Any

# The least contrast of any text with what lies behind it, but for buttons that cannot be pressed.
LEAST_CONTRAST = """() => {
  const luminance = ([r, g, b]) => [r, g, b].map(c => c / 255).map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const color = text => (text.match(/[\\d.]+/g) || []).map(Number);
  const behind = it => { for (; it; it = it.parentElement) {
    const c = color(getComputedStyle(it).backgroundColor);
    if (c.length === 3 || c[3] > 0.9) return c; } return [255, 255, 255]; };
  let least = [99, ''];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const it = walker.currentNode.parentElement;
    if (!walker.currentNode.textContent.trim() || !it.checkVisibility()) continue;
    if (it.closest('script, style, [disabled], .hidden')) continue;
    const [a, b] = [luminance(color(getComputedStyle(it).color)), luminance(behind(it))];
    const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (contrast < least[0]) least = [contrast, it.outerHTML.slice(0, 200)];
  }
  return least;
}"""


# Everything that can be used, or is a group of such, and has no name that a screen reader could say.
NAMELESS = """() => {
  const used = 'button, input, textarea, select, a[href], fieldset, [role=button], [role=tab], svg[role=img]';
  const labels = it => it.tagName === 'FIELDSET' ? [] : [...(it.labels || [])];
  const said = it => it.tagName === 'FIELDSET' ? '' : it.textContent.trim();
  const isNamed = it => it.ariaLabel || it.title || said(it) || labels(it).some(label => label.textContent.trim());
  const nameless = [...document.querySelectorAll(used)].filter(it => it.checkVisibility() && !isNamed(it));
  return nameless.map(it => it.outerHTML.slice(0, 200));
}"""


def ask(page: Any, question: str) -> None:
    """Type a question, press Enter, and wait until every voice has ended."""
    page.get_by_label("Your question").fill(question)
    page.keyboard.press("Enter")
    wait_for_answers(page, question)


def wait_for_answers(page: Any, question: str) -> None:
    """Wait until every voice has answered this question and another can be asked."""
    page.locator("#newest h2", has_text=question).wait_for()
    page.wait_for_function("""() => {
        const ends = [...document.querySelectorAll('#newest footer')].map(it => it.textContent);
        return ends.length && ends.every(it => /ended|cut|stopped/.test(it)) && !document.querySelector('#ask').disabled;
    }""")


class Watched:
    """A page, and what it asked of other machines or complained of."""

    def __init__(self, browser: Any, url: str, **options: Any) -> None:
        self.context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}} | options)
        self.beyond: list[str] = []
        self.complaints: list[str] = []

        def look(route: Any) -> None:
            if route.request.url.startswith((url, "data:", "blob:")):
                route.continue_()
            else:
                self.beyond.append(route.request.url)
                route.abort()

        self.context.route("**/*", look)
        self.context.set_default_timeout(90_000)  # milliseconds; machines of tests are busy
        self.page = self.context.new_page()
        self.page.on("console", lambda it: self.complaints.append(it.text) if it.type == "error" else None)
        self.page.on("pageerror", lambda it: self.complaints.append(str(it)))
        self.page.on("dialog", lambda it: (self.complaints.append(f"dialog {it.message}"), it.dismiss()))
        self.page.goto(url)
        self.page.get_by_label("Your question").wait_for()


SETTINGS = ("System prompt", "Temperature", "Top-p", "Most tokens of an answer", "Seed")
FIRST_FIELD = {
    "Compare": "#question textarea", "Blind": "#blind-question textarea", "Batch": "#questions textarea",
    "Results": "#results h2", "Chat": "#chat-question textarea",
}  # fmt: skip
FRAMES = "() => new Promise(done => { let left = 6; const next = () => left-- ? requestAnimationFrame(next) : done(); next(); })"


def open_settings(page: Any) -> None:
    """Open the settings, and wait until they can be filled in."""
    page.get_by_role("button", name=re.compile("Settings")).click()
    for label in SETTINGS:
        page.get_by_label(label).first.wait_for()
    wait_for_values(page)


def open_tab(page: Any, name: str) -> None:
    """Go to a tab, and wait until it can be filled in."""
    page.get_by_role("tab", name=name).click()
    page.locator(FIRST_FIELD[name]).first.wait_for()
    wait_for_values(page)


def stand_still(page: Any) -> None:
    """No transitions of colors and heights, so that what is measured is what stays."""
    page.add_style_tag(content="*, ::before, ::after { transition: none !important; animation: none !important; }")
    wait_for_values(page)


def wait_for_values(page: Any) -> None:
    """Gradio draws what was closed, and sets the values in the frame after (render_previously_invisible_children in its
    frontend): what is typed in between would be lost."""
    page.evaluate(FRAMES)
