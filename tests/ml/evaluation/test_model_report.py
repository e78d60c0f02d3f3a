import re
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser

from ml.data.dataset import Dataset
from ml.evaluation.baselines import baselines
from ml.evaluation.judge import Evaluation, model_figures, paired_differences
from ml.evaluation.leaks import Leak
from ml.evaluation.model_report import model_report
from ml.evaluation.predictions import ActivationExamples, NetworkPredictions, PredictionSet
from ml.evaluation.scoreboard import Scoreboard, score_later_titles
from ml.scores.intervals import Predictions
from tests.browser import chromium_browser

pytestmark = pytest.mark.train

SECTIONS = ["models", "differences", "leaks", "genres", "curves", "calibration", "later", "errors", "posters", "maps"]


class Page(HTMLParser):
    """The elements of a page as (tag, attributes), and its text."""

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
def titled(dataset: Dataset) -> Dataset:
    """The dataset with titles that need escaping."""
    titles = tuple(f"Title & <b>{row}</b>" for row in range(len(dataset.ids)))
    return replace(dataset, titles=titles)


@pytest.fixture(scope="module")
def predictions(titled: Dataset) -> PredictionSet:
    """Random predictions of two networks, the first one better. It predicts the first test poster perfectly."""
    generator = np.random.default_rng(0)
    rows = titled.rows("test")
    labels = titled.labels[rows]
    networks = []
    for name, signal in (("frozen", 0.4), ("recipe", 0.1)):
        probabilities = ((1 - signal) * generator.random(labels.shape) + signal * labels).astype(np.float32)
        probabilities[0] = 0.02 + 0.96 * labels[0]
        networks.append(NetworkPredictions(name, probabilities, np.full(labels.shape[1], 0.5), 0.4))
    examples = ActivationExamples(
        rows[:1], np.zeros(1, np.int64), np.array([0.9], np.float32), np.eye(4, dtype=np.float32)[None]
    )
    return PredictionSet(tuple(networks), examples, (Leak("colours alone: mAP", 0.62, 0.48),))


@pytest.fixture(scope="module")
def evaluation(predictions: PredictionSet, titled: Dataset) -> Evaluation:
    rows = titled.rows("test")
    networks = tuple(model_figures(network, titled, rows) for network in predictions.networks)
    return Evaluation(networks, baselines(titled).scores, paired_differences(networks, titled, rows), {}, 0.0)


@pytest.fixture(scope="module")
def later() -> dict[str, Scoreboard]:
    """A live model with three quarters of later titles, and its predecessor, which has too few."""
    generator = np.random.default_rng(0)
    probabilities = generator.random((120, 3)).astype(np.float32)
    labels = (generator.random((120, 3)) < probabilities).astype(np.uint8)
    aired = np.repeat(["2026-01-05", "2026-04-12", "2026-05-01", "2026-07-01"], [40, 39, 1, 40])
    predictions = Predictions(probabilities, probabilities > 0.4)
    board = score_later_titles(predictions, labels, np.arange(120).astype(np.str_), aired)
    return {"version 4 (5f1a2623)": board, "version 3 (0b7c11aa)": Scoreboard(12, None)}


@pytest.fixture(scope="module")
def page(evaluation: Evaluation, predictions: PredictionSet, titled: Dataset, later: dict[str, Scoreboard]) -> str:
    return model_report(evaluation, predictions, titled, later=later)


def test_model_report_shows_how_live_models_do_on_later_titles(page: str, later: dict[str, Scoreboard]) -> None:
    section = page[page.index('<section id="later">') : page.index('<section id="errors">')]
    text = " ".join(Page(section).text.split())
    assert "12 such titles so far; 30 are needed." in text
    board = later["version 4 (5f1a2623)"]
    for period, name in zip(
        (*board.periods, board.overall), ("2026-01", "2026-04 to 2026-05", "2026-07", "all"), strict=True
    ):
        assert f"{name} {period.titles} {period.micro_f1:.3f} {period.promised_micro_f1:.3f} ".replace(" ", "") in (
            text.replace(" ", "")
        )
    assert section.count("<circle") == 3 and 'class="base" d="M0.000' in section


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium_browser() as running:
        yield running


def test_model_report_links_to_each_section(page: str) -> None:
    parsed = Page(page)
    assert [section["id"] for section in parsed.all("section")] == SECTIONS
    assert [link["href"] for link in parsed.all("a")] == [f"#{section}" for section in SECTIONS]


