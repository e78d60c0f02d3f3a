"""The page in a real browser: ways to choose a poster, genres as bars, waits and failures."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, Route, expect

from serving.web.upload import MAX_POSTER_BYTES

pytestmark = pytest.mark.browser
# A file in the form of a drop or a paste.
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


def test_upload_shows_the_poster_and_its_genres(page: Page, poster: Path, function: Any) -> None:
    page.set_input_files("#poster", poster)
    expect(page.get_by_role("heading", name="Action, Sci-Fi")).to_be_visible()
    assert function.posters == [poster.read_bytes()]
    assert page.locator("#preview").evaluate("image => image.naturalWidth") == 225
    rows = page.locator(".genres > li:visible")
    assert rows.locator(".name").all_inner_texts() == ["Action", "Sci-Fi", "Adventure"]
    assert rows.locator(".word").all_inner_texts() == [
        "above its threshold of 40 %",
        "above its threshold of 45 %",
        "below its threshold of 36 %",
    ]
    for row, (probability, threshold) in zip(rows.all(), [(0.83, 0.4), (0.61, 0.45), (0.34, 0.36)], strict=True):
        track, fill, mark = (row.locator(part).bounding_box() for part in (".track", ".fill", ".threshold"))
        assert track and fill and mark
        assert fill["width"] == pytest.approx(probability * track["width"], abs=1)
        assert mark["x"] - track["x"] == pytest.approx(threshold * track["width"], abs=1)
    expect(page.locator(".model")).to_contain_text("version 3, 9f86d081884c, trained on the catalogue of 23 November")
    page.get_by_text("1 more genre, far below its threshold").click()
    expect(page.get_by_text("Slice of Life", exact=True)).to_be_visible()
    expect(page.get_by_role("status")).to_have_text("Above their thresholds: Action, Sci-Fi.")


def test_file_chosen_before_the_script_is_there_is_predicted(page: Page, poster: Path, function: Any) -> None:
    held: list[Route] = []
    page.route("**/anime.js", lambda route: held.append(route))
    with page.expect_request("**/anime.js"):
        page.reload(wait_until="commit")
    page.set_input_files("#poster", poster)
    held[0].continue_()
    expect(page.get_by_role("heading", name="Action, Sci-Fi")).to_be_visible()
    transfer = page.evaluate_handle(TRANSFER, list(poster.read_bytes()))
    page.locator("#photograph").evaluate("(input, transfer) => { input.files = transfer.files; }", transfer)
    page.get_by_role("button", name="Predict genres").click()
    expect(page.get_by_text("Prediction for image.jpg")).to_be_visible()
    assert function.posters == [poster.read_bytes()] * 2


def test_drop_works_anywhere_on_the_page(page: Page, poster: Path, function: Any) -> None:
    transfer = page.evaluate_handle(TRANSFER, list(poster.read_bytes()))
    page.dispatch_event("h1", "dragenter", {"dataTransfer": transfer})
    expect(page.locator("#drop")).to_have_class("drop over")
    page.dispatch_event("h1", "drop", {"dataTransfer": transfer})
    expect(page.locator("#drop")).to_have_class("drop")
    expect(page.get_by_text("Prediction for image.jpg")).to_be_visible()
    assert function.posters == [poster.read_bytes()]


def test_paste_of_a_picture_works_anywhere_on_the_page(page: Page, poster: Path, function: Any) -> None:
    transfer = page.evaluate_handle(TRANSFER, list(poster.read_bytes()))
    page.evaluate(PASTE, [transfer, ""])
    expect(page.get_by_text("Prediction for the clipboard")).to_be_visible()
    page.locator("#address").focus()
    page.evaluate(PASTE, [transfer, ""])
    expect(page.locator("#prediction")).to_have_attribute("aria-busy", "false")
    assert function.posters == [poster.read_bytes()] * 2


def test_paste_of_an_address_is_used_but_other_text_is_not(page: Page, function: Any) -> None:
    page.evaluate(PASTE, [None, "an anime about https://example.org"])
    page.evaluate(PASTE, [None, "https://example.org/p.jpg"])
    expect(page.get_by_text("Prediction for https://example.org/p.jpg")).to_be_visible()
    expect(page.locator("#address")).to_have_value("https://example.org/p.jpg")
    assert function.posters == [b'{"name": "https://example.org/p.jpg"}']


def test_paste_of_other_text_says_what_is_wanted(page: Page, function: Any) -> None:
    page.evaluate(PASTE, [None, "an anime about https://example.org"])
    expect(page.get_by_role("alert")).to_contain_text("neither a picture nor an address")
    assert function.posters == []


@pytest.mark.parametrize(
    "text, address",
    [
        ("http://example.org/p.jpg", "http://example.org/p.jpg"),
        ("# of a page\r\nhttps://example.org/p.jpg\r\nhttps://example.org/q.jpg\r\n", "https://example.org/p.jpg"),
    ],
    ids=["http", "list"],
)
def test_drop_of_addresses_uses_the_first(text: str, address: str, page: Page, function: Any) -> None:
    drop = """text => {
        const dataTransfer = new DataTransfer();
        dataTransfer.setData("text/uri-list", text);
        document.body.dispatchEvent(new DragEvent("drop", { dataTransfer, bubbles: true, cancelable: true }));
    }"""
    page.evaluate(drop, text)
    expect(page.get_by_text(f"Prediction for {address}")).to_be_visible()
    assert function.posters == [json.dumps({"name": address}).encode()]


def test_address_shows_a_placeholder_for_its_poster(page: Page, function: Any) -> None:
    page.get_by_label("or enter its address").fill(" posters/5.jpg ")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Action, Sci-Fi")).to_be_visible()
    expect(page.locator("#preview")).to_be_hidden()
    expect(page.locator("#placeholder")).to_contain_text("this page shows no pictures from other sites")
    assert function.posters == [b'{"name": "posters/5.jpg"}']


def test_camera_is_offered_on_a_phone_and_the_result_fills_the_screen(
    opened: Callable[..., Page], poster: Path, function: Any
) -> None:
    page = opened(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    expect(page.get_by_text("Take a photo")).to_be_visible()
    expect(page.locator("#photograph")).to_have_attribute("capture", "environment")
    page.set_input_files("#photograph", poster)
    expect(page.get_by_role("heading", name="Action, Sci-Fi")).to_be_in_viewport()
    expect(page.locator("#preview")).to_be_in_viewport(ratio=1)
    for row in page.locator(".genres > li:visible").all():
        expect(row).to_be_in_viewport(ratio=1)
    assert function.posters == [poster.read_bytes()]


def test_sample_needs_one_click(page: Page, function: Any) -> None:
    page.get_by_role("button", name="Nakusa").click()
    expect(page.get_by_text("Prediction for Nakusa")).to_be_visible()
    expect(page.get_by_role("img", name="The poster: Nakusa")).to_be_visible()
    assert len(function.posters) == 1


def test_later_of_two_quick_requests_is_shown(page: Page, function: Any) -> None:
    function.answers.clear()
    page.get_by_role("button", name="Nakusa").click()
    expect(page.get_by_role("status")).to_have_text("Predicting genres …")
    page.get_by_role("button", name="Niwahane's Mirror").click()
    function.answers.set()
    expect(page.get_by_text("Prediction for Niwahane's Mirror")).to_be_visible()
    expect(page.locator("#recent-list button")).to_have_count(1)


def test_temporary_failure_offers_a_retry(page: Page, poster: Path, function: Any) -> None:
    good = function.body
    function.status, function.body, function.content_type = 503, b"Service Unavailable", "text/plain"
    page.set_input_files("#poster", poster)
    expect(page.get_by_role("alert")).to_contain_text("starting up or busy")
    function.status, function.body, function.content_type = 200, good, "application/json"
    page.get_by_role("button", name="Try again").click()
    expect(page.get_by_role("heading", name="Action, Sci-Fi")).to_be_visible()
    expect(page.locator("#prediction")).to_be_focused()
    assert page.locator("#preview").evaluate("image => image.naturalWidth") == 225
    assert function.posters == [poster.read_bytes()] * 2


def test_lost_server_is_explained(page: Page, poster: Path) -> None:
    page.route("**/anime", lambda route: route.abort())
    page.set_input_files("#poster", poster)
    expect(page.get_by_role("alert")).to_contain_text("server did not respond")
    page.unroute_all()
    page.get_by_role("button", name="Try again").click()
    expect(page.get_by_role("heading", name="Action, Sci-Fi")).to_be_visible()


def test_error_is_an_alert_until_the_next_poster(page: Page, poster: Path, function: Any) -> None:
    good = function.body
    function.status = 415
    function.body = {"error": {"code": "unsupported_format", "message": "This is no image."}}
    page.set_input_files("#poster", {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"no image"})
    expect(page.get_by_role("alert")).to_contain_text("This is no image.")
    expect(page.locator("#preview")).to_be_hidden()
    expect(page.get_by_text("This browser cannot show the picture.")).to_be_visible()
    expect(page.locator("#prediction")).to_have_attribute("aria-busy", "false")
    expect(page.get_by_role("button", name="Try again")).to_have_count(0)
    function.status, function.body = 200, good
    page.set_input_files("#poster", poster)
    expect(page.get_by_role("heading", name="Action, Sci-Fi")).to_be_visible()
    expect(page.get_by_role("alert")).to_have_count(0)


def test_large_poster_is_refused_before_it_is_sent(page: Page, tmp_path: Path, function: Any) -> None:
    large = tmp_path / "large.jpg"
    with large.open("wb") as file:
        file.truncate(MAX_POSTER_BYTES + 1)
    page.set_input_files("#poster", large)
    expect(page.get_by_role("alert")).to_contain_text("larger than 20 MB")
    assert function.posters == []


def test_wait_for_a_starting_function_is_explained(page: Page, poster: Path, function: Any) -> None:
    page.clock.install()
    function.answers.clear()
    page.set_input_files("#poster", poster)
    expect(page.get_by_role("status")).to_have_text("Predicting genres …")
    expect(page.get_by_role("button", name="Predict genres")).to_be_disabled()
    page.clock.fast_forward(5000)
    expect(page.get_by_role("status")).to_contain_text("starting up")
    function.answers.set()
    expect(page.get_by_role("heading", name="Action, Sci-Fi")).to_be_visible()
    expect(page.get_by_role("button", name="Predict genres")).to_be_enabled()


def test_forms_work_without_javascript(opened: Callable[..., Page], poster: Path, function: Any) -> None:
    page = opened(java_script_enabled=False, viewport={"width": 360, "height": 740})
    page.set_input_files("#poster", poster)
    page.get_by_role("button", name="Predict genres").click()
    expect(page.get_by_role("heading", name="Action, Sci-Fi")).to_be_in_viewport()
    expect(page.locator(".genres .bar").first).to_be_visible()
    expect(page.get_by_role("button", name="Show where the model sees Action")).to_be_hidden()
    page.get_by_label("or enter its address").fill("https://example.org/p.jpg")
    page.get_by_role("button", name="Predict genres").click()
    expect(page.get_by_text("Prediction for https://example.org/p.jpg")).to_be_visible()
    good, function.status = function.body, 404
    function.body = {"error": {"code": "no_such_poster", "message": "The poster's host has no such poster."}}
    page.get_by_label("or enter its address").fill("https://example.org/wrong.jpg")
    page.get_by_role("button", name="Predict genres").click()
    expect(page.get_by_role("alert")).to_contain_text("no such poster")
    expect(page.get_by_label("or enter its address")).to_have_value("https://example.org/wrong.jpg")
    function.status, function.body = 200, good
    page.get_by_role("button", name="Nakusa").click()
    expect(page.get_by_text("Prediction for Nakusa")).to_be_visible()
    switch = page.get_by_role("button", name="Show where the model sees Sci-Fi")
    switch.click()
    expect(page.locator("#heat")).to_be_visible()
    expect(switch).to_have_attribute("aria-pressed", "true")
    switch.click()
    expect(page.locator("#heat")).to_be_hidden()


def test_genres_are_still_there_after_the_way_back_without_javascript(
    opened: Callable[..., Page], poster: Path, function: Any
) -> None:
    page = opened(java_script_enabled=False)
    page.set_input_files("#poster", poster)
    page.get_by_role("button", name="Predict genres").click()
    expect(page.get_by_role("heading", name="Action, Sci-Fi")).to_be_visible()
    page.get_by_role("link", name="Model card and figures").click()
    expect(page.get_by_role("heading", name="Action, Sci-Fi")).to_have_count(0)
    page.go_back()
    expect(page.get_by_role("heading", name="Action, Sci-Fi")).to_be_visible()
    assert function.posters == [poster.read_bytes()]
