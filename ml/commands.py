"""The commands `train`, `compare` and `predict`: their options and what they run.

Every setting of `ml.configuration` is an option with the same name.
"""

import argparse
import json
import logging
import re
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, fields
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_origin, get_type_hints

from ml.configuration import Checked, PreprocessConfig, TrainConfig
from ml.training.candidates import CANDIDATES

if TYPE_CHECKING:
    from ml.data.table_rows import TableOptions
    from ml.prediction import FilePrediction
    from ml.reporting import Reporter
    from ml.standalone import TableJob

_Config = TypeVar("_Config", bound=Checked)

TABLE_HELP = (
    "Table of titles as CSV, JSON, JSON lines or Parquet, plain, .gz or .zip, with a column of genres and one of ids, "
    "files or addresses."
)


def add_train(parser: argparse.ArgumentParser) -> None:
    """Add the options of `train`. The parsed namespace's `run` is the function that runs the command."""
    _add_table(parser)
    parser.add_argument(
        "--output",
        type=Path,
        required=True,
        metavar="BUNDLE_DIR",
        help="Folder for the model, report.json and report.html.",
    )
    _add_learning(parser)
    parser.set_defaults(run=_train)


def add_compare(parser: argparse.ArgumentParser) -> None:
    """Add the options of `compare`, as `add_train` does."""
    _add_table(parser)
    parser.add_argument("--output", type=Path, metavar="JSON", help="File for all figures.")
    _add_learning(parser)
    parser.set_defaults(run=_compare)


