"""The command `monitor`: what the function was asked, and whether its predictions have shifted.

It reads the lines that `serving/function/request_log.py` writes.
"""

import gzip
import io
import json
import re
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from infra.errors import ConfigurationError, NotFound
from infra.settings import Settings
from infra.store import Store
from ml.scores.shift import LEVEL, MATERIAL, shift
from serving.bundle.model import MANIFEST, Manifest
from serving.bundle.wording import counted
from tasks.records import TrainingRecord

_TOP = 5  # genres
_PERCENTILES = (50, 95, 99)
_MEASURED = ("width", "height", "brightness")
_GZIP = b"\x1f\x8b"
# An export as one JSON array. A log may also begin with a bracket: "[2026-11-29 12:00:00] [INFO] Starting".
_ARRAY = re.compile(r"\s*\[\s*([{\]]|$)")


@dataclass(frozen=True)
class _Predictions:
    """Predictions of posters: names of genres [G], and their probabilities, float32 [N, G]."""

    genres: tuple[str, ...]
    probabilities: NDArray[np.float32]

    def of(self, genres: Sequence[str]) -> NDArray[np.float32]:
        """The probabilities of some of the genres."""
        return self.probabilities[:, [self.genres.index(each) for each in genres]]


@dataclass
class _Log:
    """What a log has. Refusals are counted by their code, and the most probable genres by their name.

    `different` has each poster of a model and its genres once, as the bytes of all that the log has of it, float32:
    width, height, brightness and the probabilities. Posters that are equal in all this are the same one, sent again.
    """

    requests: int = 0
    others: int = 0
    foreign: int = 0
    damaged: int = 0
    posters: int = 0
    milliseconds: list[float] = field(default_factory=list)
    refusals: Counter[str] = field(default_factory=Counter)
    genres: Counter[str] = field(default_factory=Counter)
    different: dict[tuple[str, str, tuple[str, ...]], dict[bytes, None]] = field(
        default_factory=lambda: defaultdict(dict)
    )

    def add(self, line: Mapping[str, Any]) -> None:
        """Add the line of a request. Raises KeyError, TypeError, ValueError or AttributeError if it is damaged."""
        if (line["method"], line["path"]) != ("POST", "/"):
            self.others += 1
            return
        version, bundle = str(line["model_version"]), str(line["bundle"])
        refusals = {str(code): int(number) for code, number in line["refusals"].items()}
        milliseconds, posters, status = float(line["milliseconds"]["total"]), int(line["posters"]), int(line["status"])
        predictions = [
            (_checked(each["probabilities"]), [float(each[name]) for name in _MEASURED]) for each in line["predictions"]
        ]
        self.requests += 1
        self.posters += posters
        self.refusals.update(refusals)
        if status == 200:
            self.milliseconds.append(milliseconds)
        for prediction, measured in predictions:
            self.genres[max(prediction, key=lambda name: prediction[name])] += 1
            poster = np.array([*measured, *prediction.values()], np.float32).tobytes()
            self.different[version, bundle, tuple(prediction)][poster] = None

    def measured(self) -> NDArray[np.float32]:
        """Width, height and brightness of all different posters, [N, 3]."""
        return np.concatenate([_rows(posters)[:, : len(_MEASURED)] for posters in self.different.values()])

    def predictions(self) -> dict[tuple[str, str], _Predictions]:
        """The predictions for different posters by version and bundle."""
        return {
            (version, bundle): _Predictions(genres, _rows(posters)[:, len(_MEASURED) :])
            for (version, bundle, genres), posters in self.different.items()
        }


def run_monitor(log: Path, reference: Path | None, settings: Settings) -> int:
    """Print what a log of the function has, and the shift of its predictions. Return 1 if a genre is shifted, else 0.

    Args:
        log: a file of the function's lines, or an export of them from Cloud Logging; also as .gz.
        reference: a file with the predictions to compare with: an earlier log, or the output of `predict --json`. By
            default, each model's own predictions for the test part of its dataset, which are in the bucket.
        settings: those of the bucket.

    Raises:
        ConfigurationError: a file cannot be read or has no requests, or no version has a reference.
        ServiceUnavailable: the bucket is not reachable.
    """
    found = _read_log(log)
    if not found.requests:
        raise ConfigurationError(f"{log} has no request for a prediction{_skipped(found)}. Name a log of the function.")
    _print_counts(found)
    predictions = found.predictions()
    if not predictions:
        print("\nThere are no predictions to compare.")
        return 0
    if reference:
        return int(_print_shift("All models", list(predictions.values()), *_read_reference(reference)))
    shifted, unknown = list[bool](), dict[str, ConfigurationError]()
    for (version, bundle), each in predictions.items():
        name = f"Version {version} ({bundle})"
        try:
            expected = _stored_predictions(settings, version, bundle)
            shifted.append(_print_shift(name, [each], "the test posters", [expected]))
        except ConfigurationError as error:
            unknown[name] = error
    if not shifted:
        raise next(iter(unknown.values()))
    for name, reason in unknown.items():
        print(f"\n{name} is not compared. {reason.message}")
    return int(any(shifted))


