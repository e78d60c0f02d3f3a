"""Does the live model still work? It and its predecessors are scored on titles that came after their training.

Each week brings titles, and with them their genres. A title counts for a model if

- it is no title of the dataset that the model was trained on, whatever part it would have had,
- neither a relation, nor its name, nor its poster puts it into a franchise of the model's train or validation part, and
  it shares no rare word with a title of these parts (as in `ml.data.splits.without_suspects`),
- it first aired at least eight weeks before the catalogue was read, because genres of fresh titles are still edited. Of
  a date that is only a month or a year, the last day counts. A title without a date does not count.

No table says when a title was added, so the dataset that the model was trained on decides: it has all titles that could
be learned from at that time. A title that got its genres or its poster afterwards counts as added afterwards, because
the model has seen neither.

The result is in the model's record, `deployments/{bundle_sha256}.json`, under "later", with a hash of all that it was
computed from. A run that finds the same hash computes nothing.
"""

import calendar
import json
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import date, timedelta

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import TypeAdapter

from infra.errors import NotFound
from infra.registry import Registry
from infra.settings import Settings
from infra.store import Store
from ml.data.dataset import Dataset
from ml.data.decoding import PREPROCESSING_VERSION
from ml.data.splits import TEST, TRAIN, VALIDATION, franchises, join_franchises, without_suspects
from ml.evaluation.gate import shared_genres
from ml.evaluation.judge import genres_of, predict
from ml.evaluation.scoreboard import ENOUGH_TITLES, Scoreboard, score_later_titles
from ml.scores.intervals import Predictions
from serving.bundle.errors import BundleError
from serving.bundle.files import sha256_of
from serving.bundle.model import MANIFEST, Manifest, Model
from serving.bundle.wording import counted
from tasks.bundles import bundle_key, fetch_bundle
from tasks.catalogue.catalogue_table import ids_with_relations
from tasks.champion import Champion, has_other_decoder, version_name
from tasks.crawl.mirror import poster_key
from tasks.deployments import deployed_bundles, deployed_version, read_later, write_later
from tasks.preprocess import read_dataset_parts
from tasks.rollouts import read_rollouts, went_live

_RULES = 1  # version of the rules and figures: those of another version are computed again
_SETTLED = timedelta(weeks=8)
_PREDECESSORS = 3

logger = logging.getLogger("tasks")


@dataclass(frozen=True)
class LiveScore:
    """A model that is or was live, its scoreboard (None if it cannot be scored), and both in words."""

    name: str
    bundle_sha256: str
    scoreboard: Scoreboard | None
    sentence: str


def score_live_models(
    champion: Champion,
    data: Dataset,
    titles: pd.DataFrame,
    related: Mapping[str, Sequence[str]],
    today: date,
    store: Store,
    registry: Registry,
    settings: Settings,
) -> list[LiveScore]:
    """Score the champion, and after it its last predecessors, on later titles; add the result to their records.

    A model that cannot be scored has a sentence that says why. For `titles`, `related` and `today` see `later_titles`.

    Raises:
        OutdatedError: another process replaces a record meanwhile (retryable).
    """
    live = champion.bundle_sha256
    models = went_live(read_rollouts(store), sorted(deployed_bundles(store)))
    before = models[: models.index(live)] if live in models else models
    franchise_of = dict(zip(data.ids, data.franchises.tolist(), strict=True))
    scores = []
    for sha256 in (live, *reversed(before[-_PREDECESSORS:])):
        version = champion.version if sha256 == live else deployed_version(store, sha256)
        name, board = version_name(version, sha256), None
        try:
            manifest = Manifest.parse(store.read(f"{bundle_key(sha256)}/{MANIFEST}"))
            if not (parts := read_dataset_parts(store, manifest.dataset_key)):
                raise NotFound(f"The bucket has no dataset {manifest.dataset_key[:8]}.")
            later = later_titles(franchise_of, titles, related, parts, today)
            rows = np.flatnonzero(np.isin(data.ids, list(later)))
            board = _scoreboard(data, rows, titles, sha256, store, registry, settings)
        except (NotFound, BundleError) as error:
            sentence = f"{name} cannot be scored on later titles: {error.message}"
        else:
            said = board.overall.sentence if board.overall else f"{ENOUGH_TITLES} are needed to score it."
            sentence = f"{name}: {counted(board.titles, 'title')} came after its training. {said}"
        logger.info("%s", sentence[:1].upper() + sentence[1:])
        scores.append(LiveScore(name, sha256, board, sentence))
    return scores


