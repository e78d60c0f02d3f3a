import pytest

from serving.bundle.wording import counted


@pytest.mark.parametrize(
    ("count", "words"),
    [(0, "0 posters"), (1, "1 poster"), (2, "2 posters"), (11, "11 posters"), (1045, "1045 posters")],
)
def test_count_has_a_noun_in_its_number(count: int, words: str) -> None:
    assert counted(count, "poster") == words


def test_count_has_a_plural_of_its_own() -> None:
    assert [counted(count, "address", "addresses") for count in (1, 2)] == ["1 address", "2 addresses"]
