"""The automation of infra/silent-runs.yaml, for Prefect servers with workers on other machines."""

import time
from pathlib import Path
from uuid import UUID

import pytest
import yaml
from prefect.client.orchestration import get_client
from prefect.events import emit_event
from prefect.events.schemas.automations import AutomationCore
from prefect.states import Pending, Running

from flows.deployments import deployment
from flows.parameters import RetrainParameters
from infra.local.stack import Stack

pytestmark = pytest.mark.stack

FILE = Path(__file__).parents[2] / "infra" / "silent-runs.yaml"
SECONDS = 15


def test_run_without_a_heartbeat_ends_and_frees_its_slot(stack: Stack, parameters: RetrainParameters) -> None:
    content = yaml.safe_load(FILE.read_text())
    assert content["trigger"]["within"] == 120
    content["trigger"]["within"] = SECONDS
    deployment_id = deployment(parameters).apply()
    with get_client(sync_client=True) as client:
        automation = client.create_automation(AutomationCore.model_validate(content))
        runs = []
        for _ in range(2):
            runs.append(client.create_flow_run_from_deployment(deployment_id).id)
            for state in (Pending(), Running()):
                client.set_flow_run_state(runs[-1], state, force=True)
        alive, silent = runs
        began = time.monotonic()
        send_heartbeat(silent)
        while not client.read_flow_run(silent).state.is_final() and time.monotonic() < began + 6 * SECONDS:
            send_heartbeat(alive)
            time.sleep(1)
        try:
            assert time.monotonic() - began >= SECONDS
            assert client.read_flow_run(silent).state.is_crashed()
            assert client.read_flow_run(alive).state.is_running()
        finally:
            client.delete_automation(automation)
            for run in runs:
                client.delete_flow_run(run)


def send_heartbeat(flow_run_id: UUID) -> None:
    """What a flow sends every PREFECT_FLOWS_HEARTBEAT_FREQUENCY seconds."""
    emit_event("prefect.flow-run.heartbeat", {"prefect.resource.id": f"prefect.flow-run.{flow_run_id}"})
