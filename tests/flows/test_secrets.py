"""A run with passwords in the addresses of its services: they stand in nothing that it writes or prints."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from infra.local.site.invented_titles import SEASONS
from infra.local.stack import Stack
from tests.faults import Fault, fault_proxy

pytestmark = [pytest.mark.stack, pytest.mark.train]

ROOT = Path(__file__).parents[2]
OPTIONS = [
    *("--collection", "secrets", "--seasons", f"{SEASONS[0]}..{SEASONS[6]}", "--promote", "always"),
    *("--image-size", "32", "--min-posters", "8", "--min-posters-per-part", "1"),
    *("--trials", "1", "--epochs", "1", "--backbone", "squeezenet1_1", "--weights", "none", "--candidates", "scratch"),
]


def test_run_writes_no_credentials(running_stack: Stack, site_url: str, tmp_path: Path) -> None:
    stack, secrets = running_stack.environment, ("planted-in-mlflow", "planted-in-prefect", "planted-in-the-rest")
    with fault_proxy(running_stack.mlflow_url, Fault("model-versions/create", 1.5)) as mlflow:
        environment = {
            **os.environ,
            **stack,
            "PYTHONPATH": str(ROOT),
            "MLFLOW_TRACKING_URI": mlflow.url.replace("://", f"://owner:{secrets[0]}@"),
            "PREFECT_API_URL": stack["PREFECT_API_URL"].replace("://", f"://owner:{secrets[1]}@"),
            "MAL_CLIENT_ID": secrets[2],
            "HTTPS_PROXY": f"http://owner:{secrets[2]}@127.0.0.1:9",
            "ANIME_GENRE_NOTIFY_URL": f"http://127.0.0.1:9/{secrets[2]}",
            "ANIME_GENRE_PING_URL": f"http://127.0.0.1:9/{secrets[2]}",
            "ANIME_GENRE_SERVICE_TIMEOUT_SECONDS": "1",
        }
        command = [sys.executable, "-m", "flows.cli", "retrain", "--site-url", site_url, *OPTIONS]
        command += ["--workspace", stack["ANIME_GENRE_WORKSPACE"]]
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tmp_path, timeout=600)
    output = ended.stdout + ended.stderr
    assert ended.returncode == 0, output
    assert "is live" in output and "failed temporarily" in output
    assert "The run succeeded, but the ping to ANIME_GENRE_PING_URL failed (ConnectionError)." in output
    files = [path for path in Path(stack["ANIME_GENRE_WORKSPACE"]).rglob("*") if path.is_file()]
    assert {"mlflow.db", "prefect.db", "model.onnx", "summary.json"} <= {path.name for path in files}
    for secret in (*secrets, stack["ANIME_GENRE_CLOUD_RUN_TOKEN"]):
        found = [str(path) for path in files if secret.encode() in path.read_bytes()]
        assert [path for path in found if not path.endswith("stack.json")] == [], secret
        assert secret not in output
