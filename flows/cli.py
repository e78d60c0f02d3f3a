"""The `anime-genre` command. A subcommand imports what it needs when it runs."""

import argparse
import errno
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from infra.errors import ConfigurationError
from infra.local.processes import Processes, free_port, is_reachable
from infra.local.stack import Ports, Stack, local_stack, prepare_workspace, running_stack_environment
from serving.bundle.errors import AnimeGenreError

if TYPE_CHECKING:
    from flows.parameters import RetrainParameters

_DEMO_WORKSPACE = Path("workspace/demo")
_DISK_ERRORS = {errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EPERM, errno.EDQUOT, errno.EFBIG}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a subcommand; errors become one sentence on stderr and a non-zero exit code."""
    signal.signal(signal.SIGTERM, _terminate)
    for name in ("NO_PROXY", "no_proxy"):  # nothing on this machine is reached through a proxy
        os.environ[name] = ",".join(filter(None, [os.environ.get(name), "127.0.0.1,localhost"]))
    args = parser().parse_args(arguments)
    try:
        code: int | None = args.run(args)
        return code or 0
    except AnimeGenreError as error:
        return _fail(str(error))
    except KeyboardInterrupt:
        print("\nStopped. Steps that were done are not done again.", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `| head` has read enough; Python would complain once more when it closes stdout
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if error.errno not in _DISK_ERRORS:
            raise
        where = f" ({error.filename})" if error.filename else ""
        return _fail(f"Writing failed: {error.strerror}{where}.")


def _fail(sentence: str) -> int:
    print(f"anime-genre: {sentence}", file=sys.stderr)
    return 1


def _terminate(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def parser() -> argparse.ArgumentParser:
    """The command's options; those of learning are made from its configuration."""
    from ml.commands import add_compare, add_predict, add_settings, add_train
    from ml.configuration import PreprocessConfig, TrainConfig
    from tasks.catalogue.configuration import CollectConfig, DriftLimits

    whole = argparse.ArgumentParser(prog="anime-genre", description="An anime's genres from its poster.")
    commands = whole.add_subparsers(required=True, metavar="COMMAND")

    demo = commands.add_parser("demo", help="run the whole pipeline once over a small built-in site")
    demo.add_argument("--workspace", type=Path, default=_DEMO_WORKSPACE, help="default: %(default)s")
    demo.set_defaults(run=_demo)

    up = commands.add_parser("up", help="keep the stack up: Prefect, MLflow, TensorBoard, function and page")
    up.add_argument("--workspace", type=Path, default=_DEMO_WORKSPACE, help="default: %(default)s")
    up.add_argument("--site-url", help="the site the deployment reads; default: the small built-in one")
    for name, port in (("prefect", 4200), ("mlflow", 5000), ("tensorboard", 6006), ("function", 8080), ("page", 8000)):
        up.add_argument(f"--{name}-port", type=int, default=port, metavar="PORT", help="default: %(default)s; 0: any")
    up.add_argument("--cron", help="when the deployment runs by itself (default: Mondays at 4)")
    up.add_argument("--interval-seconds", type=_positive, help="run the deployment this often instead")
    up.set_defaults(run=_up)

    retrain = commands.add_parser("retrain", help="run the flow once, from the site's pages to the function")
    _add_site(retrain)
    add_settings(retrain, CollectConfig)
    add_settings(retrain, PreprocessConfig)
    add_settings(retrain, TrainConfig)
    retrain.set_defaults(run=_retrain)

    collect = commands.add_parser("collect", help="read the site and its posters into the workspace, and no more")
    _add_site(collect)
    add_settings(collect, CollectConfig)
    collect.set_defaults(run=_collect)

    reparse = commands.add_parser("reparse", help="make the catalogue anew from the kept pages, without a request")
    _add_workspace(reparse)
    add_settings(reparse, DriftLimits)
    reparse.set_defaults(run=_reparse)

    add_train(commands.add_parser("train", help="train on a table and a folder of posters"))
    add_compare(commands.add_parser("compare", help="the networks against the usual recipe, over folds of a table"))
    add_predict(commands.add_parser("predict", help="the genres of posters, by a trained model"))
    return whole


def _positive(text: str) -> float:
    if not float(text) > 0:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return float(text)


def _add_site(parser: argparse.ArgumentParser) -> None:
    _add_workspace(parser)
    parser.add_argument("--site-url", help="the site that is read; default: the live one")
    parser.add_argument("--seasons", help="'2015-winter..2019-fall'; '2015-winter..now' is the default")


def _add_workspace(parser: argparse.ArgumentParser) -> None:
    workspace = os.environ.get("ANIME_GENRE_WORKSPACE", "workspace/live")
    parser.add_argument("--workspace", type=Path, default=workspace, help="default: %(default)s")


