"""The command line: invalid input gives one sentence and a non-zero exit code before anything starts."""

import os
import pwd
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import StringIO
from pathlib import Path

import pytest
from filelock import FileLock
from requests.utils import should_bypass_proxies

from flows import cli, connection, rollback
from flows.cli import main, parser
from flows.parameters import RetrainParameters
from flows.prefect_access import api_url, is_server_reachable, separate_password
from flows.retrain import retrain
from flows.table_upload import read_local_table
from infra.errors import ConfigurationError
from ml.training.candidates import CANDIDATES
from tasks.table.configuration import TableConfig
from tests.small_site import small_site

ROOT = Path(__file__).parents[2]


def error_of(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Run a command that fails, and return its error message with its details."""
    code = main(arguments)
    error = capsys.readouterr().err.strip()
    assert code == 1
    assert "Traceback" not in error
    assert error.startswith("anime-genre: ") and error.count("anime-genre: ") == 1
    assert "hidden" not in error
    return error


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--seasons", "2015-sumer"], "Invalid --seasons: '2015-sumer'. Range of seasons (winter, spring"),
        (["--seasons", "2019-fall..2015-winter"], "end before they begin"),
        (["--site-url", "myanimelist.net"], "Invalid --site-url: 'myanimelist.net'."),
        (["--source", "api", "--site-url", "http://127.0.0.1:9"], "set MAL_CLIENT_ID"),
        (["--catalogue", "https://h.example/t.csv?token=hidden"], "Download the table, and name the file"),
        (["--catalogue", "https://me:hidden@h.example/t.csv"], "Download the table, and name the file"),
        (["--no-crawl", "--catalogue", "https://h.example/t.csv"], "A run without a crawl reads no table."),
        (["--site-url", "http://127.0.0.1:9"], "The site http://127.0.0.1:9 cannot be reached"),
        (["--epochs", "0"], "epochs must be at least 1, not 0."),
        (["--device", "gpu"], "Invalid value 'gpu' for device."),
        (["--candidates", ","], "candidates must not be empty."),
        (["--labels", "genres,tags"], "Unknown labels 'tags'; choose from genres, themes, demographics."),
        (["--backbone", "resnet19", "--site-url", "http://127.0.0.1:9"], "resnet19"),
        (["--weights", __file__, "--site-url", "http://127.0.0.1:9"], "test_cli.py"),
        (["--train-on", "retrain/retrain"], "Invalid --train-on: 'retrain/retrain'. Deployment that trains on another"),
        (
            ["--train-on", "train-step/gpu", "--backbone", "local-dir:b", "--site-url", "http://127.0.0.1:9"],
            "config.json cannot be read",
        ),
        (["--max-emptied", "2"], "max_emptied must be at most 1, not 2.0."),
    ],
)
def test_retrain_names_an_invalid_setting_and_starts_nothing(
    options: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sentence in error_of(["retrain", "--workspace", str(tmp_path / "w"), *options], capsys)
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize("command", ["up", "retrain", "demo"])
@pytest.mark.parametrize(
    ("environment", "sentence"),
    [
        ({"BUCKET": "theirs"}, "ANIME_GENRE_BUCKET is set, but ANIME_GENRE_CLOUD=google is not."),
        ({"GOOGLE_PROJECT": "theirs"}, "ANIME_GENRE_GOOGLE_PROJECT is set, but ANIME_GENRE_CLOUD=google is not."),
        ({"CLOUD": "google", "BUCKET": "mine"}, "Set ANIME_GENRE_GOOGLE_PROJECT: with ANIME_GENRE_CLOUD=google"),
        ({"CLOUD": "google"}, "Set ANIME_GENRE_GOOGLE_PROJECT and ANIME_GENRE_BUCKET: with ANIME_GENRE_CLOUD=google"),
        ({"CLOUD": "amazon"}, "The environment variable ANIME_GENRE_CLOUD is invalid"),
        ({"BUCKET": ""}, "The environment variable ANIME_GENRE_BUCKET is invalid"),
    ],
)
def test_google_cloud_is_used_only_if_it_is_chosen_and_named(
    command: str,
    environment: dict[str, str],
    sentence: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(f"ANIME_GENRE_{name}", value)
    if command == "demo" and environment.get("CLOUD") == "google":
        sentence = "The demo runs on this machine only."
    assert sentence in error_of([command, "--workspace", str(tmp_path / "w")], capsys)
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize(
    ("command", "variables", "length"),
    [
        ("retrain", {}, 38),
        ("up", {}, 38),
        ("retrain", {"ANIME_GENRE_SERVICE": 40 * "s"}, 40),
        ("retrain", {"ANIME_GENRE_SERVICE": 37 * "s"}, None),
        ("retrain", {"ANIME_GENRE_CLOUD": "local"}, None),
    ],
)
def test_collection_whose_revisions_get_no_tag_is_refused_before_anything_starts(
    command: str,
    variables: dict[str, str],
    length: int | None,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    google = {"CLOUD": "google", "BUCKET": "mine", "GOOGLE_PROJECT": "my-project", "CLOUD_RUN_ENDPOINT": "http://h"}
    for name, value in ({f"ANIME_GENRE_{name}": value for name, value in google.items()} | variables).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(cli, "new_stack", None)
    site = "http://127.0.0.1:9"
    options = ["--workspace", str(tmp_path / "w"), "--site-url", site, "--collection", 26 * "c"]
    error = error_of([command, *options], capsys)
    if length:
        assert f"has {length} characters, and Cloud Run allows 37 here. Choose a shorter one with --collection" in error
        with pytest.raises(ConfigurationError, match="Cloud Run allows 37 here"):
            retrain.fn(RetrainParameters(site_url=site, collection=26 * "c"))
    else:
        assert f"The site {site} cannot be reached" in error
    assert not (tmp_path / "w").exists()


def test_run_with_another_prefect_server_needs_a_bucket_and_a_function(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with guarded_server("Bearer the-key") as address, small_site(20) as site:
        monkeypatch.setenv("PREFECT_API_KEY", "the-key")
        monkeypatch.setenv("PREFECT_API_URL", f"{address}/api")
        monkeypatch.setenv("ANIME_GENRE_WORKSPACE", "")  # the command sets it
        arguments = ["retrain", "--workspace", str(tmp_path), "--site-url", site]
        assert "No bucket and no function are chosen. Set ANIME_GENRE_CLOUD=google" in error_of(arguments, capsys)


@pytest.mark.parametrize(
    ("given", "hosts"),
    [
        ({}, "127.0.0.1,localhost"),
        ({"NO_PROXY": "intranet.example"}, "intranet.example,127.0.0.1,localhost"),
        ({"no_proxy": "intranet.example", "NO_PROXY": "other.example"}, "intranet.example,127.0.0.1,localhost"),
        ({"no_proxy": "", "NO_PROXY": "*"}, "*"),
        ({"no_proxy": "*"}, "*"),
    ],
)
def test_command_keeps_the_hosts_that_a_person_uses_without_a_proxy(
    given: dict[str, str], hosts: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, given.get(name, ""))
        if name not in given:
            monkeypatch.delenv(name)
    monkeypatch.setenv("https_proxy", "http://proxy.example:3128")
    main(["reset", "--workspace", str(tmp_path)])
    assert {os.environ["no_proxy"], os.environ["NO_PROXY"]} == {hosts}
    for host in ["127.0.0.1", *(["intranet.example"] if given else [])]:
        assert should_bypass_proxies(f"https://{host}/", None)


def test_retrain_names_an_unknown_candidate_and_the_choices(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    options = ["--workspace", str(tmp_path / "w"), "--site-url", "http://127.0.0.1:9", "--candidates", "scratch,scrach"]
    sentence = f"Unknown candidate network 'scrach'; choose from {', '.join(CANDIDATES)}."
    assert sentence in error_of(["retrain", *options], capsys)
    assert not (tmp_path / "w").exists()


def test_retrain_help_lists_the_candidates_and_the_labels(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "1000")
    with pytest.raises(SystemExit):
        main(["retrain", "--help"])
    printed = capsys.readouterr().out
    candidates = ", ".join(f"{name} ({each.description})" for name, each in CANDIDATES.items())
    assert f"separated by commas: {candidates}. Default: scratch,frozen." in printed
    assert "separated by commas: genres, themes, demographics. Default: genres." in printed


def test_retrain_names_a_prefect_server_that_is_not_reachable(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    with small_site(titles=20) as site_url:
        arguments = ["retrain", "--site-url", site_url, "--weights", "none", "--workspace", str(tmp_path)]
        assert "PREFECT_API_URL=http://127.0.0.1:9/api" in error_of(arguments, capsys)
        monkeypatch.setenv("PREFECT_API_URL", "")  # is not set: Prefect's active profile names the server
        monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
        profile = 'active = "team"\n[profiles.team]\nPREFECT_API_URL = "http://127.0.0.1:10/api"\n'
        (tmp_path / "profiles.toml").write_text(profile)
        assert "PREFECT_API_URL=http://127.0.0.1:10/api" in error_of(arguments, capsys)


@pytest.mark.parametrize(
    ("variable", "value", "sent"),
    [
        ("PREFECT_API_KEY", "the-key", "Bearer the-key"),
        ("PREFECT_API_AUTH_STRING", "me:pass", "Basic bWU6cGFzcw=="),
        ("PREFECT_API_URL", "http://me:pass@", "Basic bWU6cGFzcw=="),
    ],
)
@pytest.mark.parametrize("place", ["environment", "profile"])
def test_prefect_server_gets_the_credentials_of_the_environment_or_the_profile(
    variable: str, value: str, sent: str, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("PREFECT_API_URL", "PREFECT_API_KEY", "PREFECT_API_AUTH_STRING")
    for name in names:
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    with guarded_server(sent) as address:
        settings = {"PREFECT_API_URL": f"{address}/api", variable: value}
        if variable == "PREFECT_API_URL":
            settings[variable] = f"{address}/api".replace("http://", value)
        if place == "environment":
            for name, given in settings.items():
                monkeypatch.setenv(name, given)
        else:
            lines = [f'{name} = "{given}"' for name, given in settings.items()]
            (tmp_path / "profiles.toml").write_text("\n".join(['active = "team"', "[profiles.team]", *lines]))
        separate_password()
        assert api_url() == f"{address}/api"  # without the password, which would stand in links
        assert is_server_reachable()
        for name in names:
            monkeypatch.delenv(name, raising=False)
        (tmp_path / "profiles.toml").write_text(f'active = "a"\n[profiles.a]\nPREFECT_API_URL = "{address}/api"')
        assert not is_server_reachable()


@contextmanager
def guarded_server(authorization: str) -> Iterator[str]:
    """The address of a server that answers only with this header `Authorization`."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.headers.get("Authorization") == authorization else 401)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def test_up_names_a_taken_port_and_its_option(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        error = error_of(["up", "--prefect-port", str(port), "--workspace", str(tmp_path)], capsys)
    assert f"Port {port}" in error and "--prefect-port" in error


def test_up_names_an_invalid_port(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "Port 99999" in error_of(["up", "--mlflow-port", "99999", "--workspace", str(tmp_path)], capsys)


def test_up_names_an_invalid_site(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--site-url" in error_of(["up", "--site-url", "myanimelist.net", "--workspace", str(tmp_path)], capsys)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--cron", "rubbish"], "Invalid --cron: 'rubbish'. Give minute, hour"),
        (["--cron", "61 * * * *"], "Invalid --cron: '61 * * * *'."),
        (["--cron", "0 4 31 2 *"], "Invalid --cron: '0 4 31 2 *'."),  # never due
        (["--timezone", "Mars/Olympus"], "Unknown time zone for --timezone: 'Mars/Olympus'."),
        (["--timezone", "Europe"], "Unknown time zone for --timezone: 'Europe'."),
        (["--collection", "films"], "--collection needs a site or a table: name it with --site-url or --catalogue."),
        (["--columns", "genres=Genre"], "--columns needs a table: name it with --catalogue."),
        (["--separator", ";"], "--separator needs a table: name it with --catalogue."),
        (["--site-url", "http://127.0.0.1:9", "--image-base", "http://h/"], "--image-base needs a table:"),
    ],
)
def test_up_names_an_option_that_it_cannot_use_and_starts_nothing(
    options: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sentence in error_of(["up", *options, "--workspace", str(tmp_path / "w")], capsys)
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("retrain", "--site-url https://myanimelist.net"),
        (
            "retrain --site-url http://127.0.0.1:9 --collection built-in",
            "--site-url http://127.0.0.1:9 --collection built-in",
        ),
        ("retrain --no-crawl --collection films", "--catalogue TABLE --collection films"),
        (
            "retrain --catalogue a.csv --posters p --columns genres=A,file=B",
            "--catalogue a.csv --posters p --columns genres=A,file=B",
        ),
        ("rollback", "--site-url https://myanimelist.net --collection myanimelist"),
        ("rollback --collection built-in", ""),
        ("promote 2 --collection films", "--catalogue TABLE --collection films"),
    ],
)
def test_hint_to_keep_the_model_up_has_the_options_of_its_collection(command: str, options: str) -> None:
    assert cli._up_options(parser().parse_args(command.split())) == options.split()


