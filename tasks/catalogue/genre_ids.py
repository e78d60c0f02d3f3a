"""Gives genres that have only names the ids that a collection knows them by."""

from collections.abc import Iterable, Mapping

import pandas as pd

from tasks.catalogue.catalogue_table import LIST_SEPARATOR, items


def known_genre_ids(catalogues: Iterable[pd.DataFrame]) -> dict[str, str]:
    """The id of each genre in these catalogues, by its name without case."""
    ids: dict[str, str] = {}
    for catalogue in catalogues:
        for names, numbers in catalogue[["genres", "genre_ids"]].drop_duplicates().itertuples(index=False):
            if numbers:
                for name, number in zip(items(names), items(numbers), strict=True):
                    if number:
                        ids.setdefault(name.casefold(), number)
    return ids


def with_genre_ids(catalogue: pd.DataFrame, ids: Mapping[str, str]) -> pd.DataFrame:
    """The catalogue, in which genres without ids have those of `ids`, by name without case."""

    def found(names: str, numbers: str) -> str:
        given = items(numbers) or [""] * len(items(names))
        completed = [own or ids.get(name.casefold(), "") for own, name in zip(given, items(names), strict=True)]
        return LIST_SEPARATOR.join(completed) if any(completed) else ""

    pairs = zip(catalogue["genres"], catalogue["genre_ids"], strict=True)
    return catalogue.assign(genre_ids=[found(names, numbers) for names, numbers in pairs])
