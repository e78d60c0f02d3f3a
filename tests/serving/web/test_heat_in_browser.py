"""The heat map of a genre in a real browser: it is switched on and off over the poster, one at a time."""

import json
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect


def switch(page: Page, genre: str) -> Locator:
    return page.get_by_role("button", name=f"Show where {genre} shows")


@pytest.fixture
def answered(page: Page, poster: Path) -> Page:
    """The page with an uploaded poster's genres."""
    page.set_input_files("#poster", poster)
    expect(switch(page, "Action")).to_be_visible()
    return page


def test_pressing_the_switch_lays_the_map_over_the_whole_poster(answered: Page, poster: Path, function: Any) -> None:
    expect(answered.locator("#heat")).to_be_hidden()
    switch(answered, "Sci-Fi").click()
    expect(answered.get_by_role("img", name="Heat map: where the network sees Sci-Fi")).to_be_visible()
    expect(answered.locator("#caption")).to_have_text("The brighter, the more speaks for Sci-Fi.")
    expect(answered.get_by_role("status")).to_have_text("The heat map of Sci-Fi is on the poster.")
    assert function.explained == [None, "24"]
    assert function.posters == [poster.read_bytes()] * 2
    map_box, poster_box = (answered.locator(part).bounding_box() for part in ("#heat", "#preview"))
    assert map_box == pytest.approx(poster_box, abs=0.1)
    assert answered.locator("#heat").evaluate("image => image.naturalWidth") == 64


def test_one_map_is_on_at_a_time_and_pressing_again_turns_it_off(answered: Page, function: Any) -> None:
    pressed = answered.locator(".where[aria-pressed=true]")
    for genre in ("Action", "Sci-Fi"):
        switch(answered, genre).click()
        expect(pressed).to_have_attribute("data-genre", genre)
        expect(answered.get_by_role("img", name=f"the network sees {genre}")).to_be_visible()
    switch(answered, "Sci-Fi").click()
    expect(pressed).to_have_count(0)
    expect(answered.locator("#heat")).to_be_hidden()
    expect(answered.get_by_role("status")).to_have_text("The heat map of Sci-Fi is off.")
    switch(answered, "Action").click()
    expect(answered.locator("#heat")).to_be_visible()
    assert function.explained == [None, "1", "24"]  # a map that was seen is not asked for again


def test_the_next_poster_starts_without_a_map(answered: Page) -> None:
    switch(answered, "Action").click()
    expect(answered.locator("#heat")).to_be_visible()
    answered.get_by_role("button", name="Nakusa").click()
    expect(answered.get_by_text("Read from Nakusa")).to_be_visible()
    expect(answered.locator("#heat")).to_be_hidden()
    expect(answered.locator(".where[aria-pressed=true]")).to_have_count(0)


@pytest.mark.parametrize("way", ["sample", "address"])
def test_samples_and_addresses_have_maps_too(way: str, page: Page, function: Any) -> None:
    if way == "sample":
        page.get_by_role("button", name="Nakusa").click()
    else:
        page.get_by_label("or give its address").fill("https://example.org/p.jpg")
        page.keyboard.press("Enter")
    switch(page, "Adventure").click()
    expect(page.locator("#heat")).to_be_visible()
    assert function.explained == [None, "2"]
    assert function.posters[0] == function.posters[1]
    if way == "address":
        assert json.loads(function.posters[1]) == {"name": "https://example.org/p.jpg"}


def test_a_model_without_ids_is_asked_by_the_genre_s_name(page: Page, poster: Path, function: Any) -> None:
    function.body = {**function.body, "genres": [{**genre, "id": None} for genre in function.body["genres"]]}
    page.set_input_files("#poster", poster)
    switch(page, "Sci-Fi").click()
    expect(page.locator("#heat")).to_be_visible()
    assert function.explained == [None, "Sci-Fi"]


def test_a_model_that_does_not_explain_has_no_switches(page: Page, poster: Path, function: Any) -> None:
    function.body = {**function.body, "model": {**function.body["model"], "explains": False}}
    page.set_input_files("#poster", poster)
    expect(page.get_by_role("heading", name="Action, Sci-Fi")).to_be_visible()
    expect(page.locator(".where")).to_have_count(0)
    expect(page.locator("#caption")).to_have_text("")


def test_why_there_is_no_map_is_said_and_the_switch_is_off_again(answered: Page, function: Any) -> None:
    function.no_map_because = "Nothing in this poster speaks for Action."
    switch(answered, "Action").click()
    expect(answered.locator("#caption")).to_have_text("Nothing in this poster speaks for Action.")
    expect(switch(answered, "Action")).to_have_attribute("aria-pressed", "false")
    expect(answered.locator("#heat")).to_be_hidden()


def test_a_map_that_fails_says_why_and_leaves_the_answer(answered: Page, function: Any) -> None:
    good = function.body
    function.status = 503
    function.body = {"error": {"code": "bundle_error", "message": "The model is being changed; try again."}}
    switch(answered, "Action").click()
    expect(answered.locator("#caption")).to_have_text("The model is being changed; try again.")
    expect(answered.get_by_role("heading", name="Action, Sci-Fi")).to_be_visible()
    function.status, function.body = 200, good
    switch(answered, "Action").click()
    expect(answered.locator("#heat")).to_be_visible()


def test_while_a_map_is_slow_the_page_says_so(answered: Page, function: Any) -> None:
    answered.clock.install()
    function.seconds = 0.6
    switch(answered, "Action").click()
    expect(answered.get_by_role("status")).to_have_text("Looking for Action …")
    answered.clock.fast_forward(5000)
    expect(answered.locator("#caption")).to_contain_text("waking up")
    expect(answered.locator("#heat")).to_be_visible()


def test_on_a_phone_the_poster_stays_in_sight_of_the_switches(opened: Any, poster: Path) -> None:
    page = opened(viewport={"width": 360, "height": 640}, has_touch=True, is_mobile=True)
    page.set_input_files("#poster", poster)
    page.get_by_text("1 unlikely genre").click()
    switch(page, "Slice of Life").scroll_into_view_if_needed()
    switch(page, "Slice of Life").click()
    expect(page.locator("#heat")).to_be_in_viewport(ratio=1)
    expect(switch(page, "Slice of Life")).to_be_in_viewport(ratio=1)