def _print_counts(found: _Log) -> None:
    models = ", ".join(f"{version} ({bundle})" for version, bundle in found.predictions())
    predicted = counted(sum(found.genres.values()), "poster")
    lines = {
        "Requests": f"{counted(found.requests, 'request')} with {counted(found.posters, 'poster')}{_skipped(found)}",
        "Predicted": f"{predicted} by version {models}" if models else predicted,
    }
    if found.milliseconds:
        values = np.percentile(found.milliseconds, _PERCENTILES)
        lines["Latency"] = ", ".join(f"p{p} {value:.0f} ms" for p, value in zip(_PERCENTILES, values, strict=True))
    if models:
        width, height, brightness = np.median(found.measured(), axis=0)
        lines["Posters"] = f"median {width:.0f} x {height:.0f} pixels, median brightness {brightness:.2f}"
    for name, text in lines.items():
        print(f"{name + ':':11}{text}")
    for title, counts in (
        ("Most probable genre", found.genres.most_common(_TOP)),
        ("Refused because", found.refusals.most_common()),
    ):
        if counts:
            wide = max(len(title), *(len(name) for name, _ in counts))
            print(f"\n{title:{wide}}  number")
            print("\n".join(f"{name:{wide}}  {number:6}" for name, number in counts))


def _skipped(found: _Log) -> str:
    """What else the log has, as the end of a sentence."""
    parts = [
        counted(found.others, "other request") if found.others else "",
        counted(found.foreign, "line of another kind", "lines of other kinds") if found.foreign else "",
        counted(found.damaged, "damaged line") if found.damaged else "",
    ]
    return f"; also {', '.join(filter(None, parts))}" if any(parts) else ""


def _print_shift(name: str, sample: list[_Predictions], reference_name: str, reference: list[_Predictions]) -> bool:
    """Print the shift of each genre, the largest first. Return whether any genre is shifted."""
    names = [set(each.genres) for each in (*sample, *reference)]
    genres = sorted(set.intersection(*names))
    if not genres:
        raise ConfigurationError(f"The log and {reference_name} have no genre in common. Name another --reference.")
    now, before = (np.concatenate([each.of(genres) for each in group]) for group in (sample, reference))
    found = shift(now, before)
    print(f"\n{name}: {counted(len(now), 'different poster')} against {len(before)} of {reference_name}")
    if left_out := sorted(set.union(*names) - set(genres)):
        print(f"Not compared, because not all have them: {', '.join(left_out)}")
    wide = max(map(len, ("genre", *genres)))
    print(f"{'genre':{wide}}   mean  before    PSI  by chance       p")
    for place in np.argsort(found.by_chance - found.index, kind="stable"):
        print(
            f"{genres[place]:{wide}}  {now[:, place].mean():5.2f}  {before[:, place].mean():6.2f}  "
            f"{found.index[place]:5.2f}  {found.by_chance[place]:9.2f}  {found.p_values[place]:6.4f}"
            f"{'  shifted' if found.shifted[place] else ''}"
        )
    number = int(found.shifted.sum())
    result = f"{counted(number, 'genre')} shifted" if number else "No genre shifted"
    print(f"{result} (PSI at least {MATERIAL} above chance, and p at most {LEVEL}).")
    return number > 0


def _read_log(path: Path) -> _Log:
    found = _Log()
    for entry in _entries(path):
        line = entry.get("jsonPayload", entry) if isinstance(entry, dict) else entry
        if isinstance(line, dict) and {"predictions", "refusals"} <= line.keys():
            try:
                found.add(line)
            except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
                found.damaged += 1
        elif isinstance(line, str):
            found.damaged += 1
        else:
            found.foreign += 1
    return found


