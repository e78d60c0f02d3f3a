"""The recent tries in a real browser: kept there and nowhere else, shown again without asking, and forgotten."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

DENIED = """Object.defineProperty(window, "localStorage", {
    get() { throw new DOMException("denied", "SecurityError"); }
});"""
FULL = """Storage.prototype.setItem = () => { throw new DOMException("full", "QuotaExceededError"); };"""


def ask_about(page: Page, sample: str) -> None:
    page.get_by_role("group", name="No poster at hand?").get_by_role("button", name=sample, exact=True).click()
    expect(page.get_by_text(f"Read from {sample}")).to_be_visible()


def test_a_try_is_kept_with_a_small_picture_its_genres_and_the_time(page: Page, poster: Path) -> None:
    expect(page.get_by_role("region", name="Recent tries")).to_be_hidden()
    page.set_input_files("#poster", poster)
    kept = page.locator("#tries-list button")
    expect(kept).to_have_count(1)
    expect(kept).to_contain_text("Action, Sci-Fi")
    expect(kept).to_contain_text("poster.jpg")
    expect(kept.locator("time")).to_have_text(re.compile(r"^\d{1,2} \w+, \d\d:\d\d$"))
    picture = kept.locator("img")
    assert picture.evaluate("image => Math.max(image.naturalWidth, image.naturalHeight)") == 240
    assert picture.get_attribute("src").startswith("data:image/jpeg;base64,")
    assert page.evaluate("JSON.stringify(localStorage).length") < 60_000
    assert page.context.cookies() == []


def test_a_try_is_shown_again_without_asking_even_after_a_reload(page: Page, poster: Path, function: Any) -> None:
    page.set_input_files("#poster", poster)
    expect(page.locator("#tries-list button")).to_have_count(1)
    page.reload()
    function.posters.clear()
    page.get_by_role("region", name="Recent tries").get_by_role("button", name="Action, Sci-Fi").click()
    expect(page.get_by_text("Read from poster.jpg")).to_be_visible()
    expect(page.get_by_role("img", name="The poster: poster.jpg")).to_be_visible()
    expect(page.locator(".where").first).to_be_hidden()  # the poster itself was not kept
    assert function.posters == []


def test_a_sample_that_is_shown_again_can_still_be_explained(page: Page, function: Any) -> None:
    ask_about(page, "Nakusa")
    page.reload()
    page.locator("#tries-list button").click()
    page.get_by_role("button", name="Show where Action shows").click()
    expect(page.locator("#heat")).to_be_visible()
    assert function.explained == [None, "1"]


def test_the_form_asks_about_the_sample_or_address_that_is_shown_again(page: Page, poster: Path, function: Any) -> None:
    kept = page.locator("#tries-list button")
    ask_about(page, "Nakusa")
    page.get_by_label("or give its address").fill("https://example.org/p.jpg")
    page.keyboard.press("Enter")
    expect(kept).to_have_count(2)
    page.set_input_files("#poster", poster)
    expect(kept).to_have_count(3)
    sample, address, _ = function.posters
    for name, asked in [("Nakusa", sample), ("https://example.org/p.jpg", address)]:
        function.posters.clear()
        kept.filter(has_text=name).click()
        expect(page.get_by_text(f"Read from {name}")).to_be_visible()
        expect(page.get_by_label("or give its address")).to_have_value(name if asked == address else "")
        page.get_by_role("button", name="Name its genres").click()
        expect(kept.first).to_contain_text(name)
        assert function.posters == [asked]
    expect(kept.filter(has_text="Nakusa").locator("img")).to_be_visible()


def test_after_a_file_that_is_shown_again_the_form_asks_for_a_poster(page: Page, poster: Path, function: Any) -> None:
    kept = page.locator("#tries-list button")
    page.set_input_files("#poster", poster)
    expect(kept).to_have_count(1)
    page.get_by_label("or give its address").fill("https://example.org/p.jpg")
    page.keyboard.press("Enter")
    expect(kept).to_have_count(2)
    function.posters.clear()
    kept.filter(has_text="poster.jpg").click()
    expect(page.get_by_text("Read from poster.jpg")).to_be_visible()
    expect(page.get_by_label("or give its address")).to_have_value("")
    with page.expect_file_chooser():
        page.get_by_role("button", name="Name its genres").click()
    expect(page.get_by_role("status")).to_have_text("Choose a poster first.")
    assert function.posters == []


def test_eight_are_kept_and_the_same_poster_once(page: Page, poster: Path) -> None:
    kept = page.locator("#tries-list button")
    for number in range(9):
        data = {"name": f"{number}.jpg", "mimeType": "image/jpeg", "buffer": poster.read_bytes()}
        page.set_input_files("#poster", data)
        expect(kept.first).to_contain_text(f"{number}.jpg")
    expect(kept).to_have_count(8)
    expect(kept.last).to_contain_text("1.jpg")
    page.set_input_files("#poster", {"name": "5.jpg", "mimeType": "image/jpeg", "buffer": poster.read_bytes()})
    expect(kept.first).to_contain_text("5.jpg")
    expect(kept).to_have_count(8)


def test_what_failed_and_what_cannot_be_shown_leave_no_picture(page: Page, function: Any) -> None:
    good = function.body
    function.status, function.body = 422, {"error": {"code": "unusable_image", "message": "The image is cut off."}}
    page.get_by_role("button", name="Nakusa").click()
    expect(page.get_by_role("alert")).to_be_visible()
    expect(page.locator("#tries")).to_be_hidden()
    function.status, function.body = 200, good
    page.get_by_label("or give its address").fill("https://example.org/p.jpg")
    page.keyboard.press("Enter")
    expect(page.locator("#tries-list button")).to_contain_text("no picture")


def test_forgetting_leaves_nothing(page: Page) -> None:
    ask_about(page, "Nakusa")
    page.get_by_role("button", name="Forget them").click()
    expect(page.locator("#tries")).to_be_hidden()
    expect(page.get_by_role("status")).to_have_text("Your recent tries are forgotten.")
    expect(page.locator("#poster")).to_be_focused()
    assert page.evaluate("localStorage.length") == 0
    page.reload()
    expect(page.locator("#tries")).to_be_hidden()


@pytest.mark.parametrize("script", [DENIED, FULL], ids=["denied", "full"])
def test_where_nothing_can_be_stored_tries_last_as_long_as_the_page(
    script: str, opened: Callable[..., Page], function: Any
) -> None:
    page = opened(script)
    for number, sample in enumerate(["Nakusa", "Niwahane's Mirror"], start=1):
        ask_about(page, sample)
        expect(page.locator("#tries-list button")).to_have_count(number)
    page.locator("#tries-list button").last.click()
    expect(page.get_by_text("Read from Nakusa")).to_be_visible()
    assert len(function.posters) == 2
    page.get_by_role("button", name="Forget them").click()
    expect(page.locator("#tries")).to_be_hidden()


def test_rubbish_in_the_storage_is_no_try(page: Page) -> None:
    for rubbish in ("no JSON", "7", "null", '[{"result": 1}, null]'):
        page.evaluate("rubbish => localStorage.setItem('anime-genre.tries.1', rubbish)", rubbish)
        page.reload()
        expect(page.locator("#tries")).to_be_hidden()
    ask_about(page, "Nakusa")
    expect(page.locator("#tries-list button")).to_have_count(1)


def test_another_tab_shows_what_was_asked_in_this_one(page: Page, page_url: str) -> None:
    other = page.context.new_page()
    other.goto(page_url)
    ask_about(page, "Nakusa")
    expect(other.locator("#tries-list button")).to_have_count(1)
    page.get_by_role("button", name="Forget them").click()
    expect(other.locator("#tries")).to_be_hidden()
