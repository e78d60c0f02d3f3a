"""The recent posters in a real browser: stored locally, shown without a request, and cleared."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

pytestmark = pytest.mark.browser
DENIED = """Object.defineProperty(window, "localStorage", {
    get() { throw new DOMException("denied", "SecurityError"); }
});"""
FULL = """Storage.prototype.setItem = () => { throw new DOMException("full", "QuotaExceededError"); };"""


def predict_sample(page: Page, sample: str) -> None:
    page.get_by_role("group", name="No poster at hand?").get_by_role("button", name=sample, exact=True).click()
    expect(page.get_by_text(f"Prediction for {sample}")).to_be_visible()


def test_recent_poster_has_a_thumbnail_its_genres_and_the_time(page: Page, poster: Path) -> None:
    expect(page.get_by_role("region", name="Recent posters")).to_be_hidden()
    page.set_input_files("#poster", poster)
    kept = page.locator("#recent-list button")
    expect(kept).to_have_count(1)
    expect(kept).to_contain_text("Action, Sci-Fi")
    expect(kept).to_contain_text("poster.jpg")
    expect(kept.locator("time")).to_have_text(re.compile(r"^\d{1,2} \w+, \d\d:\d\d$"))
    picture = kept.locator("img")
    assert picture.evaluate("image => Math.max(image.naturalWidth, image.naturalHeight)") == 240
    assert picture.get_attribute("src").startswith("data:image/jpeg;base64,")
    assert page.evaluate("JSON.stringify(localStorage).length") < 60_000
    assert page.context.cookies() == []


def test_recent_poster_is_shown_without_a_request_after_a_reload(page: Page, poster: Path, function: Any) -> None:
    page.set_input_files("#poster", poster)
    expect(page.locator("#recent-list button")).to_have_count(1)
    page.reload()
    function.posters.clear()
    page.get_by_role("region", name="Recent posters").get_by_role("button", name="Action, Sci-Fi").click()
    expect(page.get_by_text("Prediction for poster.jpg")).to_be_visible()
    expect(page.get_by_role("img", name="The poster: poster.jpg")).to_be_visible()
    expect(page.locator(".where").first).to_be_hidden()  # the poster itself was not kept
    assert function.posters == []


def test_recent_sample_can_still_be_explained(page: Page, function: Any) -> None:
    predict_sample(page, "Nakusa")
    page.reload()
    page.locator("#recent-list button").click()
    page.get_by_role("button", name="Show where the model sees Action").click()
    expect(page.locator("#heat")).to_be_visible()
    assert function.explained == [None, "1"]


def test_form_sends_the_recent_sample_or_address_that_is_shown(page: Page, poster: Path, function: Any) -> None:
    kept = page.locator("#recent-list button")
    predict_sample(page, "Nakusa")
    page.get_by_label("or enter its address").fill("https://example.org/p.jpg")
    page.keyboard.press("Enter")
    expect(kept).to_have_count(2)
    page.set_input_files("#poster", poster)
    expect(kept).to_have_count(3)
    sample, address, _ = function.posters
    for name, asked in [("Nakusa", sample), ("https://example.org/p.jpg", address)]:
        function.posters.clear()
        kept.filter(has_text=name).click()
        expect(page.get_by_text(f"Prediction for {name}")).to_be_visible()
        expect(page.get_by_label("or enter its address")).to_have_value(name if asked == address else "")
        page.get_by_role("button", name="Predict genres").click()
        expect(kept.first).to_contain_text(name)
        assert function.posters == [asked]
    expect(kept.filter(has_text="Nakusa").locator("img")).to_be_visible()


def test_form_asks_for_a_poster_after_a_recent_file(page: Page, poster: Path, function: Any) -> None:
    kept = page.locator("#recent-list button")
    page.set_input_files("#poster", poster)
    expect(kept).to_have_count(1)
    page.get_by_label("or enter its address").fill("https://example.org/p.jpg")
    page.keyboard.press("Enter")
    expect(kept).to_have_count(2)
    function.posters.clear()
    kept.filter(has_text="poster.jpg").click()
    expect(page.get_by_text("Prediction for poster.jpg")).to_be_visible()
    expect(page.get_by_label("or enter its address")).to_have_value("")
    with page.expect_file_chooser():
        page.get_by_role("button", name="Predict genres").click()
    expect(page.get_by_role("status")).to_have_text("Choose a poster first.")
    assert function.posters == []


def test_recent_posters_are_at_most_eight_and_distinct(page: Page, poster: Path) -> None:
    kept = page.locator("#recent-list button")
    for number in range(9):
        data = {"name": f"{number}.jpg", "mimeType": "image/jpeg", "buffer": poster.read_bytes()}
        page.set_input_files("#poster", data)
        expect(kept.first).to_contain_text(f"{number}.jpg")
    expect(kept).to_have_count(8)
    expect(kept.last).to_contain_text("1.jpg")
    page.set_input_files("#poster", {"name": "5.jpg", "mimeType": "image/jpeg", "buffer": poster.read_bytes()})
    expect(kept.first).to_contain_text("5.jpg")
    expect(kept).to_have_count(8)


def test_recent_posters_exclude_failures(page: Page, function: Any) -> None:
    good = function.body
    function.status, function.body = 422, {"error": {"code": "unusable_image", "message": "The image is cut off."}}
    page.get_by_role("button", name="Nakusa").click()
    expect(page.get_by_role("alert")).to_be_visible()
    expect(page.locator("#recent")).to_be_hidden()
    function.status, function.body = 200, good
    page.get_by_label("or enter its address").fill("https://example.org/p.jpg")
    page.keyboard.press("Enter")
    expect(page.locator("#recent-list button")).to_contain_text("no picture")


def test_clear_removes_everything(page: Page) -> None:
    predict_sample(page, "Nakusa")
    page.get_by_role("button", name="Clear").click()
    expect(page.locator("#recent")).to_be_hidden()
    expect(page.get_by_role("status")).to_have_text("Recent posters are cleared.")
    expect(page.locator("#poster")).to_be_focused()
    assert page.evaluate("localStorage.length") == 0
    page.reload()
    expect(page.locator("#recent")).to_be_hidden()


@pytest.mark.parametrize("script", [DENIED, FULL], ids=["denied", "full"])
def test_recent_posters_last_as_long_as_the_page_without_storage(
    script: str, opened: Callable[..., Page], function: Any
) -> None:
    page = opened(script)
    for number, sample in enumerate(["Nakusa", "Niwahane's Mirror"], start=1):
        predict_sample(page, sample)
        expect(page.locator("#recent-list button")).to_have_count(number)
    page.locator("#recent-list button").last.click()
    expect(page.get_by_text("Prediction for Nakusa")).to_be_visible()
    assert len(function.posters) == 2
    page.get_by_role("button", name="Clear").click()
    expect(page.locator("#recent")).to_be_hidden()


def test_invalid_storage_is_ignored(page: Page) -> None:
    for rubbish in ("no JSON", "7", "null", '[{"result": 1}, null]'):
        page.evaluate("rubbish => localStorage.setItem('anime-genre.tries.1', rubbish)", rubbish)
        page.reload()
        expect(page.locator("#recent")).to_be_hidden()
    predict_sample(page, "Nakusa")
    expect(page.locator("#recent-list button")).to_have_count(1)


def test_recent_posters_are_shared_between_tabs(page: Page, page_url: str) -> None:
    other = page.context.new_page()
    other.goto(page_url)
    predict_sample(page, "Nakusa")
    expect(other.locator("#recent-list button")).to_have_count(1)
    page.get_by_role("button", name="Clear").click()
    expect(other.locator("#recent")).to_be_hidden()
