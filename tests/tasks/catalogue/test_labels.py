from pathlib import Path

import pandas as pd
import pytest

from ml.errors import DatasetError, SettingError
from tasks.catalogue.catalogue_table import catalogue_of
from tasks.catalogue.configuration import DatasetConfig
from tasks.catalogue.titles import Title
from tasks.myanimelist.source import MyAnimeList
from tasks.preprocess import labelled_posters, usable_titles

pytestmark = pytest.mark.stack

CATALOGUE = catalogue_of(
    [
        Title("1", "Noir", genres=["Action"], genre_ids=[1], themes=["Gore", "New Theme"], demographics=["Seinen"]),
        Title("2", "Monster", genres=["Drama", "Suspense"], genre_ids=[8, 41], themes=["Psychological"]),
        Title("3", "Oreimo", genres=["Comedy"], genre_ids=[4]),
        Title("4", "Old", themes=["Demons"]),
        Title("5", "New", genres=["Comedy"], themes=["Mythology"]),
        Title("6", "Adult", genres=["Hentai"], genre_ids=[12], themes=["School"]),
    ]
)
POSTERS = pd.DataFrame({"id": list("123456"), "sha256": list("abcdef"), "status": "present"})


def labelled(*labels: str) -> tuple[dict[str, list[tuple[int | None, str]]], list[str]]:
    """Id and name of the labels of each usable title, by the title, and the sentences about the others."""
    titles, notices = usable_titles(CATALOGUE, POSTERS, MyAnimeList(), labels)
    posters = labelled_posters(titles, dict.fromkeys(titles["id"], ("", "")), Path())
    return {poster.title: [(genre.id, genre.name) for genre in poster.genres] for poster in posters}, notices


def test_labels_are_the_genres_by_default() -> None:
    genres = {
        "Noir": [(1, "Action")],
        "Monster": [(8, "Drama"), (41, "Suspense")],
        "Oreimo": [(4, "Comedy")],
        "New": [(None, "Comedy")],
    }
    assert labelled(*DatasetConfig().labels) == (genres, [])


def test_labels_of_themes_have_the_ids_of_the_site() -> None:
    themes = {
        "Noir": [(58, "Gore"), (None, "New Theme")],
        "Monster": [(40, "Psychological")],
        "Old": [(6, "Demons")],
        "New": [(6, "Mythology")],
    }
    assert labelled("themes") == (themes, ["Left out, because their themes are unknown: 1 of 5 titles."])


def test_labels_of_several_kinds_need_all_of_them() -> None:
    both = {
        "Noir": [(1, "Action"), (58, "Gore"), (None, "New Theme")],
        "Monster": [(8, "Drama"), (41, "Suspense"), (40, "Psychological")],
        "New": [(None, "Comedy"), (6, "Mythology")],
    }
    notices = [f"Left out, because their {name} are unknown: 1 of 5 titles." for name in ("genres", "themes")]
    assert labelled("themes", "genres") == (both, notices)


def test_labels_that_most_titles_lack_are_named_unfit() -> None:
    with pytest.raises(DatasetError, match=r"The labels 'demographics' are unfit, because 4 of 5 titles have none\."):
        labelled("genres", "demographics")


def test_labels_must_be_known() -> None:
    with pytest.raises(SettingError, match="Unknown labels 'tags'; choose from genres, themes, demographics"):
        DatasetConfig(labels=("genres", "tags"))  # type: ignore[arg-type]
