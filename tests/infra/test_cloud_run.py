"""The Cloud Run client with the stand-in: builds, candidate revisions, traffic and errors."""

import io
import itertools
import json
import time
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import requests
from pydantic import SecretStr

import serving
from infra.cloud_build import build_image
from infra.cloud_run import CloudRun
from infra.errors import ConfigurationError, DeploymentError, NotFound, ServiceUnavailable
from infra.revisions import RUNTIME_ENVIRONMENT, Image, Resources, Traffic
from infra.settings import Settings
from infra.store import Store
from tests.infra.conftest import AUTHORIZATION, TOKEN, Serve, run_api

pytestmark = pytest.mark.stack

SERVING = Path(serving.__file__).parent
NUMBERS = itertools.count(1)
SOURCE = """
import os
if os.environ.get("MODEL_VERSION") == "broken":
    raise SystemExit("this revision is broken")
def predict(request):
    return {"genres": [], "bundle": os.environ.get("BUNDLE_SHA256"), "revision": os.environ["K_REVISION"]}
"""


def zip_of(main: str) -> bytes:
    """A source zip with this main.py."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("main.py", main)
    return buffer.getvalue()


def bundle_at(url: str | None) -> str:
    """The bundle that the function at `url` serves."""
    response = requests.post(str(url), json={}, timeout=30)
    assert response.status_code == 200, response.text
    return str(response.json()["bundle"])


@pytest.fixture(scope="module")
def endpoint(storage_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a Cloud Run stand-in."""
    with run_api(tmp_path_factory.mktemp("cloud-run"), storage_url) as (address, _):
        yield address


@pytest.fixture
def run_settings(settings: Settings, endpoint: str) -> Settings:
    """Settings for both stand-ins, with a service of this test and a timeout that is long enough for a deployment."""
    changes = {
        "cloud_run_endpoint": endpoint,
        "cloud_run_token": SecretStr(TOKEN),
        "service": f"service-{next(NUMBERS)}",
        "service_timeout_seconds": 20,
    }
    return settings.model_copy(update=changes)


@pytest.fixture
def client(run_settings: Settings) -> CloudRun:
    """A client of the stand-in."""
    return CloudRun(run_settings)


@pytest.fixture
def image(run_settings: Settings) -> Image:
    """An image built from SOURCE."""
    Store(run_settings).write("functions/source.zip", zip_of(SOURCE))
    return build_image(run_settings, "functions/source.zip", "5" * 64)


def test_image_of_a_project_with_a_domain_has_a_slash_instead_of_the_colon(
    run_settings: Settings, image: Image
) -> None:
    settings = run_settings.model_copy(update={"google_project": "example.com:my-project"})
    built = build_image(settings, "functions/source.zip", "5" * 64)
    repository = f"{settings.google_region}-docker.pkg.dev/example.com/my-project/cloud-run-source-deploy"
    assert built.address.startswith(f"{repository}/{settings.service}@sha256:")
    assert CloudRun(settings).deploy_candidate(built, {"VERSION": "1"}).ready


def test_traffic_moves_to_the_next_revision_and_back(client: CloudRun, image: Image) -> None:
    assert client.live() is None
    assert client.revisions() == []
    assert client.built_image("5" * 64) is None

    first = client.deploy_candidate(image, {"BUNDLE_SHA256": "one"})
    assert bundle_at(first.url) == "one"
    assert client.live() is None, "it is not checked yet"
    live = client.send_traffic(first.name)
    assert client.live() == live
    assert live.name == first.name
    assert bundle_at(live.url) == "one"
    assert client.built_image("5" * 64) == image

    second = client.deploy_candidate(image, {"BUNDLE_SHA256": "two"})
    assert second.name != first.name
    assert second.ready
    assert bundle_at(second.url) == "two"
    assert bundle_at(live.url) == "one", "a candidate has no traffic"
    assert client.live() == live

    now_live = client.send_traffic(second.name)
    assert now_live.url == live.url, "the service's address is stable"
    assert bundle_at(live.url) == "two"
    assert now_live.environment == {**RUNTIME_ENVIRONMENT, "BUNDLE_SHA256": "two"}
    assert now_live.image == image

    assert [revision.name for revision in client.revisions()] == [second.name, first.name]
    assert client.send_traffic(first.name).name == first.name
    assert bundle_at(live.url) == "one", "rollback is a traffic change"
    assert client.live() == client.send_traffic(first.name)


