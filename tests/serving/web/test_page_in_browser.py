"""The page in a real browser: each way in for a poster, its genres as bars, and the words for waits and failures."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from serving.web.upload import MAX_POSTER_BYTES

# A file as the browser hands it over with a drop or a paste.
TRANSFER = """bytes => {
    const transfer = new DataTransfer();
    transfer.items.add(new File([new Uint8Array(bytes)], "image.jpg", { type: "image/jpeg" }));
    return transfer;
}"""
PASTE = """([transfer, text]) => {
    const clipboardData = transfer ?? new DataTransfer();
    if (text) clipboardData.setData("text/plain", text);
    const paste = new ClipboardEvent("paste", { clipboardData, bubbles: true, cancelable: true });
    (document.activeElement ?? document.body).dispatchEvent(paste);
}"""


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
    expect(page.get_by_text("Slice of Life", exact=True)).to_be_visible()
    expect(page.get_by_role("status")).to_have_text("Likely: Action, Sci-Fi.")


def test_a_poster_dropped_anywhere_is_taken_too(page: Page, poster: Path, function: Any) -> None:
    transfer = page.evaluate_handle(TRANSFER, list(poster.read_bytes()))
    page.dispatch_event("h1", "dragenter", {"dataTransfer": transfer})
    expect(page.locator("#drop")).to_have_class("drop over")
    page.dispatch_event("h1", "drop", {"dataTransfer": transfer})
    expect(page.locator("#drop")).to_have_class("drop")
    expect(page.get_by_text("Read from image.jpg")).to_be_visible()
    assert function.posters == [poster.read_bytes()]


def test_a_picture_in_the_clipboard_is_pasted_from_anywhere(page: Page, poster: Path, function: Any) -> None:
    transfer = page.evaluate_handle(TRANSFER, list(poster.read_bytes()))
    page.evaluate(PASTE, [transfer, ""])
    expect(page.get_by_text("Read from the clipboard")).to_be_visible()
    page.locator("#address").focus()
    page.evaluate(PASTE, [transfer, ""])
    expect(page.locator("#answer")).to_have_attribute("aria-busy", "false")
    assert function.posters == [poster.read_bytes()] * 2


def test_a_pasted_address_is_asked_about_and_other_text_is_not(page: Page, function: Any) -> None:
    page.evaluate(PASTE, [None, "an anime about https://example.org"])
    page.evaluate(PASTE, [None, "https://example.org/p.jpg"])
    expect(page.get_by_text("Read from https://example.org/p.jpg")).to_be_visible()
    expect(page.locator("#address")).to_have_value("https://example.org/p.jpg")
    assert function.posters == [b'{"name": "https://example.org/p.jpg"}']


def test_an_address_shows_a_placeholder_for_its_poster(page: Page, function: Any) -> None:
    page.get_by_label("or give its address").fill(" posters/5.jpg ")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Action, Sci-Fi")).to_be_visible()
    expect(page.locator("#preview")).to_be_hidden()
    expect(page.locator("#placeholder")).to_contain_text("this page shows no pictures from other sites")
    assert function.posters == [b'{"name": "posters/5.jpg"}']


def test_a_phone_offers_its_camera(opened: Callable[..., Page], poster: Path, function: Any) -> None:
    page = opened(viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    expect(page.get_by_text("Photograph one")).to_be_visible()
    expect(page.locator("#photograph")).to_have_attribute("capture", "environment")
    page.set_input_files("#photograph", poster)
    expect(page.get_by_role("heading", name="Action, Sci-Fi")).to_be_in_viewport()
    assert function.posters == [poster.read_bytes()]


def test_a_drawn_sample_needs_one_click(page: Page, function: Any) -> None:
    page.get_by_role("button", name="Nakusa").click()
    expect(page.get_by_text("Read from Nakusa")).to_be_visible()
    expect(page.get_by_role("img", name="The poster: Nakusa")).to_be_visible()
    assert len(function.posters) == 1


def test_of_two_posters_in_a_hurry_the_later_one_is_shown(page: Page, function: Any) -> None:
    function.seconds = 0.3
    page.get_by_role("button", name="Nakusa").click()
    expect(page.get_by_role("status")).to_have_text("Asking the model …")
    page.get_by_role("button", name="Niwahane's Mirror").click()
    expect(page.get_by_text("Read from Niwahane's Mirror")).to_be_visible()
    expect(page.locator("#tries-list button")).to_have_count(1)


def test_a_failure_that_may_pass_offers_another_try(page: Page, poster: Path, function: Any) -> None:
    good = function.body
    function.status, function.body, function.content_type = 503, b"Service Unavailable", "text/plain"
    page.set_input_files("#poster", poster)
    expect(page.get_by_role("alert")).to_contain_text("waking up or busy")
    function.status, function.body, function.content_type = 200, good, "application/json"
    page.get_by_role("button", name="Try again").click()
    expect(page.get_by_role("heading", name="Action, Sci-Fi")).to_be_visible()
    expect(page.locator("#answer")).to_be_focused()
    assert page.locator("#preview").evaluate("image => image.naturalWidth") == 225
    assert function.posters == [poster.read_bytes()] * 2


def test_a_page_whose_server_is_gone_says_so(page: Page, poster: Path) -> None:
    page.route("**/anime", lambda route: route.abort())
    page.set_input_files("#poster", poster)
    expect(page.get_by_role("alert")).to_contain_text("own server did not answer")
    page.unroute_all()
    page.get_by_role("button", name="Try again").click()
    expect(page.get_by_role("heading", name="Action, Sci-Fi")).to_be_visible()


def test_an_error_is_an_alert_and_the_next_poster_replaces_it(page: Page, poster: Path, function: Any) -> None:
    good = function.body
    function.status = 415
    function.body = {"error": {"code": "unsupported_format", "message": "This is no image."}}
    page.set_input_files("#poster", {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"no image"})
    expect(page.get_by_role("alert")).to_contain_text("This is no image.")
    expect(page.locator("#preview")).to_be_hidden()
    expect(page.get_by_text("This browser cannot show the picture.")).to_be_visible()
    expect(page.locator("#answer")).to_have_attribute("aria-busy", "false")
    expect(page.get_by_role("button", name="Try again")).to_have_count(0)
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


def test_without_javascript_the_forms_answer_with_the_page(opened: Callable[..., Page], poster: Path) -> None:
    page = opened(java_script_enabled=False, viewport={"width": 360, "height": 740})
    page.set_input_files("#poster", poster)
    page.get_by_role("button", name="Name its genres").click()
    expect(page.get_by_role("heading", name="Action, Sci-Fi")).to_be_in_viewport()
    expect(page.locator(".genres .bar").first).to_be_visible()
    expect(page.get_by_role("button", name="Show where Action shows")).to_be_hidden()
    page.get_by_label("or give its address").fill("https://example.org/p.jpg")
    page.get_by_role("button", name="Name its genres").click()
    expect(page.get_by_text("Read from https://example.org/p.jpg")).to_be_visible()
    page.get_by_role("button", name="Nakusa").click()
    expect(page.get_by_text("Read from Nakusa")).to_be_visible()
    switch = page.get_by_role("button", name="Show where Sci-Fi shows")
    switch.click()
    expect(page.locator("#heat")).to_be_visible()
    expect(switch).to_have_attribute("aria-pressed", "true")
    switch.click()
    expect(page.locator("#heat")).to_be_hidden()
