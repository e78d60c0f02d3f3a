"""The commands `train`, `compare` and `predict`: their options, and what they do.

Each setting of `ml.configuration` is an option of its own name.
"""

import argparse
import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_type_hints

from ml.configuration import Checked, PreprocessConfig, TrainConfig
from serving.bundle.errors import AnimeGenreError

if TYPE_CHECKING:
    from ml.reporting import Reporter

_Config = TypeVar("_Config", bound=Checked)


def add_train(parser: argparse.ArgumentParser) -> None:
    """The options of `train`; what they ask for is done by the function in the namespace's `run`."""
    _add_table(parser)
    parser.add_argument(
        "--output",
        type=Path,
        required=True,
        metavar="BUNDLE_DIR",
        help="Where the model, report.json and report.html go.",
    )
    _add_learning(parser)
    parser.set_defaults(run=_train)


def add_compare(parser: argparse.ArgumentParser) -> None:
    """The options of `compare`, likewise."""
    _add_table(parser)
    parser.add_argument("--output", type=Path, metavar="JSON", help="Where all figures go.")
    _add_learning(parser)
    parser.set_defaults(run=_compare)


def _add_table(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--catalogue",
        type=Path,
        required=True,
        metavar="CSV",
        help="Table with columns file, genres (joined by |) and an id; title, franchise, genre_ids help.",
    )
    parser.add_argument("--posters", type=Path, required=True, metavar="DIR", help="Folder of the files.")


def _add_learning(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--workspace",
        type=Path,
        default=Path("workspace"),
        metavar="DIR",
        help="Keeps pixels, features, datasets, checkpoints, downloaded weights and TensorBoard's curves. "
        "Default: %(default)s.",
    )
    add_settings(parser, PreprocessConfig)
    add_settings(parser, TrainConfig)


def add_settings(parser: argparse.ArgumentParser, config: type[Checked]) -> None:
    """An option for each field of a configuration; the field's sentence is its help."""
    kinds = get_type_hints(config)
    for entry in fields(config):  # type: ignore[arg-type]
        kind = next(kind for kind in (*get_args(kinds[entry.name]), kinds[entry.name]) if kind is not type(None))
        options: dict[str, Any] = {"type": kind, "metavar": "NAME" if kind is str else "N"}
        if kind is bool:
            options = {"action": "store_true"}
        elif entry.metadata["given"] is not None:
            options |= {"nargs": "?", "const": entry.metadata["given"]}
        default = "" if entry.default in (None, False) else " Default: %(default)s."
        parser.add_argument(
            f"--{entry.name.replace('_', '-')}",
            default=entry.default,
            help=f"{entry.metadata['description']}{default}",
            **options,
        )


def add_predict(parser: argparse.ArgumentParser) -> None:
    """The options of `predict`, likewise."""
    parser.add_argument("bundle", type=Path, metavar="BUNDLE_DIR", help="Folder that `train` wrote.")
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE", help="Posters.")
    parser.add_argument("--json", action="store_true", help="Print a list, an object a file.")
    parser.set_defaults(run=_predict)


def settings(options: argparse.Namespace, config: type[_Config]) -> _Config:
    """The configuration that the options of `add_settings` ask for; SettingError where that cannot be."""
    return config(**{entry.name: getattr(options, entry.name) for entry in fields(config)})  # type: ignore[arg-type]


def _train(options: argparse.Namespace) -> int:
    # Imported here so that --help and predict need not wait for torch.
    from ml.standalone import train_from_table

    _log()
    run = train_from_table(
        options.catalogue,
        options.posters,
        options.output,
        options.workspace,
        settings(options, PreprocessConfig),
        settings(options, TrainConfig),
        _reporting(options.workspace, options.output.resolve().name),
    )
    print(run.summary())
    return 0


def _compare(options: argparse.Namespace) -> int:
    from ml.evaluation.comparison import compare_table

    _log()
    comparison = compare_table(
        options.catalogue,
        options.posters,
        options.workspace,
        settings(options, PreprocessConfig),
        settings(options, TrainConfig),
        _reporting(options.workspace, "compare"),
        options.output,
    )
    print(comparison.summary())
    return 0


def _log() -> None:
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    logging.getLogger("ml").setLevel(logging.INFO)


@contextmanager
def _reporting(workspace: Path, name: str) -> Iterator["Reporter"]:
    """Tell the terminal, and TensorBoard in a folder of the workspace."""
    from ml.progress import TerminalReporter
    from ml.reporting import Reporters, TensorBoardReporter

    started = f"{datetime.now():%Y-%m-%d_%H-%M-%S}"
    curves = TensorBoardReporter(workspace / "tensorboard" / f"{name}_{started}")
    try:
        yield Reporters(TerminalReporter(), curves)
    finally:
        curves.close()


def _predict(options: argparse.Namespace) -> int:
    from serving.bundle.model import Model

    model = Model.load(options.bundle)
    answers: list[dict[str, Any]] = []
    for file in options.files:
        try:
            (predictions,) = model.predict([file.read_bytes()])
        except AnimeGenreError as error:
            answers.append({"file": str(file), "error": str(error)})
        except OSError as error:
            answers.append({"file": str(file), "error": f"The file cannot be read: {error.strerror}."})
        else:
            keep = ("name", "probability", "threshold", "predicted")
            genres = [{name: asdict(entry)[name] for name in keep} for entry in predictions]
            answers.append({"file": str(file), "genres": genres})
    if options.json:
        print(json.dumps(answers, indent=2, ensure_ascii=False))
    else:
        print("\n".join(_line(answer) for answer in answers))
    failed = [answer for answer in answers if "error" in answer]
    for answer in failed:
        print(f"Error: {answer['file']}: {answer['error']}", file=sys.stderr)
    return 1 if failed else 0


def _line(answer: dict[str, Any]) -> str:
    """One file's answer for a person: predicted genres, the most probable first."""
    if "error" in answer:
        return f"{answer['file']}: could not be read"
    predicted = sorted(
        (genre for genre in answer["genres"] if genre["predicted"]), key=lambda genre: -genre["probability"]
    )
    named = ", ".join(f"{genre['name']} {genre['probability']:.2f}" for genre in predicted)
    return f"{answer['file']}: {named or 'no genre reaches its threshold'}"