def _add_table(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--catalogue", type=Path, required=True, metavar="TABLE", help=TABLE_HELP)
    parser.add_argument(
        "--posters",
        type=Path,
        metavar="DIR",
        help="Folder of the poster files. Default: the folder posters beside the table.",
    )
    add_table_options(parser)


def add_table_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of a table's reading, which `read_table_options` reads."""
    parser.add_argument(
        "--columns",
        type=_split_columns,
        default={},
        metavar="ROLE=NAME,...",
        help="Columns whose meaning is not found, such as genres=Genre,file=path. Roles: id, title, genres, genre_ids, "
        "franchise, file, poster_url, rating, explicit.",
    )
    parser.add_argument(
        "--separator", metavar="TEXT", help="What separates the genres in a cell. Default: found in the table."
    )
    parser.add_argument("--image-base", metavar="ADDRESS", help="Address that completes relative poster addresses.")


def read_table_options(options: argparse.Namespace) -> "TableOptions":
    """Return the options of `add_table_options`."""
    from ml.data.table_rows import TableOptions

    return TableOptions(options.columns, options.separator, options.image_base)


def _split_columns(text: str) -> dict[str, str]:
    """`genres=Genre,file=path` by role. A name may contain commas."""
    columns: dict[str, str] = {}
    role = ""
    for entry in text.split(","):
        if re.match(r"\s*\w+\s*=", entry):
            role, _, name = entry.partition("=")
            role = role.strip()
            columns[role] = name.strip()
        elif role:
            columns[role] += f",{entry}"
        else:
            raise argparse.ArgumentTypeError(f"{entry!r} is not of the form ROLE=NAME")
    return columns


def _add_learning(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--workspace",
        type=Path,
        default=Path("workspace"),
        metavar="DIR",
        help="Folder that keeps pixels, features, datasets, checkpoints, downloaded weights and TensorBoard files. "
        "Default: %(default)s.",
    )
    add_settings(parser, TrainConfig)
    add_settings(parser, PreprocessConfig)


def add_settings(parser: argparse.ArgumentParser, config: type[Checked]) -> None:
    """Add an option for each field of a configuration; the field's description is its help."""
    kinds = get_type_hints(config)
    for entry in fields(config):  # type: ignore[arg-type]
        kind, help_text = kinds[entry.name], entry.metadata["description"]
        default: Any = entry.default
        if kind is bool:
            options: dict[str, Any] = {"action": "store_true"}
        elif get_origin(kind) is tuple:
            options = {"type": _split_names, "metavar": "NAME,..."}
            default = ",".join(default)
            names = get_args(get_args(kind)[0]) or [f"{name} ({each.description})" for name, each in CANDIDATES.items()]
            help_text += f" Names, separated by commas: {', '.join(names)}."
        else:
            number = next((each for each in get_args(kind) if each is not type(None)), kind)
            options = {"type": number, "metavar": "NAME" if number is str else "N"}
        if "given" in entry.metadata:
            options |= {"nargs": "?", "const": entry.metadata["given"]}
            help_text += f" Without a number: {entry.metadata['given']}."
        if default is not None and default is not False:
            help_text += " Default: %(default)s."
        parser.add_argument(f"--{entry.name.replace('_', '-')}", default=default, help=help_text, **options)


def _split_names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def add_predict(parser: argparse.ArgumentParser) -> None:
    """Add the options of `predict`, as `add_train` does."""
    parser.add_argument("bundle", type=Path, metavar="BUNDLE_DIR", help="Folder that `train` has written.")
    parser.add_argument("posters", type=Path, nargs="+", metavar="FILE", help="Poster files, and folders of them.")
    parser.add_argument("--json", action="store_true", help="Print one JSON object per poster and line.")
    parser.set_defaults(run=_predict)


def read_options(options: argparse.Namespace, config: type[_Config]) -> _Config:
    """Return the configuration given by the options of `add_settings`.

    Raises:
        SettingError: a value is outside its limits.
    """
    return config(**{entry.name: getattr(options, entry.name) for entry in fields(config)})  # type: ignore[arg-type]


def _train(options: argparse.Namespace) -> int:
    # Imported here so that --help and predict do not import torch.
    from ml.standalone import train_on_table

    _log()
    run = train_on_table(_job(options), options.output, _reporting(options.workspace, options.output.resolve().name))
    print(run.summary())
    return 0


def _compare(options: argparse.Namespace) -> int:
    from ml.standalone import compare_on_table

    _log()
    comparison = compare_on_table(_job(options), options.output, _reporting(options.workspace, "compare"))
    print(comparison.summary())
    return 0


def _job(options: argparse.Namespace) -> "TableJob":
    from ml.standalone import TableJob

    return TableJob(
        options.catalogue,
        options.posters or options.catalogue.with_name("posters"),
        read_table_options(options),
        options.workspace,
        read_options(options, PreprocessConfig),
        read_options(options, TrainConfig),
    )


def _log() -> None:
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    logging.getLogger("ml").setLevel(logging.INFO)


@contextmanager
def _reporting(workspace: Path, name: str) -> Iterator["Reporter"]:
    """Report to the terminal, and to TensorBoard files in the workspace."""
    from ml.progress import TerminalReporter
    from ml.reporting import Reporters, TensorBoardReporter

    started = f"{datetime.now():%Y-%m-%d_%H-%M-%S}"
    with closing(TensorBoardReporter(workspace / "tensorboard" / f"{name}_{started}")) as curves:
        yield Reporters(TerminalReporter(), curves)


def _predict(options: argparse.Namespace) -> int:
    """Print a line per poster as soon as its batch is predicted."""
    from ml.prediction import predict_files
    from serving.bundle.model import Model

    show = _json_line if options.json else _line
    failed = False
    for prediction in predict_files(Model.load(options.bundle), options.posters):
        failed |= prediction.error is not None
        stream = sys.stderr if prediction.error and not options.json else sys.stdout
        print(show(prediction).encode(errors="replace").decode(), file=stream, flush=True)
    return 1 if failed else 0


def _json_line(prediction: "FilePrediction") -> str:
    keep = ("name", "probability", "threshold", "predicted")
    genres = [{name: asdict(genre)[name] for name in keep} for genre in prediction.genres]
    result: dict[str, Any] = {"error": prediction.error} if prediction.error else {"genres": genres}
    return json.dumps({"file": str(prediction.file), **result}, ensure_ascii=False)


def _line(prediction: "FilePrediction") -> str:
    """The predicted genres of one file for a terminal, the most probable first."""
    predicted = sorted((genre for genre in prediction.genres if genre.predicted), key=lambda genre: -genre.probability)
    named = ", ".join(f"{genre.name} {genre.probability:.2f}" for genre in predicted)
    return f"{prediction.file}: {prediction.error or named or 'no genre reaches its threshold'}"
