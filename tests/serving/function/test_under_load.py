"""Load, damaged requests, decompression bombs and slow senders: short, seeded versions of soak_function.py."""

from collections.abc import Iterator

import pytest
from google.cloud.storage import Bucket

from infra.revisions import RUNTIME_ENVIRONMENT
from tests.serving.conftest import write_bundle
from tests.soak.function_clients import Connection, send_all, send_load, send_mutations, size_limit_bytes, slow_senders
from tests.soak.function_process import FunctionProcess, started, unpack_function, wait_for_response
from tests.soak.function_requests import Posters, Request, Requests, draw_posters, fault_of
from tests.soak.mutations import declared_bombs, png

pytestmark = pytest.mark.stack
CLIENTS = 4
MEMORY_LIMIT_BYTES = 512 * 2**20


@pytest.fixture(scope="module")
def posters(bucket: Bucket, tmp_path_factory: pytest.TempPathFactory) -> Posters:
    """Posters of every format in the bucket, and the model's predictions for them."""
    folder = tmp_path_factory.mktemp("posters")
    (folder / "posters").mkdir()
    for name, data in draw_posters(10).items():
        (folder / name).write_bytes(data)
        bucket.blob(name).upload_from_string(data)
    return Posters.read(folder / "posters", write_bundle(folder / "bundle"))


@pytest.fixture(scope="module")
def running(
    posters: Posters, storage_url: str, uploaded_bundle: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[FunctionProcess]:
    """A function for this module only."""
    folder = tmp_path_factory.mktemp("loaded-function")
    environment = {
        **RUNTIME_ENVIRONMENT,
        "STORAGE_EMULATOR_HOST": storage_url,
        "BUNDLE_URI": f"gs://posters-bucket/bundles/{uploaded_bundle}",
        "BUNDLE_SHA256": uploaded_bundle,
    }
    with started(unpack_function(folder / "source"), environment, folder / "function.log") as function:
        wait_for_response(function, posters.files["posters/0.jpg"])
        yield function


@pytest.fixture(autouse=True)
def survives(running: FunctionProcess) -> Iterator[None]:
    """Check after each test that no process was replaced and none ever used too much memory."""
    before = running.workers()
    yield
    assert running.workers() == before
    assert running.peak_rss_bytes() <= MEMORY_LIMIT_BYTES


def test_load_gets_the_expected_responses(running: FunctionProcess, posters: Posters) -> None:
    requests = Requests(posters, "posters-bucket", size_limit_bytes(running.url))
    outcome = send_load(running.url, requests, posters, 400, CLIENTS)
    assert outcome.faults == []
    assert outcome.stalled == 0
    assert outcome.statuses()[200] >= 360
    assert {kind for kind, counts in outcome.responses.items() if counts[200]} >= {
        "raw",
        "form",
        "base64",
        "name",
        "batch",
    }


def test_damaged_requests_are_processed_or_refused(running: FunctionProcess, posters: Posters) -> None:
    outcome = send_mutations(running.url, posters, 300, CLIENTS, seed=0)
    assert outcome.faults == []
    assert outcome.stalled == 0
    assert outcome.statuses()[200] > 10


def test_decompression_bombs_are_refused(running: FunctionProcess, posters: Posters) -> None:
    samples = {name.rpartition(".")[2]: data for name, data in posters.files.items()}
    bombs = {**declared_bombs(samples), "png of 400 Mpx": png(20_000, 20_000, bits=1, colours=0)}
    connection = Connection(running.url)
    statuses = {name: connection.send(Request("bomb", data, "image/png"))[0] for name, data in bombs.items()}
    connection.close()
    assert {name: status for name, status in statuses.items() if status not in (413, 415, 422)} == {}
    assert len(statuses) >= 6


def test_slow_senders_do_not_delay_others(running: FunctionProcess, posters: Posters) -> None:
    def send(connection: Connection, number: int) -> tuple[Request, int, bytes]:
        name = posters.names[number % len(posters.names)]
        request = Request("good", posters.files[name], "image/jpeg", expected=(name,))
        return request, *connection.send(request)

    with slow_senders(running.url, 2, interval_seconds=0.2) as senders:
        outcome = send_all(running.url, 100, 2, send, lambda *response: fault_of(*response, posters))
        assert senders.waiting == 2
    assert outcome.faults == []
    assert outcome.statuses() == {200: 100}
