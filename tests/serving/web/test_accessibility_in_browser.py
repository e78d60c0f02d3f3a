"""Accessibility: axe finds no violations, the keyboard is enough, text is readable and fits."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Locator, Page, expect

pytestmark = pytest.mark.browser
AXE = Axe()
REFUSAL = {"error": {"code": "forbidden_host", "message": "Posters are not fetched from example.org."}}


def violations(page: Page) -> list[str]:
    """The violations that axe-core finds on the current page, one line for each."""
    found = AXE.run(page).response["violations"]
    return [f"{rule['id']}: {node['html']}" for rule in found for node in rule["nodes"]]


# Colours do not depend on the width, and the layout does not depend on the colours.
@pytest.mark.parametrize(("width", "phone", "scheme"), [(360, True, "light"), (1280, False, "dark")])
def test_page_is_accessible_readable_and_fits(
    width: int, phone: bool, scheme: str, opened: Callable[..., Page], page_url: str, poster: Path, function: Any
) -> None:
    page = opened(viewport={"width": width, "height": 740}, color_scheme=scheme, has_touch=phone, is_mobile=phone)

    def check(texts: int) -> None:
        assert page.evaluate(LISTS_WITHOUT_ROLE) == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        ratios = page.evaluate(CONTRAST)
        assert len(ratios) > texts
        # WCAG 2.2, 1.4.3: 4.5 to 1 for text.
        assert {text: ratio for text, ratio in ratios.items() if ratio < 4.5} == {}
        assert violations(page) == []

    check(texts=8)
    page.set_input_files("#poster", poster)
    expect(page.get_by_role("heading", name="Action, Sci-Fi")).to_be_in_viewport()
    page.get_by_text("1 more genre, far below its threshold").click()
    page.get_by_role("button", name="Show where the model sees Sci-Fi").click()
    expect(page.locator("#heat")).to_be_visible()
    expect(page.locator("#recent-list button")).to_have_count(1)
    check(texts=25)
    function.status, function.body = 403, REFUSAL
    page.get_by_label("or enter its address").fill("https://example.org/a/long/address/of/a/poster/p.jpg")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_be_visible()
    check(texts=12)
    page.goto(f"{page_url}/model")
    expect(page.get_by_role("heading", name="Confused genres")).to_be_visible()
    check(texts=60)
    function.model_status, function.model = 503, b"Service Unavailable"
    page.reload()
    expect(page.get_by_role("alert")).to_be_visible()
    check(texts=6)


@pytest.mark.parametrize("key", ["Space", "Enter"])
def test_keyboard_is_enough(key: str, page: Page, poster: Path) -> None:
    # Added before the key press, because the browser takes a moment until it passes file choosers to a listener.
    page.on("filechooser", lambda chooser: None)

    def tab_to(target: Locator, times: int = 1) -> None:
        for _ in range(times):
            page.keyboard.press("Tab")
        expect(target).to_be_focused()

    chooser_input = page.locator("#poster")
    action = page.get_by_role("button", name="Show where the model sees Action")
    tab_to(page.get_by_role("link", name="Model"), times=2)
    tab_to(chooser_input)
    assert chooser_input.evaluate("input => getComputedStyle(input.nextElementSibling).outlineStyle") == "solid"
    with page.expect_file_chooser() as chooser:
        page.keyboard.press(key)
    chooser.value.set_files(poster)
    expect(page.get_by_role("heading", name="Action, Sci-Fi")).to_be_visible()
    expect(chooser_input).to_be_focused()
    tab_to(page.get_by_label("or enter its address"))
    tab_to(page.get_by_role("button", name="Predict genres"))
    tab_to(action, times=5)  # past the four samples
    page.keyboard.press(key)
    expect(page.locator("#heat")).to_be_visible()
    expect(action).to_be_focused()
    page.keyboard.press(key)
    expect(page.locator("#heat")).to_be_hidden()
    tab_to(page.locator("summary"), times=3)
    page.keyboard.press(key)
    expect(page.get_by_text("Slice of Life", exact=True)).to_be_visible()
    tab_to(page.get_by_role("button", name="Clear"), times=3)
    tab_to(page.locator("#recent-list button"))
    page.keyboard.press(key)
    expect(page.get_by_text("Prediction for poster.jpg")).to_be_visible()


def test_model_page_needs_no_script(opened: Callable[..., Page]) -> None:
    page = opened(java_script_enabled=False, viewport={"width": 360, "height": 740})
    page.get_by_role("link", name="Model").click()
    expect(page.get_by_role("img", name="F1 0.66, 95 percent interval 0.63 to 0.69")).to_be_visible()
    row = page.locator(".scores li").first
    track, fill, whisker = (row.locator(part).first.bounding_box() for part in (".track", ".fill", ".whisker"))
    assert track and fill and whisker
    assert fill["width"] == pytest.approx(0.66 * track["width"], abs=1)
    assert whisker["x"] - track["x"] == pytest.approx(0.63 * track["width"], abs=2)
    assert whisker["width"] == pytest.approx(0.06 * track["width"], abs=3)
    page.get_by_role("link", name="Poster").click()
    expect(page.get_by_role("heading", name="Genres from a poster")).to_be_visible()


# Lists without markers: Safari exposes them as lists only if they have the role.
LISTS_WITHOUT_ROLE = """() => [...document.querySelectorAll("ol, ul")]
    .filter(list => getComputedStyle(list).listStyleType === "none" && list.getAttribute("role") !== "list")
    .map(list => list.outerHTML)"""

# Contrast of each text with the nearest background behind it (WCAG's relative luminance).
CONTRAST = """() => {
    const parts = colour => colour.match(/[\\d.]+/g).map(Number);
    const luminance = colour => {
        const linear = c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
        const [r, g, b] = parts(colour).map(c => linear(c / 255));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const behind = element => {
        for (let at = element; at; at = at.parentElement) {
            const colour = getComputedStyle(at).backgroundColor;
            if (parts(colour)[3] !== 0) return colour;
        }
    };
    const ratios = {};
    for (const element of document.querySelectorAll("body *")) {
        const own = [...element.childNodes].some(node => node.nodeType === 3 && node.textContent.trim());
        if (!own || !element.checkVisibility() || element.closest("svg, .visually-hidden")) continue;
        const pair = [luminance(getComputedStyle(element).color), luminance(behind(element))];
        const [light, dark] = pair.sort((a, b) => b - a);
        ratios[element.textContent.trim()] = (light + 0.05) / (dark + 0.05);
    }
    return ratios;
}"""