def test_model_report_shows_the_figures_of_the_evaluation(page: str, evaluation: Evaluation) -> None:
    chosen, text = evaluation.chosen, Page(page).text
    for figure in (
        *chosen.scores.scalars().values(),
        chosen.by_threshold.at_common,
        chosen.calibration_error,
        chosen.brier_skill,
    ):
        assert f"{figure:.3f}" in text
    calibration = page[page.index('aria-label="Calibration per genre"') :]
    for genre in chosen.genre_calibration:
        figures = (genre.base_rate, genre.mean_probability, genre.observed_share, genre.calibration_error)
        cells = "".join(f"<td>{figure:.3f}</td>" for figure in (*figures, genre.brier_skill))
        assert f'<th scope="row">{genre.genre}</th>{cells}' in calibration
    assert f"{chosen.intervals.weighted_f1.low:.3f}–{chosen.intervals.weighted_f1.high:.3f}" in text  # noqa: RUF001
    assert f"{evaluation.differences['recipe'].weighted_f1.value:+.3f}" in text
    assert "+0.140" in text  # the leak
    bars = re.findall(r'<th scope="row">([^<]+)</th><td>[\d.]+</td>\s*<td class="drawn">', page)
    assert bars == [genre.genre for genre in sorted(chosen.scores.genres, key=lambda genre: -genre.support)]


def test_model_report_loads_nothing_and_is_reproducible(
    page: str, evaluation: Evaluation, predictions: PredictionSet, titled: Dataset, later: dict[str, Scoreboard]
) -> None:
    parsed = Page(page)
    addresses = [image["src"] for image in parsed.all("img")] + [link["href"] for link in parsed.all("link")]
    assert all(address.startswith("data:") for address in addresses)
    assert not parsed.all("script")
    assert "http://" not in page
    assert "https://" not in page
    assert page == model_report(evaluation, predictions, titled, later=later)


def test_model_report_describes_pictures_and_curves(page: str, titled: Dataset) -> None:
    parsed = Page(page)
    shown = 2 * min(12, len(titled.rows("test")) // 2)
    assert len(parsed.all("img")) == shown + 3
    assert [image["alt"] for image in parsed.all("img")].count("") == 1  # the grey copy below an activation map
    assert len(parsed.all("svg")) == len(titled.genres) + 2
    assert all(curve["aria-label"].strip() and curve["role"] == "img" for curve in parsed.all("svg"))
    assert all(region["aria-label"] for _, region in parsed.elements if region.get("role") == "region")


def test_model_report_lists_the_most_confident_correct_poster_first(page: str, titled: Dataset) -> None:
    posters = page[page.index("<h3>Best predictions</h3>") : page.index("<h3>Worst predictions</h3>")]
    first = posters.split("<li>")[1]
    assert f"&lt;b&gt;{titled.rows('test')[0]}&lt;/b&gt;" in first
    assert 'class="found"' in first and 'class="wrong"' not in first


def test_model_report_escapes_titles(page: str) -> None:
    assert "<b>1" not in page
    assert "Title &amp; &lt;b&gt;" in page


def test_model_report_omits_sections_without_content(
    evaluation: Evaluation, predictions: PredictionSet, titled: Dataset
) -> None:
    nothing = np.zeros(0, np.int64)
    empty = ActivationExamples(nothing, nothing, np.zeros(0, np.float32), np.zeros((0, 1, 1), np.float32))
    page = model_report(evaluation, predictions, replace(titled, suspects=1234), notices=["7 relations are unknown."])
    assert "1,234 possible siblings" in page and "<p>7 relations are unknown.</p>" in page
    page = model_report(replace(evaluation, differences={}), replace(predictions, leaks=(), activations=empty), titled)
    expected = [section for section in SECTIONS if section not in ("differences", "leaks", "later", "maps")]
    assert [section["id"] for section in Page(page).all("section")] == expected


@pytest.mark.browser
@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (1280, "dark")])
def test_model_report_fits_the_browser_window_without_requests_or_warnings(
    page: str, browser: Browser, tmp_path: Path, width: int, scheme: str
) -> None:
    file = tmp_path / "report.html"
    file.write_text(page, encoding="utf-8")
    shown = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    requests: list[str] = []
    messages: list[str] = []
    shown.on("request", lambda request: requests.append(request.url))
    shown.on("console", lambda message: messages.append(message.text))
    shown.goto(file.as_uri())
    assert shown.evaluate("document.documentElement.scrollWidth") <= width
    assert [url for url in requests if not url.startswith("data:")] == [file.as_uri()]
    assert messages == []
    shown.close()


def test_model_report_counts_titles_that_are_left_out_and_names_broken_posters(
    evaluation: Evaluation, predictions: PredictionSet, titled: Dataset
) -> None:
    broken = {f"id {number}": "The image is <b>damaged</b>." for number in range(25)}
    page = Page(model_report(evaluation, predictions, replace(titled, broken=broken), {"no file named": 1234}))
    assert [section["id"] for section in page.all("section")] == [
        *(section for section in SECTIONS if section != "later"),
        "left-out",
    ]
    assert "no file named1,234" in page.text
    assert "25 posters could not be decoded; the first 20:" in page.text
    assert "id 19: The image is <b>damaged</b>." in page.text
    assert "id 20" not in page.text
