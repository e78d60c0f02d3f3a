"""Labels of titles: the catalogue's genres, themes, demographics, or several of them."""

from collections.abc import Collection, Mapping
from typing import Any

import pandas as pd

from ml.errors import DatasetError
from serving.bundle.wording import counted
from tasks.catalogue.catalogue_table import LIST_SEPARATOR, items
from tasks.catalogue.configuration import GENRES, LABELS


def with_labels(
    titles: pd.DataFrame, labels: Collection[str], id_of: Mapping[str, int]
) -> tuple[pd.DataFrame, list[str]]:
    """The titles with these labels in the columns `genres` and `genre_ids`, and sentences about titles without them.

    A title without themes has unknown themes, not none. So a title is labelled only if it has labels of each chosen
    list. Ids of themes and demographics are in `id_of`, by name; others have none.

    Raises:
        DatasetError: most titles have no label of a list.
    """
    chosen = [name for name in LABELS if name in labels]
    if chosen == [GENRES]:
        return titles, []
    notices = []
    for name in chosen:
        without = int((titles[name] == "").sum())
        count = f"{without} of {counted(len(titles), 'title')}"
        if 2 * without > len(titles):
            raise DatasetError(f"The labels '{name}' are unfit, because {count} have none. Choose other labels.")
        if without:
            notices.append(f"Left out, because their {name} are unknown: {count}.")

    def cells(title: Any) -> tuple[str, str]:
        names: list[str] = []
        ids: list[str] = []
        for name in chosen:
            names_here = items(getattr(title, name))
            if not names_here:
                return "", ""
            names += names_here
            ids_here = items(title.genre_ids) if name == GENRES else [str(id_of.get(each, "")) for each in names_here]
            ids += ids_here or [""] * len(names_here)
        return LIST_SEPARATOR.join(names), LIST_SEPARATOR.join(ids)

    rows = [cells(title) for title in titles.itertuples()]
    return titles.assign(genres=[names for names, _ in rows], genre_ids=[ids for _, ids in rows]), notices
