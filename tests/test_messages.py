"""The check of error messages finds unsuitable ones, and every error of the project survives a pickle."""

import pickle

import pytest

from serving.bundle.errors import AnimeGenreError
from serving.function.errors import RequestError
from tasks.errors import SiteUnavailable
from tests.messages import count_sentences, faults_of_message


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("The file a.b/manifest.json of version 1.2.3 has 4.5 MB.", 1),
        ("The page of https://example.org/a.html?b=c. is missing. Run it again.", 3),
        ("The title 'Dr. Stone. New World. Part 2' has no genres. Its page's end is missing. Load it again.", 3),
        ("The titles' cards (e.g. the first, i.e. 5) are unread. Has the site changed?", 2),
        ("It took 5 s. (See the log.) posters/5.jpg is missing! Stop", 3),
    ],
)
def test_sentence_count_ignores_dots_inside_names_and_quotes(text: str, sentences: int) -> None:
    assert count_sentences(text) == sentences


@pytest.mark.parametrize(
    ("message", "fault"),
    [
        ("Fine. Run it again.", None),
        (f"{'long ' * 60}.", "has 301 characters"),
        ("One. Two. Three.", "has 3 sentences"),
        ("a 1\nb 2.", "has several lines"),
        ("the disk is full", "does not end like a sentence"),
        ("", "does not end like a sentence"),
    ],
)
def test_created_error_is_recorded_with_its_faults(
    error_messages: list[tuple[str, str]], message: str, fault: str | None
) -> None:
    RequestError(400, "bad_request", message)
    assert error_messages == [("RequestError", message)]
    assert faults_of_message(message) == ([fault] if fault else [])
    error_messages.clear()  # else this test fails as it should


def test_error_prints_its_details_below_the_message() -> None:
    assert str(AnimeGenreError("Two rows differ.", details="row 1\nrow 2")) == "Two rows differ.\nrow 1\nrow 2"
    assert str(AnimeGenreError("Two rows differ.")) == "Two rows differ."


@pytest.mark.parametrize(
    "error",
    [
        AnimeGenreError("Two rows differ.", "row 1"),
        RequestError(404, "no_such_page", "There is nothing."),
        SiteUnavailable("The request timed out.", "timeout", retry_after_seconds=3),
    ],
)
def test_error_survives_a_pickle(error: AnimeGenreError) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), vars(copy)) == (type(error), str(error), vars(error))
