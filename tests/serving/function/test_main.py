"""The function's other addresses, its CORS headers and its log."""

import io
import json
from base64 import b64encode
from pathlib import Path

import pytest
import requests
from PIL import Image

from flows.cli import main
from serving.function.named_posters import MAX_BYTES
from serving.function.request_log import stack_trace
from serving.function.shared_load import LoadError
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


def png(width: int, height: int, colour: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(buffer, "PNG")
    return buffer.getvalue()


def test_log_has_one_line_per_request_without_picture_name_or_address(
    function: tuple[str, Path], uploaded_bundle: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url, log = function
    before = len(log.read_text().splitlines())
    headers = {"Content-Type": "image/jpeg", "X-Cloud-Trace-Context": "105445aa7843bc8bf206b12000100000/1;o=1"}
    dark, bright = png(30, 50, "black"), png(60, 40, "white")
    traced = requests.post(f"{url}?top=1", data=dark, headers=headers)
    encoded = {"image": b64encode(bright).decode()}
    requests.post(url, json={"instances": [encoded, {"name": "posters/private.jpg"}, {"image": "AAAA"}]})
    untraced = requests.post(url, json={"name": "https://private.example/private.jpg"})
    requests.post(url, files={"poster": ("private.jpg", b"no picture", "image/jpeg")})
    requests.get(f"{url}/private.jpg?explain=private")
    text = log.read_text().splitlines()[before:]
    assert not any(secret in line for line in text for secret in ("private", "127.0.0.1", encoded["image"][:20]))
    one, batch, foreign, damaged, elsewhere = lines = [json.loads(line) for line in text]
    keys = (
        "severity message request_id method path status milliseconds model_version bundle posters predictions refusals"
    )
    assert [set(line) for line in lines] == [set(keys.split())] * 5

    assert (one["severity"], one["message"]) == ("INFO", "POST / 200")
    assert (one["model_version"], one["bundle"], one["posters"]) == ("3", uploaded_bundle[:8], 1)
    assert one["request_id"] == traced.headers["X-Request-Id"] == "105445aa7843bc8bf206b12000100000"
    assert one["milliseconds"].keys() == {"fetch", "decode", "infer", "total"} and one["milliseconds"]["total"] > 0
    unlikely = {"Action": 0.02, "Sea & Sky": 0.02, "Drama": 0.02}
    assert one["predictions"] == [{"width": 30, "height": 50, "brightness": 0.0, "probabilities": unlikely}]
    assert one["refusals"] == {}
    likely = dict.fromkeys(unlikely, 0.98)
    assert batch["predictions"] == [{"width": 60, "height": 40, "brightness": 1.0, "probabilities": likely}]
    assert (batch["posters"], batch["refusals"]) == (3, {"no_such_poster": 1, "unsupported_format": 1})
    assert (foreign["severity"], foreign["status"], foreign["refusals"]) == ("WARNING", 403, {"forbidden_host": 1})
    assert foreign["request_id"] == untraced.headers["X-Request-Id"] != one["request_id"]
    assert (damaged["posters"], damaged["refusals"]) == (1, {"unsupported_format": 1})
    assert (elsewhere["method"], elsewhere["path"], elsewhere["posters"]) == ("GET", "(unknown address)", 0)

    (tmp_path / "log").write_text("\n".join(text))
    assert main(["monitor", str(tmp_path / "log"), "--reference", str(tmp_path / "log")]) == 0
    printed = capsys.readouterr().out
    assert "4 requests with 6 posters; also 1 other request" in printed
    assert "Predicted: 2 posters by version 3" in printed


def test_stack_trace_has_no_message_of_an_error_but_the_trace_of_a_failed_load() -> None:
    name = "posters/private.jpg"
    with pytest.raises(ValueError) as caught:
        try:
            raise OSError(name)
        except OSError as error:
            raise ValueError(name) from error
    trace = stack_trace(caught.value)
    assert "private" not in trace
    assert trace.index("OSError\n") < trace.index("ValueError\n")
    assert stack_trace(LoadError("the bundle's trace")) == "the bundle's trace"
