"""The page in a real browser: a poster is uploaded and genres appear, with a mouse, a keyboard, a phone.

Needs Chromium or Chrome. Where there is none the tests skip, unless ANIME_GENRE_REQUIRE_BROWSER=1 forbids it.
"""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect
from werkzeug.serving import make_server

from infra.local.site.posters import poster_jpeg
from infra.local.site.titles import invented_titles
from serving.web.app import MAX_POSTER_BYTES, create_app
from tests.browser import chromium_browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium_browser() as running:
        yield running


@pytest.fixture
def page_url(function: Any) -> Iterator[str]:
    server = make_server("127.0.0.1", 0, create_app(function.url), threaded=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/anime"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def page(browser: Browser, page_url: str) -> Iterator[Page]:
    """The open page; it may neither log an error of its own nor ask another server for anything."""
    context = browser.new_context(viewport={"width": 1280, "height": 860}, reduced_motion="reduce")
    opened = context.new_page()
    complaints: list[str] = []
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on(
        "console",
        lambda message: complaints.append(message.text) if "status of" not in message.text else None,
    )
    opened.on("request", lambda request: complaints.append(request.url) if not own(request.url, page_url) else None)
    opened.goto(page_url)
    yield opened
    context.close()
    assert complaints == []


def own(address: str, page_url: str) -> bool:
    return address.startswith((page_url.removesuffix("/anime"), "blob:"))


@pytest.fixture
def poster(tmp_path: Path) -> Path:
    file = tmp_path / "poster.jpg"
    file.write_bytes(poster_jpeg(invented_titles(20)[3]))
    return file


def test_an_uploaded_poster_is_shown_and_its_genres_appear_as_bars(page: Page, poster: Path, function: Any) -> None:
    page.set_input_files("#poster", poster)
    expect(page.get_by_role("heading", name="Action, Sci-Fi")).to_be_visible()
    assert function.posters == [poster.read_bytes()]
    assert page.locator("#preview").evaluate("image => image.naturalWidth") == 225
    rows = page.locator(".genres > li:visible")
    assert rows.locator(".name").all_inner_texts() == ["Action", "Sci-Fi", "Adventure"]
    assert rows.locator(".word").all_inner_texts() == ["likely", "likely", "maybe"]
    for row, (probability, threshold) in zip(rows.all(), [(0.83, 0.4), (0.61, 0.45), (0.34, 0.36)], strict=True):
        track, fill, mark = (row.locator(part).bounding_box() for part in (".track", ".fill", ".threshold"))
        assert track and fill and mark
        assert fill["width"] == pytest.approx(probability * track["width"], abs=1)
        assert mark["x"] - track["x"] == pytest.approx(threshold * track["width"], abs=1)
    expect(page.locator(".model")).to_contain_text("version 3, 9f86d081884c, trained on the catalogue of 23 November")
    page.get_by_text("1 unlikely genre").click()
    expect(page.get_by_text("Slice of Life")).to_be_visible()
    expect(page.get_by_role("status")).to_have_text("Likely: Action, Sci-Fi.")


def test_a_dropped_poster_is_taken_too(page: Page, poster: Path) -> None:
    transfer = page.evaluate_handle(
        """bytes => {
            const transfer = new DataTransfer();
            transfer.items.add(new File([new Uint8Array(bytes)], "dropped.jpg", { type: "image/jpeg" }));
            return transfer;
        }""",
        list(poster.read_bytes()),
    )
    page.dispatch_event("#poster", "dragenter", {"dataTransfer": transfer})
    expect(page.locator("#drop")).to_have_class("drop over")
    # A synthetic drop is not taken up by the browser's file input, so the files are handed over as it would.
    page.evaluate("transfer => { document.getElementById('poster').files = transfer.files }", transfer)
    page.dispatch_event("#poster", "drop", {"dataTransfer": transfer})
    page.dispatch_event("#poster", "change")
    expect(page.locator("#drop")).to_have_class("drop")
    expect(page.get_by_text("Read from dropped.jpg")).to_be_visible()


def test_a_drawn_sample_needs_one_click(page: Page, function: Any) -> None:
    page.get_by_role("button", name="Nakusa").click()
    expect(page.get_by_text("Read from Nakusa")).to_be_visible()
    expect(page.locator("#preview")).to_be_visible()
    assert len(function.posters) == 1


@pytest.mark.parametrize("key", ["Space", "Enter"])
def test_the_keyboard_is_enough(key: str, page: Page, poster: Path) -> None:
    # The first listener makes the browser hand choosers over, which takes it a moment: before the key is pressed.
    page.on("filechooser", lambda chooser: None)
    page.keyboard.press("Tab")
    expect(page.locator("#poster")).to_be_focused()
    outline = "input => getComputedStyle(input.nextElementSibling).outlineStyle"
    assert page.locator("#poster").evaluate(outline) == "solid"
    with page.expect_file_chooser() as chooser:
        page.keyboard.press(key)
    chooser.value.set_files(poster)
    expect(page.get_by_role("heading", name="Action, Sci-Fi")).to_be_visible()
    expect(page.locator("#poster")).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Name its genres")).to_be_focused()
    for _ in range(5):
        page.keyboard.press("Tab")
    expect(page.locator("summary")).to_be_focused()
    page.keyboard.press("Space")
    expect(page.get_by_text("Slice of Life")).to_be_visible()


def test_an_error_is_an_alert_and_the_next_poster_replaces_it(page: Page, poster: Path, function: Any) -> None:
    good = function.body
    function.status = 415
    function.body = {"error": {"code": "unsupported_format", "message": "This is no image."}}
    page.set_input_files("#poster", {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"no image"})
    expect(page.get_by_role("alert")).to_contain_text("This is no image.")
    expect(page.locator("#preview")).to_be_hidden()
    expect(page.locator("#answer")).to_have_attribute("aria-busy", "false")
    function.status, function.body = 200, good
    page.set_input_files("#poster", poster)
    expect(page.get_by_role("heading", name="Action, Sci-Fi")).to_be_visible()
    expect(page.get_by_role("alert")).to_have_count(0)


def test_a_poster_that_is_too_large_is_refused_before_it_is_sent(page: Page, tmp_path: Path, function: Any) -> None:
    large = tmp_path / "large.jpg"
    with large.open("wb") as file:
        file.truncate(MAX_POSTER_BYTES + 1)
    page.set_input_files("#poster", large)
    expect(page.get_by_role("alert")).to_contain_text("larger than 20 MB")
    assert function.posters == []


def test_while_the_function_wakes_the_page_says_so(page: Page, poster: Path, function: Any) -> None:
    page.clock.install()
    function.seconds = 1
    page.set_input_files("#poster", poster)
    expect(page.get_by_role("status")).to_have_text("Asking the model …")
    expect(page.get_by_role("button", name="Name its genres")).to_be_disabled()
    page.clock.fast_forward(5000)
    expect(page.get_by_role("status")).to_contain_text("waking up")
    expect(page.get_by_role("heading", name="Action, Sci-Fi")).to_be_visible()
    expect(page.get_by_role("button", name="Name its genres")).to_be_enabled()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("width", "touch"), [(360, True), (1280, False)])