def test_hint_to_keep_the_model_up_follows_only_commands_that_serve_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))  # without a profile
    monkeypatch.setenv("PREFECT_API_URL", "")
    monkeypatch.setattr(connection, "new_stack", lambda *_: nullcontext())
    with connection.connected(tmp_path, "films"):
        pass
    assert capsys.readouterr().out == ""
    with connection.connected(tmp_path, "films", ["--catalogue", "my films.csv"]):
        pass
    assert f"anime-genre up --catalogue 'my films.csv' --workspace {tmp_path}\n" in capsys.readouterr().out


def test_schedule_is_in_the_time_zone_of_the_machine_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    assert parser().parse_args(["up"]).timezone == "Asia/Tokyo"


@pytest.mark.parametrize("weeks", ["inf", "nan", "200000", "soon", "0"])
def test_prune_names_weeks_that_it_cannot_use_and_starts_nothing(
    weeks: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parser().parse_args(["prune", "--weeks", weeks])
    sentence = f"argument --weeks: {weeks} is not a number that is greater than 0 and at most 5200"
    assert sentence in capsys.readouterr().err


def test_person_without_a_name_is_named_by_number_in_the_history(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with `docker run --user 4711`: neither the environment nor the system's list of users has a name."""
    for variable in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", lambda user: {}[user])
    monkeypatch.setattr(os, "getuid", lambda: 4711)
    assert rollback._person() == f"4711@{socket.gethostname()}"


def test_up_refuses_two_schedules(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["up", "--cron", "0 3 * * *", "--interval-seconds", "60"])
    assert "not allowed with argument --cron" in capsys.readouterr().err


def test_demo_names_an_invalid_environment_variable(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANIME_GENRE_SERVICE_TIMEOUT_SECONDS", "soon")
    assert "ANIME_GENRE_SERVICE_TIMEOUT_SECONDS" in error_of(["demo", "--workspace", str(tmp_path)], capsys)
    monkeypatch.setenv("ANIME_GENRE_RETRY_DELAY_SECONDS", "10,60")
    assert "ANIME_GENRE_RETRY_DELAY_SECONDS" in error_of(["demo", "--workspace", str(tmp_path)], capsys)


def test_demo_names_a_workspace_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("no folder")
    assert f"{tmp_path}/file/w" in error_of(["demo", "--workspace", f"{tmp_path}/file/w"], capsys)


SOME_FILES = "id,genres,image_url\nfilms.csv,Action|Drama,\n" + "".join(
    f"{n},Drama|{'Hentai' if n == 3 else 'Action'},https://h.example/{n}.jpg\n" for n in range(1, 4)
)
"""A table of which one row has a file, the table itself, and two of the others are not explicit."""


@pytest.mark.parametrize(
    "table, options, reason",
    [
        (None, [], "cannot be read: No such file or directory."),
        ("id,genres\n1,Action|Drama\n", [], "has no addresses of posters. Give the folder of its files with --posters"),
        ("id,genres,cover\n1,Action|Drama,/1.jpg\n", [], "no complete addresses of posters. Complete them with --ima"),
        ("id,genres,cover\n1,Action|Drama,/1.jpg\n", [], "\n1 incomplete poster address, such as '/1.jpg'; --image"),
        ("id,genres,image_url\n1,Action|Drama,https://h.example/1.jpg\n", [], "need a contact"),
        (SOME_FILES, ["--posters", "."], "Requests to h.example need a contact"),
        (SOME_FILES, ["--posters", "."], "\n2 posters without a file would be downloaded. --columns poster_url="),
        ("file,genres\n1.jpg,Action|Drama\n", ["--posters", "."], "Of the table's 1 file, none is in ."),
        ("file,genres\n1.jpg,Action|Drama\n", ["--collection", "My Films"], "Invalid --collection: 'My Films'."),
    ],
)
def test_retrain_refuses_a_table_before_it_starts_services(
    table: str | None,
    options: list[str],
    reason: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    if table:
        (tmp_path / "films.csv").write_text(table)
    if "--collection" in options:
        (tmp_path / "1.jpg").write_bytes(b"")
        options = [*options, "--posters", "."]
    assert reason in error_of(["retrain", "--catalogue", "films.csv", *options], capsys)
    assert not (tmp_path / "workspace").exists()


def test_retrain_uploads_no_posters_of_explicit_titles(tmp_path: Path) -> None:
    table = tmp_path / "films.csv"
    table.write_text("id,genres\n1,Hentai|Drama\n2,Drama|Action\n")
    for id in "12":
        (tmp_path / f"{id}.jpg").write_bytes(id.encode())
    local = read_local_table(table, tmp_path, TableConfig())
    assert local.posters == {"2.jpg": tmp_path / "2.jpg"} and local.downloads == 0


def test_train_worker_names_the_addresses_that_it_lacks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))  # without a profile
    monkeypatch.setenv("PREFECT_API_URL", "")
    command = ["train-worker", "--workspace", str(tmp_path / "w")]
    assert "Set PREFECT_API_URL to its address." in error_of(command, capsys)
    for address in ("http://127.0.0.1:9/api", "myserver/api", "http://[::1/api"):
        monkeypatch.setenv("PREFECT_API_URL", address)
        assert f"No Prefect server is reachable at PREFECT_API_URL={address}." in error_of(command, capsys)
    assert not (tmp_path / "w").exists()


def test_commands_have_one_default_workspace(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch) -> None:
    def workspaces() -> set[Path]:
        commands = (["demo"], ["up"], ["retrain"], ["collect"], ["reparse"], ["reset"])
        return {parser().parse_args(command).workspace for command in commands}

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ANIME_GENRE_WORKSPACE", raising=False)
    assert workspaces() == {tmp_path / "workspace" / "live"}
    monkeypatch.setenv("ANIME_GENRE_WORKSPACE", "elsewhere")
    assert workspaces() == {tmp_path / "elsewhere"}
    assert parser().parse_args(["up", "--workspace", "named"]).workspace == tmp_path / "named"


def test_reset_says_what_goes_and_asks(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    workspace = tmp_path / "w"
    (workspace / "pages").mkdir(parents=True)
    (workspace / "pages" / "1.html.gz").write_bytes(b"x" * 2_000_000)
    (workspace / "ledger.sqlite").touch()
    for answer in ("no\n", "\n"):
        monkeypatch.setattr("sys.stdin", StringIO(answer))
        assert main(["reset", "--workspace", str(workspace)]) == 0
        printed = capsys.readouterr().out
        assert f"This deletes {workspace}" in printed and "2.0 MB  pages" in printed and "kept pages" in printed
        assert "Nothing was deleted." in printed and (workspace / "pages" / "1.html.gz").exists()
    monkeypatch.setattr("sys.stdin", StringIO(""))
    assert "Add --yes" in error_of(["reset", "--workspace", str(workspace)], capsys)
    with FileLock(workspace / "stack.lock"):
        assert "A stack is running" in error_of(["reset", "--workspace", str(workspace), "--yes"], capsys)
    assert (workspace / "pages" / "1.html.gz").exists()
    monkeypatch.setattr("sys.stdin", StringIO("yes\n"))
    assert main(["reset", "--workspace", str(workspace)]) == 0
    assert not workspace.exists()


def test_reset_deletes_no_folder_that_is_not_a_workspace(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    for name in ("pages", "bucket"):  # as in another project
        (tmp_path / name).mkdir()
    assert "is not a workspace" in error_of(["reset", "--workspace", str(tmp_path), "--yes"], capsys)
    assert (tmp_path / "letter.txt").exists()


def test_make_clean_keeps_every_workspace(tmp_path: Path) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name in (".venv/bin", "workspace/live/bucket", "flows/__pycache__"):
        (tmp_path / name).mkdir(parents=True)
    subprocess.run(["make", "clean"], cwd=tmp_path, check=True, capture_output=True)
    assert {path.name for path in tmp_path.iterdir()} == {"Makefile", "workspace", "flows"}
    assert (tmp_path / "workspace" / "live" / "bucket").exists()
