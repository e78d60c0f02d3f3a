"""The command `anime-genre`. Each subcommand imports its packages when it runs, so that --help is fast."""

import argparse
import errno
import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

from flows.connection import connected, new_stack, start_built_in_site
from flows.prefect_access import api_url, check_server, separate_password
from flows.schedule import WEEKLY, check_schedule, machine_timezone
from infra.cloud_run import check_service_name
from infra.disk import disk_errors
from infra.errors import ConfigurationError
from infra.local.stack import Ports, prepare_workspace, running_stack_environment
from infra.settings import (
    BUILT_IN_COLLECTION,
    MAIN_COLLECTION,
    Settings,
    check_cloud,
    environment_variable,
    read_settings,
)
from serving.bundle.errors import AnimeGenreError
from serving.bundle.redaction import redact_logs
from serving.bundle.wording import counted

if TYPE_CHECKING:
    from flows.parameters import RetrainParameters
    from flows.table_upload import LocalTable
    from tasks.table.configuration import TableConfig

# The ports of `up`, by service; 0 takes a free one.
_PORTS = {"prefect": 4200, "mlflow": 5000, "tensorboard": 6006, "function": 8080, "page": 8000}
_TABLE_OPTIONS = ("posters", "columns", "separator", "image_base")
_MOST_WEEKS, _MOST_SECONDS = 5_200, 1_000_000_000  # 100 and 31 years
_OWN_PACKAGES = ("flows", "tasks", "ml", "infra", "serving")
_NO_PERMISSION = {errno.EROFS, errno.EACCES, errno.EPERM}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a subcommand and return its exit code. Known errors are printed on stderr, without a traceback."""
    for number in (signal.SIGTERM, signal.SIGHUP):  # SIGHUP: the terminal was closed
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup ignores SIGHUP
            signal.signal(number, _terminate)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)
    _use_no_proxy_on_this_machine()
    redact_logs()
    args = parser().parse_args(arguments)
    try:
        with disk_errors(getattr(args, "workspace", Path())):
            code: int | None = args.run(args)
        return code or 0
    except AnimeGenreError as error:
        return _fail(str(error), getattr(args, "error_code", 1))
    except KeyboardInterrupt:
        has_steps = args.run in (_demo, _retrain, _collect)
        print("Stopped. The next run skips completed steps." if has_steps else "Stopped.", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader, such as `head`, has ended; without this Python prints an error at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in _OWN_PACKAGES:
            raise
        return _fail(f"This command needs {package}, which is not installed. Run `pip install '.[pipeline]'` first.")
    except OSError as error:
        if error.errno not in _NO_PERMISSION:
            raise
        where = f" ({error.filename})" if error.filename else ""
        return _fail(f"Cannot write: {error.strerror}{where}.")


def _use_no_proxy_on_this_machine() -> None:
    """Add this machine to the hosts that are not behind a proxy.

    Both spellings get the same list, because clients read the lower case first, and only that if it is set. A list of
    `*` stays as it is: clients know it only alone.
    """
    given = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    hosts = given if given.strip() == "*" else ",".join(filter(None, [given, "127.0.0.1,localhost"]))
    os.environ.update(no_proxy=hosts, NO_PROXY=hosts)


def _fail(message: str, code: int = 1) -> int:
    print(f"anime-genre: {message}", file=sys.stderr)
    return code


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Say at once that Ctrl-C has arrived. `print` may fail here, because the signal can interrupt another one."""
    with suppress(OSError, ValueError):
        os.write(sys.stderr.fileno(), b"\nStopping: waiting for the work in progress to end ...\n")
    raise KeyboardInterrupt