def _read_reference(path: Path) -> tuple[str, list[_Predictions]]:
    """The predictions of an earlier log, or those that `predict --json` printed, and what to call them."""
    log = _read_log(path)
    name = f"the predictions in {path}"
    if log.different:
        damaged = f", which also has {counted(log.damaged, 'damaged line')}" if log.damaged else ""
        return f"{name}{damaged}", list(log.predictions().values())
    printed = [entry["genres"] for entry in _entries(path) if isinstance(entry, dict) and entry.get("genres")]
    try:
        predictions = [_checked({genre["name"]: genre["probability"] for genre in genres}) for genres in printed]
        if not predictions:
            raise ConfigurationError(
                f"{path} has no predictions. Name an earlier log, or the output of `anime-genre predict --json`."
            )
        rows = np.array([[each[name] for name in predictions[0]] for each in predictions], np.float32)
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigurationError(f"{path} has damaged predictions. Predict again with one model.") from error
    return name, [_Predictions(tuple(predictions[0]), rows)]


def _rows(posters: Mapping[bytes, None]) -> NDArray[np.float32]:
    return np.frombuffer(b"".join(posters), np.float32).reshape(len(posters), -1)


def _checked(probabilities: Mapping[str, Any]) -> dict[str, float]:
    """The probabilities of a poster, by the name of the genre, sorted and with two decimals.

    Raises ValueError if there are none, or if one is not from 0 to 1.
    """
    checked = {str(name): round(float(probabilities[name]), 2) for name in sorted(probabilities)}
    if not checked or not all(0 <= value <= 1 for value in checked.values()):
        raise ValueError("These are not the probabilities of genres.")
    return checked


def _stored_predictions(settings: Settings, version: str, bundle: str) -> _Predictions:
    """What a model predicted for the test part of its dataset, as its training stored it in the bucket."""
    if settings.cloud == "local" and not settings.storage_emulator_host:
        raise ConfigurationError(
            "There is nothing to compare with: no stack is running. Start it, or name earlier predictions with "
            "--reference."
        )
    try:
        store, training = _training(Store(settings).collections(), bundle)
        manifest = Manifest.parse(store.read(f"bundles/{training.bundle_sha256}/{MANIFEST}"))
        stored = store.read(training.predictions_key)
    except NotFound as error:
        raise ConfigurationError(
            f"The bucket {settings.bucket} has no predictions of version {version} ({bundle}). Name earlier ones with "
            "--reference."
        ) from error
    try:
        with np.load(io.BytesIO(stored), allow_pickle=False) as arrays:
            # The first network is the chosen one (`ml.evaluation.predictions`, which needs PyTorch).
            probabilities = arrays["probabilities"][0].astype(np.float32).round(2)
    # RuntimeError: after another flipped bit, it counts as encrypted.
    except (OSError, ValueError, LookupError, TypeError, EOFError, RuntimeError, BadZipFile, zlib.error) as error:
        raise ConfigurationError(
            f"{store.uri(training.predictions_key)} is damaged. Name another --reference.", str(error)
        ) from error
    return _Predictions(tuple(genre.name for genre in manifest.genres), probabilities)


def _training(collections: Sequence[Settings], bundle: str) -> tuple[Store, TrainingRecord]:
    """The training that made a bundle, by the beginning of its sha256, and the store that has it.

    Raises NotFound if there is none.
    """
    for store in map(Store, collections):
        for key in store.keys("trainings/"):
            training = store.read_parsed(key, TrainingRecord.model_validate_json)
            if training and bundle and training.bundle_sha256.startswith(bundle):
                return store, training
    raise NotFound(f"There is no training of the bundle {bundle}.")


def _entries(path: Path) -> Iterator[object]:
    """The entries of a log: JSON values, None for a line of plain text, and the text of a line of damaged JSON."""
    try:
        with path.open("rb") as raw:
            packed = raw.peek(2)[:2] == _GZIP
            binary = gzip.GzipFile(fileobj=raw) if packed else raw
            with io.TextIOWrapper(binary, encoding="utf-8", errors="replace") as file:
                first = next((line for line in file if line.strip()), "")
                if _ARRAY.match(first):
                    yield from json.loads(first + file.read())
                    return
                for line in chain([first], file):
                    if line.strip():
                        yield _parsed(line)
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or "it is damaged"
        raise ConfigurationError(f"{path} cannot be read: {reason}.") from error
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(f"{path} is a damaged JSON array. Export it again.", str(error)) from error


def _parsed(line: str) -> object:
    if not line.lstrip().startswith("{"):
        return None
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return line
