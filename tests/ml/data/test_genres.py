import pytest

from ml.configuration import PreprocessConfig
from ml.data.genres import Genre, choose_genres, multi_hot
from ml.errors import DatasetError

ACTION, COMEDY, DRAMA = Genre(1, "Action"), Genre(4, "Comedy"), Genre(8, "Drama")
PARTS = ["train", "train", "validation", "test"]
CONFIG = PreprocessConfig(min_posters=4, min_posters_per_part=1)


def test_a_genre_with_too_few_posters_is_left_out_with_its_count() -> None:
    choice = choose_genres(
        [(ACTION, COMEDY), (ACTION, COMEDY), (ACTION, COMEDY, DRAMA), (ACTION, COMEDY)], PARTS, CONFIG
    )
    assert choice.learned == (ACTION, COMEDY)
    (lacking,) = choice.left_out
    assert (lacking.genre, lacking.posters) == (DRAMA, 1)
    assert lacking.reason == "1 posters, 4 are needed"


def test_a_genre_missing_in_one_part_is_left_out_naming_the_part() -> None:
    genres = [(ACTION, COMEDY, DRAMA)] * 5 + [(ACTION, COMEDY)]
    choice = choose_genres(genres, ["train", "train", "train", "train", "validation", "test"], CONFIG)
    assert [lacking.reason for lacking in choice.left_out] == ["0 posters in the test part, 1 are needed"]


def test_fewer_than_two_genres_is_an_error_with_counts() -> None:
    with pytest.raises(
        DatasetError, match=r"Of the genres of 4 posters, 1 can be learned.*Comedy: 1 posters, 4 are needed"
    ):
        choose_genres([(ACTION,), (ACTION,), (ACTION, COMEDY), (ACTION,)], PARTS, CONFIG)


def test_genres_are_keyed_by_id_and_by_name_where_there_is_none() -> None:
    assert Genre(41, "Thriller").key == Genre(41, "Suspense").key
    assert Genre(None, "Thriller").key != Genre(None, "Suspense").key


def test_labels_mark_the_genres_and_pass_over_those_left_out() -> None:
    labels = multi_hot([(COMEDY,), (ACTION, DRAMA), (DRAMA,)], (ACTION, COMEDY))
    assert labels.tolist() == [[0, 1], [1, 0], [0, 0]]


def test_a_genre_named_twice_for_a_poster_counts_once() -> None:
    genres = [(ACTION, ACTION, COMEDY), (ACTION, COMEDY), (ACTION, COMEDY), (COMEDY,)]
    with pytest.raises(DatasetError, match="Action: 3 posters, 4 are needed"):
        choose_genres(genres, PARTS, CONFIG)
