"""The doctor names each planted fault and the command that mends it, and finds nothing where nothing is missing."""

import hashlib
import json
import shlex
import socket
import threading
import time
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from flows.cli import main
from infra import disk, rights
from infra.doctor import (
    check_disk,
    check_packages,
    check_ports,
    check_weights,
)
from infra.errors import ConfigurationError, ServiceUnavailable
from infra.local.processes import free_port
from infra.rights import Check, check_google_cloud, require_google_cloud
from infra.settings import Settings
from tests.infra.google_iam import BUCKET, NUMBER, PROJECT, REPOSITORY, SERVICE, GoogleIam, google_iam

PIPELINE, FUNCTION, BUILD, CALLER = (
    f"{name}@{PROJECT}.iam.gserviceaccount.com" for name in ("pipeline", "function", "build", "caller")
)
DEFAULT_ACCOUNT = f"{NUMBER}-compute@developer.gserviceaccount.com"
MEMBER = f"--member=serviceAccount:{PIPELINE}"
LOCATION = f"--location europe-west1 --project {PROJECT}"
REGION = f"--region europe-west1 --project {PROJECT}"
ON_PROJECT = f"gcloud projects add-iam-policy-binding {PROJECT} {MEMBER}"
ON_ACCOUNT = "gcloud iam service-accounts add-iam-policy-binding"
ON_REPOSITORY = f"gcloud artifacts repositories add-iam-policy-binding {REPOSITORY} {LOCATION} {MEMBER}"
ON_SERVICE = f"gcloud run services add-iam-policy-binding {SERVICE} {REGION} {MEMBER}"


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    return tmp_path / "account.json"


@pytest.fixture
def google(key_file: Path, private_key: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[GoogleIam]:
    """Google's APIs, and the key of the account `pipeline`."""
    account = {"type": "service_account", "client_email": PIPELINE, "private_key": private_key}
    with google_iam() as running:
        key_file.write_text(json.dumps({**account, "token_uri": f"{running.url}/token"}))
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(key_file))
        yield running
    assert running.unexpected == []


def google_settings(**changes: str) -> Settings:
    accounts = {"function_service_account": FUNCTION, "build_service_account": BUILD}
    settings = {"google_project": PROJECT, "bucket": BUCKET, "service": SERVICE, **accounts, **changes}
    return Settings.model_validate(settings)


def problems(checks: Iterator[Check]) -> list[Check]:
    """The checks with a problem. Each remedy is a command that a shell can read."""
    found = [check for check in checks if check.problem]
    for check in found:
        assert shlex.split(check.remedy) and check.problem.endswith(".")
    return found


def test_google_project_with_everything_has_no_problem(google: GoogleIam) -> None:
    checks = list(check_google_cloud(google_settings(caller_service_account=CALLER), google.address))
    assert [check.problem for check in checks] == [""] * len(checks)
    assert [check.name.split(":")[0] for check in checks[-9:]] == [
        "Right to read, write and delete objects",
        f"Repository {REPOSITORY}",
        "Right to read images",
        "Right to submit and read builds",
        "Right to read operations of Cloud Run",
        "Right to deploy with this account",
        "Right to deploy with this account",
        "Right to draw ID tokens of this account",
        "Right to deploy the function",
    ]