def test_first_revision_is_not_live_unless_it_was_checked(client: CloudRun, image: Image) -> None:
    unchecked = client.deploy_candidate(image, {"BUNDLE_SHA256": "one"})
    second = client.deploy_candidate(image, {"BUNDLE_SHA256": "two"})
    assert client.live() is None
    live = client.send_traffic(second.name)
    assert (client.live(), bundle_at(live.url)) == (live, "two")
    assert client.deploy_candidate(image, {"BUNDLE_SHA256": "one"}).name == unchecked.name
    assert client.live() == live
    client.send_traffic(client.deploy_candidate(image, {}).name)
    assert client.live() is None, "a revision without a bundle is a placeholder"


def test_traffic_moved_by_another_tool_is_live_and_named_as_moved(
    client: CloudRun, image: Image, run_settings: Settings
) -> None:
    first = client.deploy_candidate(image, {"BUNDLE_SHA256": "one"})
    client.send_traffic(first.name)
    second = client.deploy_candidate(image, {"BUNDLE_SHA256": "two"})
    traffic = client.traffic()
    assert traffic and (traffic.revision.name, traffic.checked, traffic.moved) == (first.name, first.name, False)
    name = (
        f"projects/{run_settings.google_project}/locations/{run_settings.google_region}/services/{run_settings.service}"
    )
    kind = "TRAFFIC_TARGET_ALLOCATION_TYPE_REVISION"
    parts = [
        {"type": kind, "revision": second.name, "percent": 70},
        {"type": kind, "revision": first.name, "percent": 30},
    ]
    for targets in (parts, [{**parts[0], "percent": 100}]):
        response = requests.patch(
            f"{run_settings.cloud_run_endpoint}/v2/{name}?updateMask=traffic",
            json={"traffic": targets},
            headers=AUTHORIZATION,
            timeout=30,
        )
        assert response.status_code == 200
        deadline = time.monotonic() + 30
        while client.live().name != second.name and time.monotonic() < deadline:
            time.sleep(0.05)
        traffic = client.traffic()
        assert traffic and (traffic.revision.name, traffic.checked, traffic.moved) == (second.name, first.name, True)
        third = client.deploy_candidate(image, {"BUNDLE_SHA256": "three"})
        assert bundle_at(third.url) == "three"
        assert client.traffic() == traffic, "a candidate does not move the traffic back"
    sent = client.send_traffic(third.name)
    assert client.traffic() == Traffic(sent, third.name, moved=False)


def test_candidate_is_reused_if_nothing_differs_and_reuse_is_allowed(
    client: CloudRun, image: Image, run_settings: Settings
) -> None:
    environment = {"BUNDLE_SHA256": "one", "MODEL_VERSION": "1"}
    first = client.deploy_candidate(image, environment)
    again = client.deploy_candidate(image, dict(reversed(environment.items())))
    assert again.name == first.name
    assert bundle_at(again.url) == "one"
    assert len(client.revisions()) == 1
    fresh = client.deploy_candidate(image, environment, reuse=False)
    assert bundle_at(fresh.url) == "one"
    other = replace(image, source_sha256="6" * 64)
    source = client.deploy_candidate(other, environment)
    larger = run_settings.model_copy(update={"function_cpu": "2", "function_memory": "2Gi"})
    large = CloudRun(larger).deploy_candidate(other, environment)
    assert large.resources == Resources("2", "2Gi")
    assert len({first.name, fresh.name, source.name, large.name}) == 4
    with pytest.raises(DeploymentError, match="Revision 'unknown' of the traffic does not exist"):
        client.send_traffic("unknown")