@contextmanager
def _services(workspace: Path) -> Iterator[None]:
    """Lead this process to the services: the environment's, else the workspace's running stack, else a new one.

    To be entered before Prefect is imported, which reads its settings then.
    """
    if "PREFECT_API_URL" in os.environ:
        os.environ["ANIME_GENRE_WORKSPACE"] = str(prepare_workspace(workspace))
        if not is_reachable(f"{os.environ['PREFECT_API_URL']}/health"):
            raise ConfigurationError(f"No Prefect server answers at PREFECT_API_URL={os.environ['PREFECT_API_URL']}.")
        yield
    elif environment := running_stack_environment(workspace):
        os.environ.update(environment)
        yield
    else:
        with _started(workspace, Ports()):
            yield


@contextmanager
def _started(workspace: Path, ports: Ports) -> Iterator[Stack]:
    """A stack of this command's own."""
    print(f"Starting Prefect, MLflow, storage and the Cloud Run stand-in in {workspace} ...", flush=True)
    with local_stack(workspace, ports) as stack:
        os.environ.update(stack.environment)
        yield stack


def _start_built_in_site(processes: Processes) -> str:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    processes.start("Site", [sys.executable, "-m", "infra.local.site", "--port", str(port)], {}, f"{url}/robots.txt")
    processes.wait_ready()
    return url


def _demo(args: argparse.Namespace) -> None:
    with _started(args.workspace, Ports()) as stack:
        site_url = _start_built_in_site(stack.processes)
        from flows.demo import run_demo

        run_demo(args.workspace, site_url)


def _up(args: argparse.Namespace) -> None:
    given = _parameters(site_url=args.site_url) if args.site_url else None
    if given:
        _check_contact(given.site_url)
    ports = Ports(prefect=args.prefect_port, mlflow=args.mlflow_port, function=args.function_port)
    with _started(args.workspace, ports) as stack:
        from flows.demo import demo_parameters
        from flows.up import keep_up

        parameters = given or demo_parameters(_start_built_in_site(stack.processes))
        schedule = ["--cron", args.cron] if args.cron else []
        schedule += ["--interval-seconds", str(args.interval_seconds)] if args.interval_seconds else []
        keep_up(stack, args.workspace.absolute(), parameters, args.tensorboard_port, args.page_port, schedule)


def _retrain(args: argparse.Namespace) -> None:
    parameters = _checked_parameters(args)
    with _services(args.workspace):
        from rich.console import Console

        from flows.summary import run_retrain, show, show_answers, write_summary

        console = Console()
        summary = run_retrain(parameters)
        show(summary, console)
        write_summary(summary, args.workspace / "summary.json")
        show_answers(summary, console)


def _collect(args: argparse.Namespace) -> None:
    from flows.collect import run_collect

    parameters = _site_parameters(args)
    run_collect(prepare_workspace(args.workspace), parameters)


def _reparse(args: argparse.Namespace) -> None:
    from flows.collect import run_reparse
    from ml.commands import settings
    from tasks.catalogue.configuration import DriftLimits

    run_reparse(args.workspace, settings(args, DriftLimits))


def _checked_parameters(args: argparse.Namespace) -> "RetrainParameters":
    """The run's parameters, with all that can be known to be wrong found before anything is started."""
    from ml.commands import settings
    from ml.configuration import PreprocessConfig, TrainConfig
    from ml.training.candidates import check_settings

    train = settings(args, TrainConfig)
    check_settings(train)
    return _site_parameters(args, preprocess=settings(args, PreprocessConfig), train=train)


def _site_parameters(args: argparse.Namespace, **others: Any) -> "RetrainParameters":
    """The parameters, of a site that can be read as far as can be known without asking it."""
    from ml.commands import settings
    from tasks.catalogue.configuration import CollectConfig
    from tasks.crawl.addresses import check_reachable
    from tasks.source_choice import source_for

    given = {name: value for name in ("site_url", "seasons") if (value := getattr(args, name)) is not None}
    parameters = _parameters(collect=settings(args, CollectConfig), **given, **others)
    source_for(parameters.site_url).pages(parameters.seasons, time.time())
    _check_contact(parameters.site_url)
    check_reachable(parameters.site_url)
    return parameters


def _check_contact(site_url: str) -> None:
    from infra.settings import read_settings
    from tasks.crawl.addresses import check_contact

    check_contact(site_url, read_settings().contact)


def _parameters(**given: Any) -> "RetrainParameters":
    """The parameters of a run; ConfigurationError names the option whose value cannot be."""
    from pydantic import ValidationError

    from flows.parameters import RetrainParameters

    try:
        return RetrainParameters(**given)
    except ValidationError as error:
        first = error.errors()[0]
        option = str(first["loc"][0]).replace("_", "-")
        raise ConfigurationError(f"--{option} cannot be {first['input']!r}: {first['msg']}.") from None


if __name__ == "__main__":
    sys.exit(main())
