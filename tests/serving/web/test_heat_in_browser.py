"""The heat map of a genre in a real browser."""

import json
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect

pytestmark = pytest.mark.browser


def switch(page: Page, genre: str) -> Locator:
    return page.get_by_role("button", name=f"Show where the model sees {genre}")


@pytest.fixture
def predicted(page: Page, poster: Path) -> Page:
    """The page with an uploaded poster's genres."""
    page.set_input_files("#poster", poster)
    expect(switch(page, "Action")).to_be_visible()
    return page


def test_heat_map_covers_the_whole_poster(predicted: Page, poster: Path, function: Any) -> None:
    expect(predicted.locator("#heat")).to_be_hidden()
    switch(predicted, "Sci-Fi").click()
    expect(predicted.get_by_role("img", name="Heat map for Sci-Fi")).to_be_visible()
    expect(predicted.locator("#caption")).to_have_text("Brighter areas support Sci-Fi more.")
    expect(predicted.get_by_role("status")).to_have_text("The heat map for Sci-Fi is shown.")
    assert function.explained == [None, "24"]
    assert function.posters == [poster.read_bytes()] * 2
    map_box, poster_box = (predicted.locator(part).bounding_box() for part in ("#heat", "#preview"))
    assert map_box == pytest.approx(poster_box, abs=0.1)
    assert predicted.locator("#heat").evaluate("image => image.naturalWidth") == 64


def test_heat_map_is_shown_one_at_a_time_and_switched_off(predicted: Page, function: Any) -> None:
    pressed = predicted.locator(".where[aria-pressed=true]")
    for genre in ("Action", "Sci-Fi"):
        switch(predicted, genre).click()
        expect(pressed).to_have_attribute("data-genre", genre)
        expect(predicted.get_by_role("img", name=f"Heat map for {genre}")).to_be_visible()
    switch(predicted, "Sci-Fi").click()
    expect(pressed).to_have_count(0)
    expect(predicted.locator("#heat")).to_be_hidden()
    expect(predicted.get_by_role("status")).to_have_text("The heat map for Sci-Fi is hidden.")
    switch(predicted, "Action").click()
    expect(predicted.locator("#heat")).to_be_visible()
    assert function.explained == [None, "1", "24"]  # a map is requested once


def test_heat_map_is_hidden_for_the_next_poster(predicted: Page) -> None:
    switch(predicted, "Action").click()
    expect(predicted.locator("#heat")).to_be_visible()
    predicted.get_by_role("button", name="Nakusa").click()
    expect(predicted.get_by_text("Prediction for Nakusa")).to_be_visible()
    expect(predicted.locator("#heat")).to_be_hidden()
    expect(predicted.locator(".where[aria-pressed=true]")).to_have_count(0)


@pytest.mark.parametrize("way", ["sample", "address"])
def test_heat_map_works_for_samples_and_addresses(way: str, page: Page, function: Any) -> None:
    if way == "sample":
        page.get_by_role("button", name="Nakusa").click()
    else:
        page.get_by_label("or enter its address").fill("https://example.org/p.jpg")
        page.keyboard.press("Enter")
    switch(page, "Adventure").click()
    expect(page.locator("#heat")).to_be_visible()
    assert function.explained == [None, "2"]
    assert function.posters[0] == function.posters[1]
    if way == "address":
        assert json.loads(function.posters[1]) == {"name": "https://example.org/p.jpg"}
        expect(page.get_by_role("img", name="The poster: https://example.org/p.jpg")).to_be_visible()
        assert page.locator("#heat").bounding_box() == pytest.approx(page.locator("#preview").bounding_box(), abs=0.1)


def test_heat_map_of_an_old_function_has_no_poster_under_it(page: Page, function: Any) -> None:
    function.is_old = True
    page.get_by_label("or enter its address").fill("posters/5.jpg")
    page.keyboard.press("Enter")
    switch(page, "Adventure").click()
    expect(page.locator("#heat")).to_be_visible()
    expect(page.locator("#preview")).to_be_hidden()


def test_heat_map_is_requested_by_name_if_the_model_has_no_ids(page: Page, poster: Path, function: Any) -> None:
    function.body = {**function.body, "genres": [{**genre, "id": None} for genre in function.body["genres"]]}
    page.set_input_files("#poster", poster)
    switch(page, "Sci-Fi").click()
    expect(page.locator("#heat")).to_be_visible()
    assert function.explained == [None, "Sci-Fi"]


def test_switch_is_missing_if_the_model_does_not_explain(page: Page, poster: Path, function: Any) -> None:
    function.body = {**function.body, "model": {**function.body["model"], "explains": False}}
    page.set_input_files("#poster", poster)
    expect(page.get_by_role("heading", name="Action, Sci-Fi")).to_be_visible()
    expect(page.locator(".where")).to_have_count(0)
    expect(page.locator("#caption")).to_have_text("")


def test_heat_map_reason_is_shown_and_the_switch_is_off(predicted: Page, function: Any) -> None:
    function.no_map_because = "Nothing in this poster speaks for Action."
    switch(predicted, "Action").click()
    expect(predicted.locator("#caption")).to_have_text("Nothing in this poster speaks for Action.")
    expect(switch(predicted, "Action")).to_have_attribute("aria-pressed", "false")
    expect(predicted.locator("#heat")).to_be_hidden()


def test_heat_map_failure_is_explained_and_keeps_the_genres(predicted: Page, function: Any) -> None:
    good = function.body
    function.status = 503
    function.body = {"error": {"code": "bundle_error", "message": "The model is being changed; try again."}}
    switch(predicted, "Action").click()
    expect(predicted.locator("#caption")).to_have_text("The model is being changed; try again.")
    expect(predicted.get_by_role("heading", name="Action, Sci-Fi")).to_be_visible()
    function.status, function.body = 200, good
    switch(predicted, "Action").click()
    expect(predicted.locator("#heat")).to_be_visible()


def test_heat_map_wait_is_explained(predicted: Page, function: Any) -> None:
    predicted.clock.install()
    function.answers.clear()
    switch(predicted, "Action").click()
    expect(predicted.get_by_role("status")).to_have_text("Loading the heat map for Action …")
    predicted.clock.fast_forward(5000)
    expect(predicted.locator("#caption")).to_contain_text("starting up")
    function.answers.set()
    expect(predicted.locator("#heat")).to_be_visible()


def test_poster_stays_visible_beside_the_switches_on_a_phone(opened: Any, poster: Path) -> None:
    page = opened(viewport={"width": 360, "height": 640}, has_touch=True, is_mobile=True)
    page.set_input_files("#poster", poster)
    page.get_by_text("1 more genre, far below its threshold").click()
    switch(page, "Slice of Life").scroll_into_view_if_needed()
    switch(page, "Slice of Life").click()
    expect(page.locator("#heat")).to_be_in_viewport(ratio=1)
    expect(switch(page, "Slice of Life")).to_be_in_viewport(ratio=1)