@pytest.mark.parametrize(
    ("kind", "value", "problem", "remedy"),
    [
        (
            "disabled",
            "run",
            "run.googleapis.com is not enabled",
            f"gcloud services enable run.googleapis.com --project {PROJECT}",
        ),
        (
            "disabled",
            "cloudresourcemanager",
            "cloudresourcemanager.googleapis.com is not enabled",
            f"gcloud services enable cloudresourcemanager.googleapis.com --project {PROJECT}",
        ),
        ("missing", PROJECT, f"{PROJECT} does not exist, or", "gcloud projects list"),
        (
            "missing",
            BUCKET,
            "gs://my-bucket-1 does not exist",
            f"gcloud storage buckets create gs://{BUCKET} --project {PROJECT} --location",
        ),
        (
            "denied",
            "storage.objects.delete",
            "storage.objects.delete on gs://my-bucket-1 is missing",
            f"gcloud storage buckets add-iam-policy-binding gs://{BUCKET} {MEMBER} --role=roles/storage.objectUser",
        ),
        (
            "missing",
            REPOSITORY,
            f"{REPOSITORY} does not exist in europe-west1",
            f"gcloud artifacts repositories create {REPOSITORY} --project {PROJECT} --location europe-west1",
        ),
        (
            "denied",
            "artifactregistry.repositories.get",
            "artifactregistry.repositories.get",
            f"{ON_REPOSITORY} --role=roles/artifactregistry.reader",
        ),
        (
            "denied",
            "cloudbuild.builds.create",
            "cloudbuild.builds.create on my-project-1",
            f"{ON_PROJECT} --role=roles/cloudbuild.builds.editor",
        ),
        ("denied", "run.operations.get", "run.operations.get on my-project-1", f"{ON_PROJECT} --role=roles/run.viewer"),
        (
            "denied",
            f"iam.serviceAccounts.actAs on {FUNCTION}",
            f"iam.serviceAccounts.actAs on {FUNCTION}",
            f"{ON_ACCOUNT} {FUNCTION} --project {PROJECT} {MEMBER} --role=roles/iam.serviceAccountUser",
        ),
        (
            "denied",
            f"iam.serviceAccounts.actAs on {BUILD}",
            f"iam.serviceAccounts.actAs on {BUILD}",
            f"{ON_ACCOUNT} {BUILD} --project {PROJECT} {MEMBER} --role=roles/iam.serviceAccountUser",
        ),
        (
            "missing",
            BUILD,
            f"account {BUILD} does not exist",
            f"gcloud iam service-accounts create build --project {PROJECT}",
        ),
        (
            "denied",
            "iam.serviceAccounts.getOpenIdToken",
            f"iam.serviceAccounts.getOpenIdToken on {CALLER}",
            f"{ON_ACCOUNT} {CALLER} --project {PROJECT} {MEMBER} --role=roles/iam.serviceAccountOpenIdTokenCreator",
        ),
        (
            "denied",
            "run.services.update",
            "run.services.update on anime-genre",
            f"{ON_SERVICE} --role=roles/run.developer",
        ),
    ],
)
def test_fault_on_google_cloud_is_named_with_its_remedy(
    google: GoogleIam, kind: str, value: str, problem: str, remedy: str
) -> None:
    getattr(google, kind).add(value)
    (found,) = problems(check_google_cloud(google_settings(caller_service_account=CALLER), google.address))
    assert problem in found.problem
    assert found.remedy.startswith(remedy)


def test_credentials_that_google_refuses_are_named(google: GoogleIam) -> None:
    google.expired = True
    (found,) = problems(check_google_cloud(google_settings(), google.address))
    assert "expired" in found.problem and found.remedy == "gcloud auth application-default login"


def test_credentials_that_are_absent_are_named(google: GoogleIam, key_file: Path) -> None:
    key_file.unlink()
    (found,) = problems(check_google_cloud(google_settings(), google.address))
    assert "no credentials" in found.problem and found.remedy == "gcloud auth application-default login"


def test_project_without_billing_is_named(google: GoogleIam) -> None:
    google.without_billing = True
    found = problems(check_google_cloud(google_settings(), google.address))
    assert {each.remedy for each in found} == {f"gcloud billing projects link {PROJECT} --billing-account ACCOUNT"}


def test_google_that_does_not_answer_is_named(google: GoogleIam) -> None:
    (found,) = problems(check_google_cloud(google_settings(), f"http://127.0.0.1:{free_port()}/{{api}}"))
    assert found.problem == "Google Cloud does not answer."


