"""The command `up`: run the deployment, open the services in a browser, predict genres on the page."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from mlflow.tracking import MlflowClient
from playwright.sync_api import expect
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, temporary_settings

from infra.local.site.drawing import poster_jpeg
from infra.local.site.invented_titles import invented_titles
from tests.browser import chromium_browser

pytestmark = [pytest.mark.stack, pytest.mark.browser]

SMALL_RUN = {
    "preprocess": {"image_size": 32},
    "train": {"trials": 1, "epochs": 4, "backbone": "squeezenet1_1", "weights": "none"},
}


@pytest.fixture(scope="module")
def addresses(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The addresses that `anime-genre up` prints, by service. The command runs until the module's tests end."""
    folder = tmp_path_factory.mktemp("up")
    ports = [
        part for name in ("prefect", "mlflow", "tensorboard", "function", "page") for part in (f"--{name}-port", "0")
    ]
    command = [sys.executable, "-m", "flows.cli", "up", "--workspace", str(folder), *ports]
    with (folder / "out.txt").open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=_outside_environment())
        try:
            printed = _wait_for(folder / "out.txt", "Press Ctrl-C to stop", process)
            yield dict(re.findall(r"^  (\w+) +(http://\S+)", printed, re.MULTILINE))
            children = psutil.Process(process.pid).children(recursive=True)
            process.send_signal(signal.SIGHUP)  # the terminal is closed
            assert process.wait(timeout=60) == 128 + signal.SIGHUP
            assert [each for each in children if each.is_running() and each.status() != psutil.STATUS_ZOMBIE] == []
        finally:
            process.kill()
            process.wait()


def _outside_environment() -> dict[str, str]:
    """The environment without the variables that connect to another stack."""
    prefixes = ("PREFECT_API_URL", "MLFLOW_TRACKING_URI", "STORAGE_EMULATOR_HOST", "ANIME_GENRE_")
    return {name: value for name, value in os.environ.items() if not name.startswith(prefixes)}


def _wait_for(file: Path, sentence: str, process: "subprocess.Popen[bytes]", timeout_seconds: float = 120) -> str:
    deadline = time.monotonic() + timeout_seconds
    while sentence not in (text := file.read_text()):
        assert process.poll() is None, text
        assert time.monotonic() < deadline, text
        time.sleep(0.2)
    return text


def test_run_of_the_deployment_is_tracked_and_served_by_the_page(addresses: dict[str, str], tmp_path: Path) -> None:
    with temporary_settings({PREFECT_API_URL: f"{addresses['Prefect']}/api"}), get_client(sync_client=True) as client:
        deployment = client.read_deployment_by_name("retrain/retrain")
        assert deployment.schedules[0].schedule.cron == "0 4 * * 1"
        assert {"site_url", "seasons"} <= set(deployment.parameters["parameters"])
        parameters = {"parameters": {**deployment.parameters["parameters"], **SMALL_RUN}}
        run = client.create_flow_run_from_deployment(deployment.id, parameters=parameters)
        deadline = time.monotonic() + 180
        while not (state := client.read_flow_run(run.id).state).is_final() and time.monotonic() < deadline:
            time.sleep(0.5)
    assert state.is_completed(), state.message
    assert "version 1 is live" in state.message

    mlflow = MlflowClient(addresses["MLflow"])
    experiment = mlflow.get_experiment_by_name("anime-genre")
    names = {each.info.run_name for each in mlflow.search_runs([experiment.experiment_id])}
    assert names == {"retrain", "scratch", "whole", "recipe", "recipe-tuned", "trial-1"}
    assert mlflow.get_model_version_by_alias("anime-genre-built-in", "champion").version == "1"

    poster = tmp_path / "poster.jpg"
    poster.write_bytes(poster_jpeg(invented_titles()[0]))
    with chromium_browser() as browser:
        page = browser.new_page()
        page.goto(addresses["Page"])
        page.set_input_files("input[type=file]", poster)
        page.get_by_role("button", name="Predict genres").click()
        expect(page.get_by_text("Predicted by model version 1")).to_be_visible(timeout=15_000)
        assert page.locator("li.genre").count() >= 2


def test_services_open_in_a_browser(addresses: dict[str, str]) -> None:
    with chromium_browser() as browser:
        page = browser.new_page()
        page.goto(f"{addresses['Prefect']}/deployments")
        expect(page.get_by_text("retrain").first).to_be_visible(timeout=30_000)
        page.goto(addresses["MLflow"])
        expect(page.get_by_text("anime-genre").first).to_be_visible(timeout=30_000)
        page.goto(addresses["TensorBoard"])
        expect(page.get_by_text("TensorBoard").first).to_be_visible(timeout=30_000)
