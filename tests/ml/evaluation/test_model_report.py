import re
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser

from ml.evaluation.baselines import every_genre
from ml.evaluation.model_report import ActivationExamples, Comparison, Leak, ModelFigures, ReportData, model_report
from ml.scores.calibration import calibrate
from ml.scores.intervals import Predictions, differences, intervals
from ml.scores.metrics import score, weighted_f1_by_threshold
from tests.browser import chromium_browser

GENRES = ("Action", "Comedy", "Sci-Fi", "Slice of Life")
SECTIONS = ["models", "differences", "leak", "genres", "curves", "calibration", "errors", "posters", "maps"]


class Page(HTMLParser):
    """Elements of a page as (tag, attributes), and the texts that stand in them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def data() -> ReportData:
    """A report with everything: 60 posters that are noise, in 30 franchises, over four genres."""
    generator = np.random.default_rng(0)
    labels = (generator.random((60, 4)) < [0.6, 0.4, 0.2, 0.1]).astype(np.uint8)
    labels[0] = [1, 0, 0, 0]
    franchises = np.array([f"series {number // 2}" for number in range(60)])
    answers = []
    for signal in (0.4, 0.1):
        probabilities = ((1 - signal) * generator.random((60, 4)) + signal * labels).astype(np.float32)
        probabilities[0] = [0.9, 0.1, 0.1, 0.1]
        answers.append(Predictions(probabilities, probabilities >= 0.5))
    models = [
        ModelFigures(
            name,
            score(it.probabilities, it.decisions, labels, GENRES),
            weighted_f1_by_threshold(it.probabilities, labels, 0.4, np.full(4, 0.5)),
            intervals(it, labels, franchises),
            calibrate(it.probabilities, labels).expected_error,
        )
        for name, it in zip(("transfer", "recipe"), answers, strict=True)
    ]
    posters = generator.integers(0, 256, (60, 3, 32, 32), dtype=np.uint8)
    return ReportData(
        title="Genres <from> posters",
        chosen="transfer",
        facts=(("posters", "60"), ("franchises", "30")),
        models=(*models, ModelFigures("every genre", every_genre(labels, GENRES))),
        comparisons=(Comparison("recipe", differences(*answers, labels, franchises)),),
        leaks=(Leak("transfer, weighted F1", 0.62, 0.48),),
        genres=GENRES,
        labels=labels,
        predictions=answers[0],
        titles=("The best of all", *(f"Title & <b>{number}</b>" for number in range(1, 60))),
        posters=posters,
        activations=ActivationExamples(
            ("Cowboy Bebop",), posters[:1], ("Action",), np.array([0.9], np.float32), np.eye(4, dtype=np.float32)[None]
        ),
    )


@pytest.fixture(scope="module")
def page(data: ReportData) -> str:
    return model_report(data)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium_browser() as running:
        yield running


def test_all_that_is_given_has_its_section_and_a_link_to_it(page: str) -> None:
    parsed = Page(page)
    assert [section["id"] for section in parsed.all("section")] == SECTIONS
    assert [link["href"] for link in parsed.all("a")] == [f"#{section}" for section in SECTIONS]


def test_the_figures_are_those_that_were_given(data: ReportData, page: str) -> None:
    chosen = data.models[0]
    assert chosen.intervals is not None
    assert chosen.by_threshold is not None
    shown = (
        chosen.scores.weighted_f1,
        chosen.scores.macro_f1,
        chosen.scores.mean_average_precision,
        chosen.by_threshold.at_common,
        chosen.calibration_error,
    )
    text = Page(page).text
    for figure in shown:
        assert f"{figure:.3f}" in text
    assert f"{chosen.intervals.weighted_f1.low:.3f}–{chosen.intervals.weighted_f1.high:.3f}" in text  # noqa: RUF001
    assert f"{data.comparisons[0].differences.weighted_f1.value:+.3f}" in text
    assert "+0.140" in text  # of the leak
    bars = re.findall(r'<th scope="row">([^<]+)</th><td>[\d.]+</td>\s*<td class="drawn">', page)
    assert bars == [genre.genre for genre in sorted(chosen.scores.genres, key=lambda genre: -genre.support)]


def test_the_page_loads_nothing_and_says_the_same_for_the_same_input(data: ReportData, page: str) -> None:
    parsed = Page(page)
    addresses = [image["src"] for image in parsed.all("img")] + [link["href"] for link in parsed.all("link")]
    assert all(address.startswith("data:") for address in addresses)
    assert not parsed.all("script")
    assert "http://" not in page
    assert "https://" not in page
    assert page == model_report(data)


def test_every_picture_and_every_curve_says_what_it_shows(page: str) -> None:
    parsed = Page(page)
    assert len(parsed.all("img")) == 2 * 12 + 2
    assert all(image["alt"].strip() for image in parsed.all("img"))
    assert len(parsed.all("svg")) == len(GENRES) + 1
    assert all(curve["aria-label"].strip() and curve["role"] == "img" for curve in parsed.all("svg"))
    assert all(region["aria-label"] for _, region in parsed.elements if region.get("role") == "region")


def test_the_best_poster_is_the_one_that_was_surely_right(page: str) -> None:
    posters = page[page.index("<h3>The best</h3>") : page.index("<h3>The worst</h3>")]
    first = posters.split("<li>")[1]
    assert "The best of all" in first
    assert 'class="found"' in first


def test_titles_are_text_and_never_markup(page: str) -> None:
    assert "<b>1" not in page
    assert "&lt;b&gt;" in page
    assert "Genres &lt;from&gt; posters" in page


@pytest.mark.parametrize(
    ("left_out", "missing"),
    [
        ({"comparisons": ()}, {"differences"}),
        ({"leaks": ()}, {"leak"}),
        ({"posters": None}, {"posters"}),
        ({"activations": None}, {"maps"}),
        ({"predictions": None}, {"curves", "calibration", "errors", "posters"}),
        ({"models": ()}, {"models", "genres"}),
    ],
)
def test_what_is_not_given_has_no_section(data: ReportData, left_out: dict[str, object], missing: set[str]) -> None:
    parsed = Page(model_report(replace(data, **left_out)))
    assert {section["id"] for section in parsed.all("section")} == set(SECTIONS) - missing


def test_a_title_alone_is_a_page(data: ReportData) -> None:
    parsed = Page(model_report(ReportData("Nothing yet")))
    assert not parsed.all("section")
    assert "Nothing yet" in parsed.text


def test_models_without_intervals_and_genres_without_posters_are_shown(data: ReportData) -> None:
    labels = np.zeros((2, 4), np.uint8)
    nothing = Predictions(np.full((2, 4), 0.1, np.float32), np.zeros((2, 4), bool))
    scores = score(nothing.probabilities, nothing.decisions, labels, GENRES)
    bare = replace(data, models=(ModelFigures("transfer", scores),), labels=labels, predictions=nothing)
    assert "transfer" in model_report(bare)


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_shows_it_without_a_request_or_a_complaint_and_nothing_sticks_out(
    page: str, browser: Browser, tmp_path: Path, width: int, scheme: str
) -> None:
    file = tmp_path / "report.html"
    file.write_text(page, encoding="utf-8")
    shown = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    requests: list[str] = []
    complaints: list[str] = []
    shown.on("request", lambda request: requests.append(request.url))
    shown.on("console", lambda message: complaints.append(message.text))
    shown.goto(file.as_uri())
    assert shown.evaluate("document.documentElement.scrollWidth") <= width
    assert [url for url in requests if not url.startswith("data:")] == [file.as_uri()]
    assert complaints == []
    shown.close()
