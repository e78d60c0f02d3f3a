"""Messages to the owner: failed runs and changes of the live model reach a webhook, which is a server of this test."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect.blocks.webhook import Webhook
from prefect.client.orchestration import get_client
from prefect.states import Failed, Running
from pydantic import SecretStr

from flows.automations import FAILED_RUNS, LIVE_MODEL, edited_automations, write_automations
from flows.deployments import NAME, deployment
from flows.parameters import RetrainParameters
from infra.local.stack import Stack
from infra.revisions import Image, Resources, Revision
from infra.settings import read_settings
from tasks.rollouts import record_rollout
from tests.sink import Sink, running_sink

pytestmark = pytest.mark.stack

ROOT = Path(__file__).parents[2]
SECRET = "planted-in-the-webhook"
SECONDS = 20


def texts(sink: Sink, path: str, count: int) -> list[str]:
    """The texts that a path got, when there are `count` of them, and no more some time later."""
    deadline = time.monotonic() + SECONDS
    while len(found := [each for each in sink.received if each.path == path]) < count and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(0.5)
    found = [each for each in sink.received if each.path == path]
    assert len(found) == count, sink.received
    assert {(each.method, each.content_type) for each in found} == {("POST", "application/json")}
    return [json.loads(each.body)["text"] for each in found]


@pytest.fixture
def sink() -> Iterator[Sink]:
    with running_sink() as running:
        yield running


def test_failed_runs_and_rollouts_reach_the_webhook_until_it_is_unset(
    stack: Stack, parameters: RetrainParameters, sink: Sink, tmp_path: Path
) -> None:
    note, deployment_id = tmp_path / "automations.json", deployment(parameters).apply()
    settings, runs = read_settings("notified"), []

    def write(url: str | None) -> dict[str, object]:
        """Do what each start of `up` does; returns the automations on the server by id."""
        write_automations(SecretStr(url) if url else None, [NAME], note)
        found = [each for name in (FAILED_RUNS, LIVE_MODEL) for each in client.read_automations_by_name(name)]
        return {str(each.id): each for each in found}

    def fail(message: str) -> None:
        runs.append(client.create_flow_run_from_deployment(deployment_id).id)
        for state in (Running(), Failed(message=message)):
            client.set_flow_run_state(runs[-1], state, force=True)

    def roll_out(what: str, before: str, after: str) -> None:
        environment = {"MODEL_VERSION": after, "BUNDLE_SHA256": f"{after}abcdefgh"}
        live = Revision(
            "revision", Image("image", "0" * 64), environment, ready=True, url=None, resources=Resources("1", "1Gi")
        )
        record_rollout(settings, what, "run A & B", before, live, "It is better.")

    with get_client(sync_client=True) as client:
        assert write(None) == {}
        for seed in ("0", "1"):  # the order of sets differs between these processes
            call = f"write_automations(SecretStr('{sink.url}/{SECRET}'), ['{NAME}'], Path('{note}'))"
            code = f"from flows.automations import *\nfrom pathlib import Path\n{call}"
            environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": seed}
            subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=60)
            assert edited_automations(note) == []
        first = write(f"{sink.url}/{SECRET}")
        assert len(first) == 2 and write(f"{sink.url}/{SECRET}") == first
        assert edited_automations(note) == [] and len(client.read_automations_by_name(FAILED_RUNS)) == 1
        fail('DriftError: "too many" <changes>\nsecond line')
        (text,) = texts(sink, f"/{SECRET}", 1)
        assert ' (Failed): DriftError: "too many" <changes>\nsecond line http://127.0.0.1:' in text
        assert text.endswith(f"/runs/flow-run/{runs[0]}")
        roll_out("redeploy", "version 1 (aaaaaaaa)", "2")
        roll_out("rollback failed", "version 2 (2abcdefg)", "2")  # nothing has changed
        roll_out("rollback", "version 2 (2abcdefg)", "1")
        assert sorted(texts(sink, f"/{SECRET}", 3)[1:]) == [
            "version 1 (1abcdefg) is live instead of version 2 (2abcdefg) (rollback, by run A & B). It is better.",
            "version 2 (2abcdefg) is live instead of version 1 (aaaaaaaa) (redeploy, by run A & B). It is better.",
        ]

        moved = write(f"{sink.url}/{SECRET}-moved")
        assert moved == first
        (live_model,) = client.read_automations_by_name(LIVE_MODEL)
        client.pause_automation(live_model.id)
        assert not write(f"{sink.url}/{SECRET}-moved")[str(live_model.id)].enabled
        assert edited_automations(note) == [LIVE_MODEL]
        fail("once more")
        roll_out("rollback", "version 1 (1abcdefg)", "2")
        (text,) = texts(sink, f"/{SECRET}-moved", 1)
        assert "once more" in text
        assert len(texts(sink, f"/{SECRET}", 3)) == 3

        assert list(write(None)) == [str(live_model.id)]
        assert client.read_block_document(live_model.actions[0].block_document_id), "what a person edited needs it"
        client.resume_automation(live_model.id)  # as it was written, so it is no person's any more
        assert write(None) == {}
        types = client.read_block_type_by_slug(Webhook.get_block_type_slug())
        assert client.read_block_documents_by_type(types.slug) == []
        for run in runs:
            client.delete_flow_run(run)
    workspace = Path(stack.environment["ANIME_GENRE_WORKSPACE"])
    files = [*tmp_path.iterdir(), *workspace.glob("prefect*/**/*"), *(workspace / "logs").iterdir()]
    assert "prefect.db" in {path.name for path in files}
    assert [path for path in files if path.is_file() and SECRET.encode() in path.read_bytes()] == []
