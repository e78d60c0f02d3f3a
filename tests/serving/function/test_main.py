"""The function's other addresses, its CORS headers and its log."""

import json
from pathlib import Path

import pytest
import requests

from serving.function.named_posters import MAX_BYTES
from tests.pictures import image_file
from tests.serving.conftest import StartFunction

pytestmark = pytest.mark.stack


def test_description_and_health_name_the_limits_and_the_model(url: str, uploaded_bundle: str) -> None:
    assert requests.get(url).json()["limits"] == {"size_bytes": MAX_BYTES, "instances": 32}
    for path in ("health", "healthz"):
        body = requests.get(f"{url}/{path}").json()
        assert (body["status"], body["model"]["sha256"]) == ("ok", uploaded_bundle)
    assert requests.head(url).status_code == 200
    assert requests.options(url).headers["Allow"] == "GET, POST, HEAD, OPTIONS"


def test_pages_of_allowed_origins_only_may_call_the_function(
    start_function: StartFunction, client: requests.Session, url: str, uploaded_bundle: str
) -> None:
    allowed = {"Origin": "https://pages.example"}
    assert "Access-Control-Allow-Origin" not in client.get(url, headers=allowed).headers
    with start_function(
        BUNDLE_URI=f"gs://posters-bucket/bundles/{uploaded_bundle}",
        BUNDLE_SHA256=uploaded_bundle,
        CORS_ORIGINS="https://other.example, https://pages.example",
    ) as (open_url, _):
        preflight = client.options(open_url, headers=allowed | {"Access-Control-Request-Method": "POST"})
        assert (preflight.status_code, preflight.content) == (204, b"")
        assert preflight.headers["Access-Control-Allow-Origin"] == "https://pages.example"
        assert "Content-Type" in preflight.headers["Access-Control-Allow-Headers"]
        refused = client.post(open_url, data=b"x", headers=allowed | {"Content-Type": "image/png"})
        assert (refused.status_code, refused.headers["Access-Control-Allow-Origin"]) == (415, "https://pages.example")
        for send in (client.get, client.post):
            other = send(open_url, data=b"x", headers={"Origin": "https://evil.example", "Content-Type": "text/plain"})
            assert "Access-Control-Allow-Origin" not in other.headers
        assert (other.status_code, other.json()["error"]["code"]) == (403, "forbidden_origin")


def test_log_has_one_json_line_per_request(function: tuple[str, Path], uploaded_bundle: str) -> None:
    url, log = function
    before = len(log.read_text().splitlines())
    headers = {"Content-Type": "image/jpeg", "X-Cloud-Trace-Context": "105445aa7843bc8bf206b12000100000/1;o=1"}
    traced = requests.post(url, data=image_file(seed=3), headers=headers)
    untraced = requests.post(url, json={"name": "posters/none\n.jpg"})
    good, bad = (json.loads(line) for line in log.read_text().splitlines()[before:])
    assert (good["severity"], good["httpRequest"]["status"], good["model_sha256"]) == ("INFO", 200, uploaded_bundle)
    assert good["milliseconds"].keys() == {"fetch", "decode", "infer", "total"}
    assert good["milliseconds"]["total"] > 0
    assert good["top_genre"] in {"Action", "Sea & Sky", "Drama"}
    assert good["request_id"] == traced.headers["X-Request-Id"] == "105445aa7843bc8bf206b12000100000"
    assert (bad["severity"], bad["httpRequest"]["status"], bad["code"]) == ("WARNING", 404, "no_such_poster")
    assert bad["request_id"] == untraced.headers["X-Request-Id"] != good["request_id"]