def _terminate(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line. Options for settings are generated from the configurations."""
    from ml.commands import add_compare, add_predict, add_settings, add_train
    from ml.configuration import GateConfig, TrainConfig
    from tasks.catalogue.configuration import CollectConfig, DatasetConfig, DriftLimits

    whole = argparse.ArgumentParser(prog="anime-genre", description="Predict the genres of an anime from its poster.")
    commands = whole.add_subparsers(required=True, metavar="COMMAND")

    demo = commands.add_parser("demo", help="run the whole pipeline once on a small built-in site")
    _add_workspace(demo)
    demo.set_defaults(run=_demo)

    up = commands.add_parser("up", help="run Prefect, MLflow, TensorBoard, the function and the web page")
    _add_workspace(up)
    up.add_argument("--site-url", help="site that the deployment reads; default: the small built-in one")
    _add_table(up)
    for name, port in _PORTS.items():
        up.add_argument(
            f"--{name}-port", type=int, default=port, metavar="PORT", help="default: %(default)s; 0 takes a free port"
        )
    schedule = up.add_mutually_exclusive_group()
    schedule.add_argument("--cron", default=WEEKLY, help="schedule in cron's format; default: Mondays at 4")
    schedule.add_argument(
        "--interval-seconds", type=_above_0(_MOST_SECONDS), help="seconds between runs, instead of --cron"
    )
    up.add_argument(
        "--timezone",
        default=machine_timezone(),
        help="time zone of --cron and of the daily collect; default: %(default)s",
    )
    up.set_defaults(run=_up)

    retrain = commands.add_parser("retrain", help="run the flow once, from the site's pages to the deployed function")
    _add_site(retrain)
    _add_parameters(retrain, "promote", "crawl", "train_on")
    _add_table(retrain)
    add_settings(retrain, TrainConfig)
    add_settings(retrain, DatasetConfig)
    add_settings(retrain, CollectConfig)
    add_settings(retrain, GateConfig)
    retrain.set_defaults(run=_retrain)

    collect = commands.add_parser("collect", help="download pages and posters, without training")
    _add_site(collect)
    add_settings(collect, CollectConfig)
    collect.add_argument("--dry-run", action="store_true", help="only estimate requests, megabytes and time")
    collect.set_defaults(run=_collect)

    worker = commands.add_parser("train-worker", help="train here for runs of other machines, until Ctrl-C")
    _add_workspace(worker)
    worker.add_argument(
        "--pool",
        default="gpu",
        help="work pool in Prefect, created if necessary; runs name it as --train-on train-step/POOL. "
        "Default: %(default)s.",
    )
    worker.set_defaults(run=_train_worker)

    reparse = commands.add_parser("reparse", help="rebuild the catalogue from the downloaded pages, without requests")
    _add_workspace(reparse)
    add_settings(reparse, DriftLimits)
    reparse.set_defaults(run=_reparse)

    rollback = commands.add_parser("rollback", help="serve an earlier model again, and hold it")
    _add_live(rollback)
    rollback.add_argument("--to", metavar="VERSION", help="version in MLflow; default: the one before the live one")
    rollback.set_defaults(run=_rollback)

    promote = commands.add_parser("promote", help="serve a version of the registered model, and end a hold")
    _add_live(promote)
    promote.add_argument("version", metavar="VERSION", help="version in MLflow")
    promote.set_defaults(run=_promote)

    history = commands.add_parser("history", help="list what went live, when and why")
    _add_live(history)
    history.set_defaults(run=_history)

    status = commands.add_parser("status", help="show what is live, what ran and comes next, the data and the disk")
    _add_workspace(status)
    status.add_argument("--collection", help="whose model and data; default: those of the deployment")
    status.set_defaults(run=_status)

    logs = commands.add_parser("logs", help="print the end of a service's log")
    _add_workspace(logs)
    logs.add_argument("name", metavar="NAME", help="service, such as prefect, mlflow, deployment, page or function")
    logs.add_argument("--lines", type=_count, default=50, help="how many lines; default: %(default)s")
    logs.set_defaults(run=_logs)

    monitor = commands.add_parser("monitor", help="show what the function was asked, and whether predictions shifted")
    _add_workspace(monitor)
    monitor.add_argument("log", type=Path, metavar="LOG", help="the function's log, or its export from Cloud Logging")
    monitor.add_argument(
        "--reference",
        type=Path,
        metavar="FILE",
        help="earlier log, or output of `predict --json`; default: the model's predictions for its test posters",
    )
    monitor.set_defaults(run=_monitor, error_code=2)

    catalogue = commands.add_parser(
        "predict-catalogue",
        help="predict all titles of the catalogue, also those without genres, into a table",
        description="Predict all titles of the catalogue. If ANIME_GENRE_DASK names a Dask scheduler, its workers do.",
    )
    _add_live(catalogue)
    catalogue.add_argument(
        "--bundle", metavar="SHA256", help="bundle by the beginning of its sha256; default: the live model's"
    )
    catalogue.set_defaults(run=_predict_catalogue)

    prune = commands.add_parser("prune", help="delete what no kept model and no recent run needs")
    _add_workspace(prune)
    prune.add_argument(
        "--weeks", type=_above_0(_MOST_WEEKS), default=12, help="what is newer is kept; default: %(default)s"
    )
    prune.add_argument("--dry-run", action="store_true", help="only say what would go")
    prune.set_defaults(run=_prune)

    doctor = commands.add_parser("doctor", help="check what is missing here and on Google Cloud, and how to mend it")
    _add_workspace(doctor)
    doctor.add_argument(
        "--try",
        action="store_true",
        dest="trial",
        help="also deploy a tiny model to a service that is deleted again; on Google Cloud this costs a few cents",
    )
    doctor.set_defaults(run=_doctor)

    reset = commands.add_parser("reset", help="delete a workspace with its models, posters and runs, after a question")
    _add_workspace(reset)
    reset.add_argument("--yes", action="store_true", help="delete without asking")
    reset.set_defaults(run=_reset)

    add_train(commands.add_parser("train", help="train on a table and a folder of posters"))
    add_compare(commands.add_parser("compare", help="compare networks with the standard recipe by cross-validation"))
    add_predict(commands.add_parser("predict", help="predict the genres of posters with a trained model"))
    return whole


def _above_0(limit: int) -> Callable[[str], float]:
    """The type of a number that is greater than 0, and at most the limit."""

    def parse(text: str) -> float:
        with suppress(ValueError):
            if 0 < float(text) <= limit:
                return float(text)
        raise argparse.ArgumentTypeError(f"{text} is not a number that is greater than 0 and at most {limit}")

    return parse


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text} is not a number of lines")
    return int(text)


def _add_site(parser: argparse.ArgumentParser) -> None:
    _add_workspace(parser)
    _add_parameters(parser, "seasons", "site_url", "source")


def _add_live(parser: argparse.ArgumentParser) -> None:
    _add_workspace(parser)
    parser.add_argument("--collection", default=MAIN_COLLECTION, help="whose model it is. Default: %(default)s.")


def _add_parameters(parser: argparse.ArgumentParser, *names: str) -> None:
    """Add options for parameters of the flow."""
    from flows.parameters import RetrainParameters

    for name in names:
        field = RetrainParameters.model_fields[name]
        if field.annotation is bool:
            action = argparse.BooleanOptionalAction
            parser.add_argument(f"--{name}", action=action, default=field.default, help=field.description)
            continue
        choices = get_args(field.annotation) if get_origin(field.annotation) is Literal else None
        default = "" if field.default is None else " Default: %(default)s."
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            default=field.default,
            choices=choices,
            help=f"{field.description}{default}",
        )


def _add_table(parser: argparse.ArgumentParser) -> None:
    from ml.commands import TABLE_HELP, add_table_options

    parser.add_argument("--catalogue", metavar="TABLE", help=f"{TABLE_HELP} It is read instead of a site.")
    parser.add_argument(
        "--posters",
        metavar="DIR",
        help="Folder of the table's poster files. Posters without a file are downloaded from the table's addresses.",
    )
    add_table_options(parser)
    _add_parameters(parser, "collection")


def _add_workspace(parser: argparse.ArgumentParser) -> None:
    """Add the option for the workspace. All commands have the same default, so that they find each other's stack."""
    workspace = os.environ.get(environment_variable("workspace")) or Settings.model_fields["workspace"].default
    parser.add_argument(
        "--workspace",
        type=lambda text: Path(text).absolute(),
        default=str(Path(workspace).absolute()),
        help="folder of all data, and of the stack that commands share; default: %(default)s",
    )


def _demo(args: argparse.Namespace) -> None:
    if read_settings().cloud == "google":
        raise ConfigurationError("The demo runs on this machine only. Unset ANIME_GENRE_CLOUD for it.")
    check_cloud(read_settings())
    with new_stack(args.workspace, Ports(), BUILT_IN_COLLECTION) as stack:
        site_url = start_built_in_site(args.workspace, stack.processes)
        from flows.demo import run_demo

        run_demo(args.workspace, site_url)


def _up(args: argparse.Namespace) -> None:
    from flows.parameters import check_site

    check_cloud(read_settings())
    check_schedule(args.cron, args.timezone)
    table, given = _table(args), None
    if args.collection and not (args.site_url or args.catalogue):
        raise ConfigurationError("--collection needs a site or a table: name it with --site-url or --catalogue.")
    if args.site_url or args.catalogue:
        site = {"site_url": args.site_url} if args.site_url else {}
        given = _parameters(table=_config(table), collection=args.collection, **site)
        check_site(given)
    collection = given.collection_name if given else BUILT_IN_COLLECTION
    check_service_name(read_settings(collection))
    ports = Ports(prefect=args.prefect_port, mlflow=args.mlflow_port, function=args.function_port)
    with new_stack(args.workspace, ports, collection) as stack:
        from flows.demo import demo_parameters
        from flows.up import keep_up

        parameters = (
            _uploaded(given, table) if given else demo_parameters(start_built_in_site(args.workspace, stack.processes))
        )
        schedule = ["--cron", args.cron, "--timezone", args.timezone]
        schedule += ["--interval-seconds", str(args.interval_seconds)] if args.interval_seconds else []
        keep_up(stack, args.workspace, parameters, args.tensorboard_port, args.page_port, schedule)


def _retrain(args: argparse.Namespace) -> None:
    from flows.parameters import check_parameters
    from ml.commands import read_options
    from ml.configuration import GateConfig, TrainConfig
    from tasks.catalogue.configuration import DatasetConfig
    from tasks.crawl.addresses import check_reachable

    check_cloud(read_settings())
    table = _table(args)
    parameters = _site_parameters(
        args,
        table=_config(table),
        collection=args.collection,
        promote=args.promote,
        crawl=args.crawl,
        train_on=args.train_on,
        train=read_options(args, TrainConfig),
        preprocess=read_options(args, DatasetConfig),
        gate=read_options(args, GateConfig),
    )
    check_parameters(parameters)
    check_service_name(read_settings(parameters.collection_name))
    if parameters.crawl and not parameters.source_url.startswith("gs://"):
        check_reachable(parameters.source_url)
    with connected(args.workspace, parameters.collection_name, _up_options(args)):
        parameters = _uploaded(parameters, table)
        from rich.console import Console

        from flows.summary import run_retrain, show, show_predictions, write_summary

        console = Console(markup=False, emoji=False)  # titles are printed as they are
        summary = run_retrain(parameters)
        show(summary, console)
        write_summary(summary, args.workspace / "summary.json")
        show_predictions(summary, console)


def _table(args: argparse.Namespace) -> "TableConfig | LocalTable":
    """The table given by the options of `_add_table`: by addresses, or on this machine."""
    from flows.table_upload import read_local_table
    from tasks.table.configuration import TableConfig

    for name in _TABLE_OPTIONS:
        if getattr(args, name) and not args.catalogue:
            raise ConfigurationError(f"--{name.replace('_', '-')} needs a table: name it with --catalogue.")
    columns = tuple(f"{role}={name}" for role, name in args.columns.items())
    config = TableConfig(columns=columns, separator=args.separator, image_base=args.image_base)
    if not args.catalogue or "://" in args.catalogue:
        return replace(config, catalogue=args.catalogue or "", posters=args.posters or "")
    return read_local_table(Path(args.catalogue), Path(args.posters) if args.posters else None, config)


def _config(table: "TableConfig | LocalTable") -> "TableConfig":
    from flows.table_upload import LocalTable

    return table.config if isinstance(table, LocalTable) else table


def _uploaded(parameters: "RetrainParameters", table: "TableConfig | LocalTable") -> "RetrainParameters":
    """The parameters with the table's address in the bucket. A table on this machine is uploaded first."""
    from flows.table_upload import LocalTable
    from tasks.champion import check_collection

    if not isinstance(table, LocalTable):
        return parameters
    check_collection(read_settings(parameters.collection_name))
    if table.downloads:
        print(f"{counted(table.downloads, 'poster')} without a file will be downloaded from the table's addresses.")
    print(f"Uploading the table and {counted(len(table.posters), 'poster')} ...", flush=True)
    return parameters.model_copy(update={"table": table.upload(parameters.collection_name)})


def _up_options(args: argparse.Namespace) -> list[str]:
    """The options with which `up` goes on with the collection of `retrain`, `rollback` or `promote`."""
    from tasks.myanimelist.page_addresses import SITE_URL

    given, site_url = {name: value for name, value in vars(args).items() if value}, getattr(args, "site_url", SITE_URL)
    if "catalogue" in given:
        options = {name: given.get(name) for name in ("catalogue", *_TABLE_OPTIONS, "collection")}
        options["columns"] = ",".join(f"{role}={name}" for role, name in args.columns.items())
    elif site_url != SITE_URL or args.collection in (None, MAIN_COLLECTION):
        options = {"site_url": site_url, "collection": given.get("collection")}
    elif args.collection == BUILT_IN_COLLECTION:
        options = {}
    else:
        options = {"catalogue": "TABLE", "collection": args.collection}
    return [part for name, value in options.items() if value for part in (f"--{name.replace('_', '-')}", str(value))]


def _collect(args: argparse.Namespace) -> None:
    from flows.collect import run_collect, show_estimate
    from flows.parameters import check_site
    from tasks.crawl.addresses import check_reachable

    parameters = _site_parameters(args)
    if args.dry_run:
        show_estimate(args.workspace, parameters)
        return
    check_site(parameters)
    check_reachable(parameters.source_url)
    run_collect(prepare_workspace(args.workspace), parameters)


def _reparse(args: argparse.Namespace) -> None:
    from flows.collect import run_reparse
    from ml.commands import read_options
    from tasks.catalogue.configuration import DriftLimits

    run_reparse(args.workspace, read_options(args, DriftLimits))


def _train_worker(args: argparse.Namespace) -> None:
    separate_password()
    if not api_url():
        raise ConfigurationError("A worker needs the Prefect server of the runs. Set PREFECT_API_URL to its address.")
    check_server()
    from flows.train_step import serve_trainings

    serve_trainings(args.pool, prepare_workspace(args.workspace))


def _rollback(args: argparse.Namespace) -> None:
    with connected(args.workspace, args.collection, _up_options(args)):
        from flows.rollback import run_rollback

        run_rollback(args.collection, args.to)


def _promote(args: argparse.Namespace) -> None:
    with connected(args.workspace, args.collection, _up_options(args)):
        from flows.rollback import run_promote

        run_promote(args.collection, args.version)


def _history(args: argparse.Namespace) -> None:
    with connected(args.workspace, args.collection):
        from flows.rollback import show_history

        show_history(args.collection)


def _predict_catalogue(args: argparse.Namespace) -> None:
    with connected(args.workspace, args.collection):
        from flows.predict_catalogue import run_predict_catalogue

        run_predict_catalogue(args.collection, args.bundle)


def _prune(args: argparse.Namespace) -> None:
    with connected(args.workspace, MAIN_COLLECTION):
        from flows.prune import prune

        prune(datetime.now(UTC) - timedelta(weeks=args.weeks), args.dry_run)


def _status(args: argparse.Namespace) -> None:
    os.environ.update(running_stack_environment(args.workspace) or {})
    separate_password()
    from flows.status import show_status

    show_status(args.workspace, args.collection)


def _logs(args: argparse.Namespace) -> None:
    from flows.service_logs import show_log

    show_log(args.workspace, args.name, args.lines)


def _monitor(args: argparse.Namespace) -> int:
    from flows.monitor import run_monitor

    os.environ.update(running_stack_environment(args.workspace) or {})
    return run_monitor(args.log, args.reference, read_settings())


def _doctor(args: argparse.Namespace) -> int:
    from flows.doctor import run_doctor

    settings = read_settings()
    if args.trial and settings.cloud == "local" and not settings.cloud_run_endpoint:
        environment = running_stack_environment(args.workspace)
        if environment is None:
            raise ConfigurationError(
                f"There is nothing to try: no stack is running in {args.workspace}. Start one with `anime-genre up`, "
                "or set ANIME_GENRE_CLOUD=google."
            )
        os.environ.update(environment)
        settings = read_settings()
    return run_doctor(args.workspace, _PORTS, settings, args.trial)


def _reset(args: argparse.Namespace) -> None:
    from flows.reset import reset_workspace

    reset_workspace(args.workspace, args.yes)


def _site_parameters(args: argparse.Namespace, **others: Any) -> "RetrainParameters":
    """The parameters given by the options of `_add_site` and of `CollectConfig`."""
    from ml.commands import read_options
    from tasks.catalogue.configuration import CollectConfig

    collect = read_options(args, CollectConfig)
    return _parameters(
        seasons=args.seasons.lower(), site_url=args.site_url, source=args.source, collect=collect, **others
    )


def _parameters(**given: Any) -> "RetrainParameters":
    """Return the parameters of a run; raise ConfigurationError, which names the option, if a value is invalid."""
    from pydantic import ValidationError

    from flows.parameters import RetrainParameters

    try:
        return RetrainParameters(**given)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        description = RetrainParameters.model_fields[name].description
        option = name.replace("_", "-")
        sentence = str(description).partition(". ")[0].rstrip(".")
        raise ConfigurationError(f"Invalid --{option}: {first['input']!r:.80}. {sentence}.") from None


if __name__ == "__main__":
    sys.exit(main())