def test_redeployment_keeps_what_others_have_set_in_the_service(
    run_settings: Settings, storage_url: str, tmp_path: Path
) -> None:
    """As in a service that Terraform made: account, VPC, secret, labels, instances, probe, volume, sidecar."""
    parent = f"projects/{run_settings.google_project}/locations/{run_settings.google_region}"
    name = f"{parent}/services/theirs"
    template = {
        "labels": {"team": "posters"},
        "annotations": {"owner": "them"},
        "serviceAccount": "function@test-project.iam.gserviceaccount.com",
        "scaling": {"minInstanceCount": 1, "maxInstanceCount": 3},
        "vpcAccess": {"connector": f"{parent}/connectors/theirs", "egress": "PRIVATE_RANGES_ONLY"},
        "executionEnvironment": "EXECUTION_ENVIRONMENT_GEN2",
        "volumes": [{"name": "cache", "emptyDir": {"medium": "MEMORY"}}],
        "timeout": "300s",
        "containers": [
            {"name": "sidecar", "image": "us-docker.pkg.dev/cloudrun/container/sidecar"},
            {
                "name": "function",
                "image": "us-docker.pkg.dev/cloudrun/container/hello",
                "ports": [{"name": "http1", "containerPort": 8080}],
                "env": [
                    {"name": "KEY", "valueSource": {"secretKeyRef": {"secret": "key", "version": "latest"}}},
                    {"name": "BUNDLE_SHA256", "value": "old"},
                    {"name": "DATASET_DATE", "value": "old"},
                    {"name": "THEIRS", "value": "yes"},
                ],
                "livenessProbe": {"httpGet": {"path": "/health"}, "periodSeconds": 60},
                "volumeMounts": [{"name": "cache", "mountPath": "/cache"}],
            },
        ],
    }
    service = {
        "name": name,
        "labels": {"team": "posters"},
        "annotations": {"owner": "them"},
        "description": "Theirs.",
        "ingress": "INGRESS_TRAFFIC_ALL",
        "template": template,
        "traffic": [{"type": "TRAFFIC_TARGET_ALLOCATION_TYPE_LATEST", "percent": 100}],
        "trafficStatuses": [{"type": "TRAFFIC_TARGET_ALLOCATION_TYPE_LATEST", "revision": "theirs-1", "percent": 100}],
        "latestReadyRevision": f"{name}/revisions/theirs-1",
        "latestCreatedRevision": f"{name}/revisions/theirs-1",
        "etag": "theirs",
    }
    ready = [{"type": "Ready", "state": "CONDITION_SUCCEEDED"}]
    revision = {"name": service["latestReadyRevision"], "createTime": "2026-01-01T00:00:00Z", "conditions": ready}
    revision["containers"] = template["containers"]
    state = tmp_path / "state" / "services" / "theirs.json"
    state.parent.mkdir(parents=True)
    state.write_text(json.dumps({"service": service, "revisions": [revision], "ports": {}}))
    with run_api(tmp_path / "state", storage_url) as (address, _):
        builder = "builder@test-project.iam.gserviceaccount.com"
        changes = {"cloud_run_endpoint": address, "build_service_account": builder, "service": "theirs"}
        settings = run_settings.model_copy(update=changes)
        Store(settings).write("functions/theirs.zip", zip_of(SOURCE))
        image = build_image(settings, "functions/theirs.zip", "5" * 64)
        client = CloudRun(settings)
        assert client.live() is None, "a placeholder is no model"
        candidate = client.deploy_candidate(image, {"BUNDLE_SHA256": "one"}, source="gs://bucket/source.zip")
        assert (bundle_at(candidate.url), candidate.environment["THEIRS"]) == ("one", "yes")
        assert "DATASET_DATE" not in candidate.environment
        client.send_traffic(candidate.name)
        again = client.deploy_candidate(image, {"BUNDLE_SHA256": "one"}, source="gs://bucket/source.zip")
        assert again.name == candidate.name
        account = {"function_service_account": "other@test-project.iam.gserviceaccount.com"}
        client = CloudRun(settings.model_copy(update=account))
        moved = client.deploy_candidate(image, {"BUNDLE_SHA256": "one"}, source="gs://bucket/source.zip")
        assert moved.name != candidate.name
        after = requests.get(f"{address}/v2/{name}", headers=AUTHORIZATION, timeout=30).json()
    runtime = f"{run_settings.google_region}-docker.pkg.dev/serverless-runtimes/google-22/runtimes/python313"
    assert after["buildConfig"] == {
        "functionTarget": "predict",
        "baseImage": "python313",
        "enableAutomaticUpdates": True,
        "sourceLocation": "gs://bucket/source.zip",
        "serviceAccount": f"projects/{run_settings.google_project}/serviceAccounts/{builder}",
    }
    assert after["template"].pop("serviceAccount") == account["function_service_account"]
    assert after["template"]["annotations"].pop("source-sha256") == image.source_sha256
    assert after["annotations"].pop("checked-revision") == candidate.name
    sidecar, function = after["template"]["containers"]
    expected_sidecar, expected = template["containers"]
    del template["serviceAccount"], template["timeout"], template["containers"]
    names = {"BUNDLE_SHA256", "DATASET_DATE"}
    assert (function["image"], function["baseImageUri"]) == (image.address, runtime)
    assert function["resources"]["cpuIdle"] and function["startupProbe"]["httpGet"] == {"path": "/health"}
    assert [each for each in expected.pop("env") if each["name"] not in names] == function["env"][:2]
    del expected["image"]
    assert sidecar == expected_sidecar
    assert function.items() >= expected.items()
    assert {field: after["template"][field] for field in template} == template
    assert {field: after[field] for field in ("labels", "annotations", "description", "ingress")} == {
        "labels": service["labels"],
        "annotations": service["annotations"],
        "description": "Theirs.",
        "ingress": "INGRESS_TRAFFIC_ALL",
    }