def test_it_fits_and_can_be_read(
    width: int, touch: bool, scheme: Any, browser: Browser, page_url: str, poster: Path
) -> None:
    context = browser.new_context(
        viewport={"width": width, "height": 740},
        color_scheme=scheme,
        has_touch=touch,
        reduced_motion="reduce",
    )
    page = context.new_page()
    page.goto(page_url)
    page.set_input_files("#poster", poster)
    expect(page.get_by_role("heading", name="Action, Sci-Fi")).to_be_in_viewport()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    ratios = page.evaluate(CONTRAST)
    context.close()
    assert len(ratios) > 15
    # WCAG 2.2, 1.4.3: 4.5 to 1 for text.
    assert {text: ratio for text, ratio in ratios.items() if ratio < 4.5} == {}


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


def test_without_javascript_the_form_answers_with_the_page(browser: Browser, page_url: str, poster: Path) -> None:
    context = browser.new_context(java_script_enabled=False, viewport={"width": 360, "height": 740})
    page = context.new_page()
    page.goto(page_url)
    page.set_input_files("#poster", poster)
    page.get_by_role("button", name="Name its genres").click()
    expect(page.get_by_role("heading", name="Action, Sci-Fi")).to_be_in_viewport()
    expect(page.locator(".genres .bar").first).to_be_visible()
    page.get_by_role("button", name="Nakusa").click()
    expect(page.get_by_text("Read from Nakusa")).to_be_visible()
    context.close()
