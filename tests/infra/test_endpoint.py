"""The client of the function against a server with scripted responses."""

import json

import pytest

from infra import endpoint
from infra.endpoint import request_prediction
from infra.errors import ConfigurationError, DamagedBundleError, DeploymentError, FunctionDown, NotFound
from tests.infra.conftest import Serve

PREDICTION = {"genres": [{"name": "Action"}], "model": {"sha256": "1"}}
UNAVAILABLE = (503, b"Service Unavailable")


@pytest.fixture(autouse=True)
def short_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "_PAUSE_SECONDS", 0.01)


def error(code: str) -> dict[str, object]:
    return {"error": {"code": code, "message": "The reason."}}


def test_prediction_is_requested_by_poster_name_until_the_function_has_started(serve: Serve) -> None:
    url, received = serve(UNAVAILABLE, (503, error("storage_unavailable")), (200, PREDICTION))
    assert request_prediction(url, "posters/5.jpg") == PREDICTION
    assert [json.loads(body) for body in received] == [{"name": "posters/5.jpg"}] * 3


def test_function_that_does_not_start_is_unavailable(serve: Serve) -> None:
    url, received = serve(UNAVAILABLE)
    with pytest.raises(FunctionDown, match="the status is 503"):
        request_prediction(url, "posters/5.jpg", startup_seconds=0.1)
    assert len(received) > 1
    with pytest.raises(FunctionDown, match=r"there is no response \(ConnectionError\)"):
        request_prediction("http://127.0.0.1:1", "posters/5.jpg", startup_seconds=0)


@pytest.mark.parametrize(
    ("status", "body", "kind", "message"),
    [
        (404, error("no_such_poster"), NotFound, r"found nothing: The reason\.$"),
        (403, b"<html>Forbidden</html>", ConfigurationError, "do not allow .*: the status is 403 Forbidden"),
        (503, error("storage_forbidden"), ConfigurationError, r"may not read its bucket: The reason\.$"),
        (403, error("forbidden_bucket"), ConfigurationError, r"refused the request: The reason\.$"),
        (422, error("unusable_image"), DeploymentError, r"refused the request: The reason\.$"),
        (503, error("bundle_error"), DamagedBundleError, r"cannot load its bundle: The reason\.$"),
        (200, b"<html>Hello</html>", DeploymentError, "is not JSON"),
        (200, {"hello": "world"}, DeploymentError, "contains no genres"),
        (200, ["genres"], DeploymentError, "contains no genres"),
        (400, ["error"], DeploymentError, "the status is 400"),
    ],
)
def test_error_response_is_explained_and_not_retried(
    serve: Serve, status: int, body: object, kind: type[Exception], message: str
) -> None:
    url, received = serve((status, body))
    with pytest.raises(kind, match=message):
        request_prediction(url, "posters/5.jpg")
    assert len(received) == 1
