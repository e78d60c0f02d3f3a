"""The command `up`: run the deployment with the demo's parameters, open the services in a browser, predict genres."""

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests
import websockets.exceptions
import websockets.sync.client
from mlflow.tracking import MlflowClient
from playwright.sync_api import expect
from prefect.client.schemas.actions import DeploymentUpdate
from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId
from prefect.client.schemas.objects import State

from flows.demo import demo_parameters
from flows.schedule import machine_timezone
from infra.local.site.drawing import poster_jpeg
from infra.local.site.invented_titles import invented_titles
from tests.browser import chromium_browser
from tests.conftest import NewWorkspace
from tests.sink import running_sink
from tests.up import RUN_SECONDS, Up, outside_environment

pytestmark = [pytest.mark.stack, pytest.mark.browser]

ROOT = Path(__file__).parents[2]


def demo_run(site_url: str) -> dict[str, Any]:
    """The parameters of `make demo`, with one network, one trial, and smaller images."""
    demo = demo_parameters(site_url)
    smaller = {
        "preprocess": replace(demo.preprocess, image_size=32),
        "train": replace(demo.train, candidates=("scratch",), trials=1),
    }
    parameters: dict[str, Any] = demo.model_copy(update=smaller).model_dump(mode="json")
    return parameters


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory, new_workspace: NewWorkspace) -> Iterator[Up]:
    """A running `anime-genre up` with the built-in site. The last test stops it."""
    workspace = new_workspace(tmp_path_factory.mktemp("up") / "workspace")
    with running_sink() as webhook, Up(workspace, webhook=webhook) as running:
        yield running


def test_run_of_the_deployment_is_tracked_and_served_by_the_page(up: Up, tmp_path: Path) -> None:
    assert f"Their data is in {up.workspace}, their logs are in {up.workspace / 'logs'}." in up.printed
    assert "Model: none is live yet." in up.printed
    assert "Messages to the webhook: failed runs, promotions and rollbacks.\nPing: none, because" in up.printed
    assert re.search(r"Schedule: '0 4 \* \* 1' in time zone \S+; next run Monday, 20\d\d-\d\d-\d\d 04:00\.", up.printed)
    for address in (up.addresses["Function"], f"{up.addresses['Page']}/model"):
        assert "No model has been trained yet" in requests.get(address).text
    killed = _kill_page(up)
    with up.client() as client:
        deployment = client.read_deployment_by_name("retrain/retrain")
        assert deployment.schedules[0].schedule.cron == "0 4 * * 1"
        assert deployment.schedules[0].schedule.timezone == machine_timezone()
        assert {"site_url", "seasons"} <= set(deployment.parameters["parameters"])
        site_url = deployment.parameters["parameters"]["site_url"]
        run = up.run(demo_run(site_url))
        logs = client.read_logs(LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run.id])))
    assert run.state.is_completed(), run.state.message
    assert re.search(r"version 1 .*is live", run.state.message), "the demo passes the gate"
    (message,) = [json.loads(each.body)["text"] for each in up.webhook.received]
    assert re.match(r"version 1 \(\w+\) is live \(redeploy, by run retrain 20.*\)\. ", message)
    lines = [each.message for each in logs]
    assert any("weighted F1" in line for line in lines)
    assert [line for line in lines if re.search("code from storage|Running hook|Still processing", line)] == []
    assert f"Page exited with code {-signal.SIGKILL}" in up.output.read_text() and not killed.is_running()

    mlflow = MlflowClient(up.addresses["MLflow"].partition("/#")[0])
    experiment = mlflow.get_experiment_by_name("anime-genre")
    runs = mlflow.search_runs([experiment.experiment_id])
    (training,) = [each for each in runs if "mlflow.parentRunId" not in each.data.tags]
    assert re.fullmatch(r"built-in 20\d\d-\d\d-\d\d, \d+ posters, resnet18", training.info.run_name)
    assert (training.data.params["image_size"], training.data.params["collection"]) == ("32", "built-in")
    assert f"/runs/flow-run/{run.id}" in training.data.tags["mlflow.note.content"]
    assert {each.info.run_name for each in runs} - {training.info.run_name} == {
        *("scratch", "recipe", "recipe-tuned", "trial-1", "refit")
    }
    assert mlflow.get_model_version_by_alias("anime-genre-built-in", "champion").version == "1"

    named = re.search(r"curl -d '(.*)' -H", (ROOT / "README.md").read_text(encoding="utf-8"))
    response = requests.post(up.addresses["Function"], json=json.loads(named[1]), timeout=30)
    assert response.json()["genres"], response.text

    poster = tmp_path / "poster.jpg"
    poster.write_bytes(poster_jpeg(invented_titles()[0]))
    with chromium_browser() as browser:
        page = browser.new_page()
        page.goto(up.addresses["Page"])
        page.set_input_files("input[type=file]", poster)
        page.get_by_role("button", name="Predict genres").click()
        expect(page.get_by_text("Predicted by model version 1")).to_be_visible(timeout=15_000)
        assert page.locator("li.genre").count() >= 2
        page.reload()
        expect(page.get_by_text("Try a sample")).to_be_visible()
        page.get_by_role("link", name="Model").click()
        expect(page.get_by_text("It learned from posters of the built-in site")).to_be_visible()


def _kill_page(up: Up) -> psutil.Process:
    (page,) = [
        each for each in psutil.Process(up.process.pid).children() if "serving.web.app:create_app()" in each.cmdline()
    ]
    page.kill()
    return page