@pytest.mark.parametrize("silent", ["tokens", "APIs"])
def test_google_that_stays_silent_is_named_after_one_timeout(
    silent: str, google: GoogleIam, key_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rights, "_TIMEOUT_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        if silent == "tokens":
            key_file.write_text(key_file.read_text().replace(f"{google.url}/token", f"{url}/token"))
        started = time.monotonic()
        (found,) = problems(
            check_google_cloud(google_settings(), google.address if silent == "tokens" else f"{url}/{{api}}")
        )
    assert found.problem == "Google Cloud does not answer."
    assert time.monotonic() - started < 1.4


def test_settings_that_are_absent_are_named() -> None:
    (found,) = problems(check_google_cloud(Settings(bucket=BUCKET)))
    assert found.problem == "ANIME_GENRE_GOOGLE_PROJECT is not set."


def test_default_accounts_are_checked_where_none_are_set(google: GoogleIam) -> None:
    google.denied.add("iam.serviceAccounts.actAs")
    settings = google_settings(function_service_account=FUNCTION).model_copy(update={"build_service_account": None})
    found = problems(check_google_cloud(settings, google.address))
    assert [each.remedy.split()[4] for each in found] == [DEFAULT_ACCOUNT, FUNCTION]


def test_default_account_that_does_not_exist_comes_with_its_api(google: GoogleIam) -> None:
    google.missing.add(DEFAULT_ACCOUNT)
    settings = Settings(google_project=PROJECT, bucket=BUCKET, service=SERVICE)
    (found,) = problems(check_google_cloud(settings, google.address))
    assert found.problem == f"The service account {DEFAULT_ACCOUNT} does not exist."
    assert found.remedy == f"gcloud services enable compute.googleapis.com --project {PROJECT}"


def test_account_that_may_not_be_seen_is_said_to_be_missing_or_hidden(google: GoogleIam) -> None:
    google.denied |= {"iam.serviceAccounts.get", f"iam.serviceAccounts.actAs on {BUILD}"}
    (found,) = problems(check_google_cloud(google_settings(), google.address))
    assert found.problem == f"The service account {BUILD} does not exist, or these credentials may not see it."
    assert found.remedy.startswith(f"{ON_ACCOUNT} {BUILD} ") and found.remedy.endswith("roles/iam.serviceAccountUser")


def test_account_that_does_not_exist_is_created_in_its_own_project(google: GoogleIam) -> None:
    """With a wildcard for it, Google does not say that an account is missing."""
    of_organisation = "build@my-project-2.my-company.example.iam.gserviceaccount.com"
    google.missing.add(of_organisation)
    (found,) = problems(check_google_cloud(google_settings(build_service_account=of_organisation), google.address))
    assert found.remedy == "gcloud iam service-accounts create build --project my-company.example:my-project-2"


def test_service_that_does_not_exist_needs_the_right_to_create_it(google: GoogleIam) -> None:
    google.missing.add(SERVICE)
    assert problems(check_google_cloud(google_settings(), google.address)) == []
    google.denied.add("run.services.create")
    (found,) = problems(check_google_cloud(google_settings(), google.address))
    assert found.remedy == f"{ON_PROJECT} --role=roles/run.developer"


def test_right_that_google_cannot_test_does_not_end_a_run(google: GoogleIam) -> None:
    google.untestable.add("run.operations.get")
    checks = list(check_google_cloud(google_settings(), google.address))
    assert problems(iter(checks)) == []
    assert [check.name for check in checks if "could not be checked" in check.name] == [
        "Right to read operations of Cloud Run: my-project-1. This could not be checked: "
        "Permission is not valid for this resource."
    ]
    require_google_cloud(google_settings(), google.address)


def test_trial_needs_further_rights_on_the_project(google: GoogleIam) -> None:
    google.denied |= {"run.services.delete", f"run.routes.invoke on {PROJECT}"}
    assert problems(check_google_cloud(google_settings(), google.address)) == []
    found = problems(check_google_cloud(google_settings(), google.address, trial=True))
    assert [each.remedy for each in found] == [
        f"{ON_PROJECT} --role=roles/run.developer",
        f"{ON_PROJECT} --role=roles/run.invoker",
    ]


def test_right_to_call_the_function_is_needed_without_a_caller_account(google: GoogleIam) -> None:
    google.denied.add("run.routes.invoke")
    (found,) = problems(check_google_cloud(google_settings(), google.address))
    assert found.remedy == f"{ON_SERVICE} --role=roles/run.invoker"


def test_run_ends_before_anything_is_built_with_the_command_that_mends_it(google: GoogleIam) -> None:
    require_google_cloud(google_settings(), google.address)
    google.denied.add("cloudbuild.builds.create")
    with pytest.raises(ConfigurationError, match=r"^The permission cloudbuild.builds.create on my-project-1") as error:
        require_google_cloud(google_settings(), google.address)
    assert f"{ON_PROJECT} --role=roles/cloudbuild.builds.editor" in str(error.value)
    with pytest.raises(ServiceUnavailable, match="does not answer"):
        require_google_cloud(google_settings(), f"http://127.0.0.1:{free_port()}/{{api}}")
    google.busy = True
    with pytest.raises(ServiceUnavailable, match="Quota exceeded"):
        require_google_cloud(google_settings(), google.address)


def write_metadata(folder: Path, *lines: str) -> None:
    (folder / "anime_genre-9.dist-info").mkdir()
    header = ["Metadata-Version: 2.1", "Name: anime-genre", "Version: 9"]
    (folder / "anime_genre-9.dist-info" / "METADATA").write_text("\n".join([*header, *lines]) + "\n")


@pytest.mark.parametrize(
    ("lines", "problem", "remedy"),
    [
        (["Requires-Python: >=3.99"], "but >=3.99 is required", "make clean && make install PYTHON=python3.99"),
        (
            ["Requires-Dist: numpy>=99"],
            "1 package missing or of another version: numpy>=99.",
            "make install",
        ),
        (["Requires-Dist: absent-package"], "absent-package", "make install"),
    ],
)
def test_python_and_packages_of_other_versions_are_named(
    lines: list[str], problem: str, remedy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_metadata(tmp_path, *lines, 'Requires-Dist: another-absent-package; extra == "dev"')
    monkeypatch.syspath_prepend(tmp_path)
    (found,) = problems(check_packages())
    assert problem in found.problem and found.remedy == remedy


def test_port_that_is_taken_is_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        ports = {"prefect": free_port(), "mlflow": taken.getsockname()[1]}
        (found,) = problems(check_ports(tmp_path, ports))
    assert found.remedy == "anime-genre up --mlflow-port 0"


def test_disk_without_space_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert check_disk(tmp_path).problem == ""
    monkeypatch.setattr(disk, "MIN_FREE_BYTES", 10**18)
    (found,) = problems(iter([check_disk(tmp_path)]))
    assert "nearly full" in found.problem and str(tmp_path) in found.remedy


@pytest.fixture
def file_server(tmp_path: Path) -> Iterator[str]:
    """The address of a server with the files of the folder."""
    handler = partial(SimpleHTTPRequestHandler, directory=tmp_path)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.train
def test_weights_are_in_the_workspace_or_can_be_downloaded(tmp_path: Path, file_server: str) -> None:
    from ml.networks.weights import is_downloaded  # it imports torch

    name = f"net-{hashlib.sha256(b'weights').hexdigest()[:8]}.pth"
    workspace, url = tmp_path / "workspace", f"{file_server}/{name}"
    workspace.mkdir()
    for damaged in (False, True):
        if damaged:
            (workspace / name).write_bytes(b"damaged")
        (found,) = problems(iter([check_weights("net", url, is_downloaded(url, workspace))]))
        assert url in found.problem and found.remedy == "anime-genre retrain --weights none"
    (tmp_path / name).write_bytes(b"weights")
    assert check_weights("net", url, is_downloaded(url, workspace)).problem == ""
    (workspace / name).write_bytes(b"weights")
    gone = f"http://127.0.0.1:{free_port()}/{name}"
    assert check_weights("net", gone, is_downloaded(gone, workspace)).problem == ""


@pytest.mark.train
def test_servers_that_do_not_answer_are_named(
    tmp_path: Path, file_server: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through the command, which prints each problem and its remedy and ends with the exit code 1."""
    gone = f"http://127.0.0.1:{free_port()}"
    monkeypatch.setenv("PREFECT_API_URL", f"{gone}/api")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", gone)
    assert main(["doctor", "--workspace", str(tmp_path / "workspace")]) == 1
    printed = capsys.readouterr().out
    assert (
        f"No Prefect server is reachable at PREFECT_API_URL={gone}/api.\n         Mend it with: prefect server start\n"
        in printed
    )
    assert f"MLflow does not answer at MLFLOW_TRACKING_URI={gone}.\n         Mend it with: mlflow server" in printed
    assert "ok       Disk space" in printed and "Google" not in printed
    assert not (tmp_path / "workspace").exists()

    (tmp_path / "health").write_text("OK")
    monkeypatch.setenv("PREFECT_API_URL", file_server)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", file_server)
    main(["doctor", "--workspace", str(tmp_path / "workspace")])
    printed = capsys.readouterr().out
    assert f"ok       Prefect at {file_server}" in printed and f"ok       MLflow at {file_server}" in printed