def test_traffic_that_moved_although_the_update_ended_in_an_error_is_reported_as_moved(
    client: CloudRun, image: Image
) -> None:
    """A service with a failed revision is not ready after an update of its traffic, but the traffic moves."""
    first = client.deploy_candidate(image, {"BUNDLE_SHA256": "one"})
    client.send_traffic(first.name)
    second = client.deploy_candidate(image, {"BUNDLE_SHA256": "two"})
    client.send_traffic(second.name)
    with pytest.raises(DeploymentError, match="this revision is broken"):
        client.deploy_candidate(image, {"MODEL_VERSION": "broken"})
    live = client.send_traffic(first.name)
    assert (live.name, bundle_at(live.url), client.live()) == (first.name, "one", live)
    with pytest.raises(DeploymentError, match="does not exist"):
        client.send_traffic("unknown")


def test_revision_that_does_not_start_is_named_and_traffic_stays(client: CloudRun, image: Image) -> None:
    good = client.deploy_candidate(image, {"BUNDLE_SHA256": "good"})
    live = client.send_traffic(good.name)
    broken = {"BUNDLE_SHA256": "bad", "MODEL_VERSION": "broken"}
    for attempt in (1, 2):
        with pytest.raises(DeploymentError, match=rf"-{attempt}' is not ready .* this revision is broken") as caught:
            client.deploy_candidate(image, broken)
        assert "add-iam-policy-binding gs://test-bucket" in caught.value.details
    assert client.live() == live
    assert bundle_at(live.url) == "good"
    assert [revision.ready for revision in client.revisions()] == [False, False, True]
    better = client.deploy_candidate(image, {"BUNDLE_SHA256": "better"})
    assert bundle_at(better.url) == "better"


def test_first_revision_that_does_not_start_is_not_live(client: CloudRun, image: Image) -> None:
    with pytest.raises(DeploymentError, match="this revision is broken"):
        client.deploy_candidate(image, {"MODEL_VERSION": "broken"})
    assert client.live() is None
    good = client.deploy_candidate(image, {"BUNDLE_SHA256": "good"})
    live = client.send_traffic(good.name)
    assert (client.live(), bundle_at(live.url)) == (live, "good")


def test_missing_service_source_or_image_is_named(client: CloudRun, run_settings: Settings) -> None:
    with pytest.raises(NotFound, match=f"no service {run_settings.service}"):
        client.send_traffic("missing")
    with pytest.raises(DeploymentError, match=r"gs://test-bucket/none\.zip does not exist"):
        build_image(run_settings, "none.zip", "7" * 64)
    with pytest.raises(NotFound, match="Image 'never-built' not found"):
        client.deploy_candidate(Image("never-built", "5" * 64), {})


