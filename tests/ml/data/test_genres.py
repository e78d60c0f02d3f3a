import pytest

from ml.configuration import PreprocessConfig
from ml.data.genres import Genre, choose_genres, multi_hot
from ml.errors import DatasetError

ACTION, COMEDY, DRAMA = Genre(1, "Action"), Genre(4, "Comedy"), Genre(8, "Drama")
PARTS = ["train", "train", "validation", "test"]
CONFIG = PreprocessConfig(min_posters=4, min_posters_per_part=1)


def test_choose_genres_leaves_out_a_genre_with_too_few_posters() -> None:
    choice = choose_genres(
        [(ACTION, COMEDY), (ACTION, COMEDY), (ACTION, COMEDY, DRAMA), (ACTION, COMEDY)], PARTS, CONFIG
    )
    assert choice.learned == (ACTION, COMEDY)
    (left_out,) = choice.left_out
    assert (left_out.genre, left_out.posters) == (DRAMA, 1)
    assert left_out.reason == "1 posters, 4 are needed"  # as in stored datasets
    assert left_out.sentence == "1 poster, 4 are needed"


def test_choose_genres_names_the_part_that_has_too_few_posters() -> None:
    genres = [(ACTION, COMEDY, DRAMA)] * 5 + [(ACTION, COMEDY)]
    choice = choose_genres(genres, ["train", "train", "train", "train", "validation", "test"], CONFIG)
    assert [genre.reason for genre in choice.left_out] == ["0 posters in the test part, 1 are needed"]
    assert [genre.sentence for genre in choice.left_out] == ["0 posters in the test part, 1 is needed"]


def test_choose_genres_raises_if_fewer_than_two_genres_remain() -> None:
    with pytest.raises(
        DatasetError, match=r"Of the genres of 4 posters, 1 can be learned.*\nComedy: 1 poster, 4 are needed"
    ):
        choose_genres([(ACTION,), (ACTION,), (ACTION, COMEDY), (ACTION,)], PARTS, CONFIG)


def test_genre_key_is_the_id_or_the_name_if_there_is_no_id() -> None:
    assert Genre(41, "Thriller").key == Genre(41, "Suspense").key
    assert Genre(None, "Thriller").key != Genre(None, "Suspense").key


def test_multi_hot_ignores_genres_that_are_not_learned() -> None:
    labels = multi_hot([(COMEDY,), (ACTION, DRAMA), (DRAMA,)], (ACTION, COMEDY))
    assert labels.tolist() == [[0, 1], [1, 0], [0, 0]]


def test_choose_genres_counts_a_repeated_genre_of_a_poster_once() -> None:
    genres = [(ACTION, ACTION, COMEDY), (ACTION, COMEDY), (ACTION, COMEDY), (COMEDY,)]
    with pytest.raises(DatasetError, match="Action: 3 posters, 4 are needed"):
        choose_genres(genres, PARTS, CONFIG)