def later_titles(
    dataset: Mapping[str, str],
    titles: pd.DataFrame,
    related: Mapping[str, Sequence[str]],
    parts: Mapping[str, tuple[str, str]],
    today: date,
) -> set[str]:
    """The ids of the titles that count for a model (see above).

    Args:
        dataset: franchise by id in today's dataset.
        titles: today's catalogue.
        related: the ids of related titles by id.
        parts: franchise and part by id in the dataset that the model was trained on.
        today: the day on which the catalogue was read.
    """
    aired = dict(zip(titles["id"], map(last_day, titles["start_date"]), strict=True))
    added = {id for id in dataset if id not in parts and _is_settled(aired[id], today)}
    if not added:
        return added
    title_of = dict(zip(titles["id"], titles["title"], strict=True))
    franchise_of, seen = _franchises(dataset, title_of, related, parts)
    trained = {id for id, (_, part) in parts.items() if part in (TRAIN, VALIDATION)}
    part_of = dict.fromkeys(trained & title_of.keys(), TRAIN)
    part_of |= {id: TEST for id in added if franchise_of[id] not in seen}
    known = ids_with_relations(titles)
    part_of = without_suspects(part_of, {id: title_of[id] for id in part_of}, franchise_of, known)
    return {id for id in added if part_of.get(id) == TEST}


def seen_titles(
    dataset: Mapping[str, str],
    titles: pd.DataFrame,
    related: Mapping[str, Sequence[str]],
    parts: Mapping[str, tuple[str, str]],
) -> set[str]:
    """The ids of today's dataset whose franchises a model was trained on, maybe on titles that are left out today.

    The arguments are those of `later_titles`.
    """
    title_of = dict(zip(titles["id"], titles["title"], strict=True))
    franchise_of, seen = _franchises(dataset, title_of, related, parts)
    return {id for id in dataset if franchise_of[id] in seen}


def _franchises(
    dataset: Mapping[str, str],
    title_of: Mapping[str, str],
    related: Mapping[str, Sequence[str]],
    parts: Mapping[str, tuple[str, str]],
) -> tuple[dict[str, str], set[str]]:
    """Today's franchise by id, and the franchises of a model's train and validation parts (see `later_titles`)."""
    gone = {id: franchise for id, (franchise, _) in parts.items() if id not in title_of}
    first: dict[str, str] = {}  # posters that look alike are in one franchise of the dataset
    alike = [(first.setdefault(franchise, id), id) for id, franchise in dataset.items()]
    franchise_of = join_franchises(gone | franchises(title_of, related), alike)
    return franchise_of, {franchise_of[id] for id, (_, part) in parts.items() if part in (TRAIN, VALIDATION)}


def last_day(partial: str) -> date | None:
    """The last day of an ISO date that may be a month or a year; None if it is no such date."""
    try:
        year, month, day = [*map(int, partial.split("-")), 0, 0][:3]
        month = month or 12
        return date(year, month, day or calendar.monthrange(year, month)[1])
    except ValueError:
        return None


def _is_settled(aired: date | None, today: date) -> bool:
    return aired is not None and aired + _SETTLED <= today


def _scoreboard(
    data: Dataset,
    rows: NDArray[np.int64],
    titles: pd.DataFrame,
    sha256: str,
    store: Store,
    registry: Registry,
    settings: Settings,
) -> Scoreboard:
    """The scoreboard of a model on these rows: that of its record if it is of the same titles, else a new one."""
    day_of = dict(zip(titles["id"], titles["start_date"], strict=True))
    aired = np.array([str(last_day(day_of[data.ids[row]])) for row in rows], np.str_)
    names = [sorted(genre.key for genre, has in zip(data.genres, data.labels[row], strict=True) if has) for row in rows]
    content = [
        [data.ids[row], data.sha256[row], str(data.franchises[row]), day, genres]
        for row, day, genres in zip(rows.tolist(), aired.tolist(), names, strict=True)
    ]
    known = [_RULES, PREPROCESSING_VERSION, sorted(genre.key for genre in data.genres), content]
    key = sha256_of(json.dumps(known).encode())
    stored = read_later(store, sha256)
    with suppress(ValueError, KeyError):  # a damaged one is computed again
        if stored.get("key") == key:
            return TypeAdapter(Scoreboard).validate_python(stored["scoreboard"])
    board = Scoreboard(len(rows), None)
    if len(rows) >= ENOUGH_TITLES:
        board = _predicted(Model.load(fetch_bundle(store, registry, settings.folder, sha256)), data, rows, aired, store)
    write_later(store, sha256, {"key": key, "scoreboard": asdict(board)})
    return board


def _predicted(
    model: Model, data: Dataset, rows: NDArray[np.int64], aired: NDArray[np.str_], store: Store
) -> Scoreboard:
    """The scoreboard of a model on these rows, over the genres that both it and the dataset know."""
    if has_other_decoder(model):
        raise BundleError("It was trained on posters that an earlier version of the decoder read.")
    shared = shared_genres(data.genres, genres_of(model))
    if not shared:
        raise BundleError("The dataset has none of its genres any more.")
    ours, theirs = map(list, zip(*shared, strict=True))
    probabilities, decisions = predict(model, data, lambda id: store.read(poster_key(id)), rows)
    predictions = Predictions(probabilities[:, theirs], decisions[:, theirs])
    return score_later_titles(predictions, data.labels[np.ix_(rows, ours)], data.franchises[rows], aired)