def test_services_open_in_a_browser(up: Up) -> None:
    with chromium_browser() as browser:
        page = browser.new_page()
        page.goto(f"{up.addresses['Prefect']}/deployments")
        expect(page.get_by_text("retrain").first).to_be_visible(timeout=30_000)
        page.goto(up.addresses["MLflow"])
        expect(page.get_by_text(re.compile(r"built-in 20.* posters")).first).to_be_visible(timeout=30_000)
        page.goto(up.addresses["TensorBoard"])
        expect(page.get_by_text("TensorBoard").first).to_be_visible(timeout=30_000)


EVIL = "http://evil.example"


def test_pages_of_other_origins_reach_no_service(up: Up) -> None:
    """As a browser sends them: simple requests, those after DNS rebinding, and WebSockets."""
    stack = json.loads((up.workspace / "stack.json").read_text())
    with up.client() as client:
        site_url = client.read_deployment_by_name("retrain/retrain").parameters["parameters"]["site_url"]
    mlflow_url = stack["MLFLOW_TRACKING_URI"]
    services = {
        "Prefect": (up.addresses["Prefect"], "/api/deployments/filter"),
        "MLflow": (mlflow_url, "/api/2.0/mlflow/experiments/create"),
        "TensorBoard": (up.addresses["TensorBoard"], "/data/runs"),
        "Function": (up.addresses["Function"], "/"),
        "Page": (up.addresses["Page"].removesuffix("/anime"), "/anime"),
        "Storage": (stack["STORAGE_EMULATOR_HOST"], "/storage/v1/b"),
        "Cloud Run": (
            stack["ANIME_GENRE_CLOUD_RUN_ENDPOINT"],
            "/v2/projects/anime-genre/locations/europe-west1/builds:submit",
        ),
        "Site": (site_url, "/robots.txt"),
    }
    for name, (url, path) in services.items():
        # 10.* is among the hosts that MLflow answers by default.
        for host in ("evil.example", f"10.evil.example:{url.rpartition(':')[2]}"):
            rebound = requests.get(url + path, headers={"Host": host, "Accept": "text/html"}, timeout=30)
            assert rebound.status_code in (400, 403), (name, host, rebound.text)
        sent = {"Origin": EVIL, "Sec-Fetch-Site": "cross-site", "Content-Type": "text/plain"}
        refused = requests.post(url + path, "{}", headers=sent, timeout=30)
        # Before the first model, nothing is at the function's address.
        assert refused.status_code in ((403, 404) if name == "Function" else (403,)), (name, refused.text)
        assert "Access-Control-Allow-Origin" not in refused.headers, name
        own = requests.get(url + path, headers={"Host": url.partition("//")[2].replace("127.0.0.1", "localhost")})
        assert own.status_code in (200, 401, 404, 405), (name, own.text)
    with pytest.raises(websockets.exceptions.InvalidStatus):
        websockets.sync.client.connect(f"{up.addresses['Prefect']}/api/events/out".replace("http", "ws"), origin=EVIL)
    preflight = {"Origin": EVIL, "Access-Control-Request-Method": "POST"}
    asked = requests.options(f"{up.addresses['Prefect']}/api/flow_runs/", headers=preflight)
    assert "Access-Control-Allow-Origin" not in asked.headers
    assert not requests.get(f"{stack['STORAGE_EMULATOR_HOST']}/wipe").ok


def test_command_of_another_terminal_joins_the_stack(up: Up) -> None:
    command = [sys.executable, "-m", "flows.cli", "history", "--workspace", str(up.workspace)]
    command += ["--collection", "built-in"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=RUN_SECONDS, env=outside_environment())
    assert ended.returncode == 0, ended.stderr
    assert f"Using the stack that is running in {up.workspace}." in ended.stdout
    assert "redeploy: version 1 (" in ended.stdout


def test_next_start_keeps_what_a_person_edited_and_ends_the_run_before_the_services(up: Up) -> None:
    with up.client() as client:
        deployment = client.read_deployment_by_name("retrain/retrain")
        edited = {**deployment.parameters["parameters"]}
        edited["train"] = {**edited["train"], "epochs": 5}
        client.update_deployment(deployment.id, DeploymentUpdate(parameters={"parameters": edited}))
        client.pause_deployment(deployment.id)
        run = up.run({**demo_run(edited["site_url"]), "preprocess": {"image_size": 48}}, State.is_running)
    up.stop(signal.SIGHUP, 128 + signal.SIGHUP)  # the terminal is closed
    with Up(up.workspace, "--cron", "0 3 * * *", "--timezone", "Asia/Tokyo") as again:
        with again.client() as client:
            state = client.read_flow_run(run.id).state
            assert state.is_final() and "was interrupted" not in (state.message or "")
            assert client.read_automations() == []  # the webhook is unset
            deployment = client.read_deployment_by_name("retrain/retrain")
        assert deployment.paused
        assert deployment.parameters["parameters"] == edited  # with the site's address of the first start
        (schedule,) = deployment.schedules
        assert (schedule.schedule.cron, schedule.schedule.timezone) == ("0 3 * * *", "Asia/Tokyo")
        assert "Schedule: paused in Prefect." in again.printed
        assert "train.epochs: 5 (this command would set 10)" in again.printed
        assert re.search(r"Model: version 1 .*is live, deployed 20\d\d-", again.printed)
        again.stop(signal.SIGINT, 130)