@pytest.mark.parametrize(
    ("archive", "message"),
    [(b"no zip", "not a zip archive"), (zip_of("").replace(b"main", b"niam"), "no main.py")],
)
def test_build_of_an_invalid_source_fails_with_the_reason_and_the_address_of_its_log(
    run_settings: Settings, archive: bytes, message: str
) -> None:
    Store(run_settings).write("functions/bad.zip", archive)
    log = f"{run_settings.cloud_run_endpoint}/v1/projects/.*/locations/.*/builds/"
    with pytest.raises(DeploymentError, match=f"{message}. See its log, {log}"):
        build_image(run_settings, "functions/bad.zip", "8" * 64)


def test_build_account_without_rights_is_named_with_the_command_that_grants_them(
    settings: Settings, serve: Serve
) -> None:
    reason = "builder@example.iam.gserviceaccount.com does not have storage.objects.get access to the source"
    build = {"id": "1", "status": "FAILURE", "statusDetail": reason, "logUrl": "https://console.example.org/1"}
    url, _ = serve((200, {"buildOperation": {"name": "1", "metadata": {"build": {"id": "1"}}}}), (200, build))
    token = SecretStr(TOKEN)
    changes = {
        "cloud_run_endpoint": url,
        "cloud_run_token": token,
        "build_service_account": "builder@example.iam.gserviceaccount.com",
    }
    with pytest.raises(DeploymentError, match="See its log, https://console") as caught:
        build_image(settings.model_copy(update=changes), "object", "5" * 64)
    assert "--member=serviceAccount:builder@example.iam.gserviceaccount.com --role=roles/run.builder" in str(
        caught.value
    )


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (403, ConfigurationError),
        (429, ServiceUnavailable),
        (500, ServiceUnavailable),
        (503, ServiceUnavailable),
        (409, ServiceUnavailable),
        (400, DeploymentError),
    ],
)
def test_cloud_run_errors_are_translated(settings: Settings, serve: Serve, status: int, error: type[Exception]) -> None:
    url, _ = serve((status, {"error": {"code": status, "message": "the reason"}}))
    changed = settings.model_copy(update={"cloud_run_endpoint": url, "cloud_run_token": SecretStr(TOKEN)})
    with pytest.raises(error, match="the reason"):
        build_image(changed, "object", "5" * 64)


def test_cloud_run_is_unavailable_if_it_is_unreachable(settings: Settings) -> None:
    changes = {"cloud_run_endpoint": "http://127.0.0.1:1", "cloud_run_token": SecretStr(TOKEN)}
    client = CloudRun(settings.model_copy(update=changes))
    with pytest.raises(ServiceUnavailable) as caught:
        client.live()
    assert caught.value.retryable


def test_cloud_run_without_credentials_is_a_configuration_error(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "none.json"))
    with pytest.raises(ConfigurationError, match="no credentials for Google Cloud") as caught:
        CloudRun(settings.model_copy(update={"cloud": "google", "google_project": "test-project"}))
    assert str(tmp_path / "none.json") in caught.value.details


def test_cloud_run_is_unavailable_if_no_token_can_be_had(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, private_key: str
) -> None:
    account = {"client_email": "p@test-project.iam.gserviceaccount.com", "token_uri": "http://127.0.0.1:9/token"}
    file = tmp_path / "key.json"
    file.write_text(json.dumps({"type": "service_account", "private_key": private_key, **account}))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(file))
    changes = {"cloud": "google", "google_project": "test-project", "cloud_run_endpoint": None}
    with pytest.raises(ServiceUnavailable, match=r"failed temporarily: the server is not reachable\."):
        CloudRun(settings.model_copy(update=changes)).live()


def test_google_is_never_reached_by_default(settings: Settings) -> None:
    without = settings.model_copy(update={"storage_emulator_host": None})
    for client in (CloudRun, Store, lambda each: build_image(each, "functions/source.zip", "5" * 64)):
        with pytest.raises(ConfigurationError, match="ANIME_GENRE_BUCKET is set, but ANIME_GENRE_CLOUD=google is not"):
            client(without)
        with pytest.raises(ConfigurationError, match="No bucket and no function are chosen"):
            client(Settings())
