"""The deployment of the page: a copy of its folder, started with the command of app.yaml and the Dockerfile."""

import http.client
import json
import os
import re
import select
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml

from infra.local.processes import free_port
from serving.web.request_limits import IN_ALL, PER_ADDRESS, UPLOADS_IN_ALL, UPLOADS_PER_ADDRESS
from serving.web.upload import MAX_POSTER_BYTES, UPLOAD_SECONDS

FOLDER = Path(__file__).parents[3] / "serving" / "web"
SHORT_SECONDS = 6.0  # for an upload, instead of UPLOAD_SECONDS
CONSTRAINTS = FOLDER.parents[1] / "infra" / "constraints.txt"


def app_engine() -> dict[str, Any]:
    settings: dict[str, Any] = yaml.safe_load((FOLDER / "app.yaml").read_text())
    return settings


def container_command() -> str:
    return re.findall(r"^CMD exec (.+)$", (FOLDER / "Dockerfile").read_text(), re.MULTILINE)[0]


def get(address: str, patience_seconds: float = 0) -> str:
    deadline = time.monotonic() + patience_seconds
    while True:
        try:
            with urllib.request.urlopen(address, timeout=5) as response:
                return response.read().decode()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def test_app_engine_and_container_use_the_same_command() -> None:
    assert app_engine()["entrypoint"] == container_command()


def test_app_engine_has_memory_for_uploads_and_threads_for_other_requests() -> None:
    megabytes = {"F1": 384, "F2": 768, "F4": 1536}[app_engine()["instance_class"]]
    threads = int(re.findall(r"--threads (\d+)", container_command())[0])
    upload = MAX_POSTER_BYTES // 2**20
    # An upload is in memory as a file in /tmp, which is in memory on App Engine, and, while the function is called, as
    # bytes. The page itself has 256 MB and needs about 80.
    assert 256 + (UPLOADS_IN_ALL + 2 * IN_ALL.in_progress) * upload <= megabytes
    assert threads >= UPLOADS_IN_ALL + IN_ALL.in_progress + 2


@pytest.mark.stack
@pytest.mark.parametrize("name", ["workspace", "web-1.0"])
def test_copy_of_the_folder_serves_the_page(name: str, tmp_path: Path, function: Any) -> None:
    folder = tmp_path / name
    shutil.copytree(FOLDER, folder, ignore=shutil.ignore_patterns("__pycache__"))
    text, long = (folder / "upload.py").read_text(), f"UPLOAD_SECONDS = {UPLOAD_SECONDS}"
    assert long in text
    (folder / "upload.py").write_text(text.replace(long, f"UPLOAD_SECONDS = {SHORT_SECONDS}"))
    port = free_port()
    command = container_command()
    assert "--bind :$PORT" in command
    environment = {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONWARNINGS": "error",
        "PORT": str(port),
        "FUNCTION_URL": function.url,
        "TRUSTED_PROXIES": "1",
    }
    # The deployed server listens on all interfaces; here 127.0.0.1 is enough.
    running = subprocess.Popen(
        ["sh", "-c", "exec " + command.replace("--bind :$PORT", "--bind 127.0.0.1:$PORT")],
        cwd=folder,
        env=environment,
    )
    try:
        page = f"http://127.0.0.1:{port}/anime"
        assert "Genres from a poster" in get(page, patience_seconds=20)
        assert "F1 per genre" in get(f"{page}/model")
        assert "predictFile" in get(f"http://127.0.0.1:{port}/static/anime.js")
        request = urllib.request.Request(page, b"sample=nakusa", {"Accept": "application/json"})
        with urllib.request.urlopen(request, timeout=10) as response:
            assert json.load(response)["genres"][0]["name"] == "Action"
        if name == "workspace":
            check_that_visitors_of_a_starting_function_do_not_block_health(page, function)
            check_that_slow_uploads_are_refused_or_end_and_do_not_block_others(page)
    finally:
        running.terminate()
        running.wait()


def check_that_visitors_of_a_starting_function_do_not_block_health(page: str, function: Any) -> None:
    def predict(visitor: int) -> int:
        headers = {"Accept": "application/json", "X-Forwarded-For": f"203.0.113.{visitor}"}
        try:
            with urllib.request.urlopen(
                urllib.request.Request(page, b"sample=nakusa", headers), timeout=20
            ) as response:
                return int(response.status)
        except urllib.error.HTTPError as error:
            with error:
                return error.code

    function.seconds = 2
    with ThreadPoolExecutor(IN_ALL.in_progress) as pool:
        before = len(function.posters)
        first = [pool.submit(predict, 1) for _ in range(PER_ADDRESS.in_progress)]
        while len(function.posters) < before + PER_ADDRESS.in_progress:
            time.sleep(0.01)
        assert predict(1) == 429, "this visitor has enough requests in progress"
        others = [pool.submit(predict, visitor) for visitor in range(2, 2 + IN_ALL.in_progress - len(first))]
        while len(function.posters) < before + IN_ALL.in_progress:
            time.sleep(0.01)
        assert predict(99) == 429, "the page has enough requests in progress"
        assert json.loads(get(page.replace("/anime", "/health"))) == {"status": "ok"}
        assert not any(request.done() for request in first + others)
        assert {request.result() for request in first + others} == {200}
    function.seconds = 0
    assert predict(1) == 200


def check_that_slow_uploads_are_refused_or_end_and_do_not_block_others(page: str) -> None:
    def begin(visitor: int) -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection(page.split("/")[2], timeout=20)
        connection.putrequest("POST", "/anime")
        for name, value in {
            "Accept": "application/json",
            "Content-Type": "multipart/form-data; boundary=x",
            "Content-Length": "1000000",
            "X-Forwarded-For": f"203.0.113.{visitor}",
        }.items():
            connection.putheader(name, value)
        connection.endheaders(b"--x\r\n")
        return connection

    def refused(uploads: list[http.client.HTTPConnection], count: int) -> list[http.client.HTTPConnection]:
        """The uploads that got a response, once these are so many, or after a while."""
        deadline = time.monotonic() + SHORT_SECONDS - 2
        while True:
            ready = select.select([each.sock for each in uploads], [], [], 0)[0]
            if len(ready) >= count or time.monotonic() > deadline:
                return [each for each in uploads if each.sock in ready]
            time.sleep(0.01)

    uploads = [begin(1) for _ in range(UPLOADS_PER_ADDRESS + 1)]
    assert len(refused(uploads, 1)) == 1, "this visitor has enough uploads in progress"
    others = UPLOADS_IN_ALL - UPLOADS_PER_ADDRESS + 10
    uploads += [begin(visitor) for visitor in range(2, 2 + others)]
    assert len(refused(uploads, 11)) == 11, "the page has enough uploads in progress"
    assert json.loads(get(page.replace("/anime", "/health"))) == {"status": "ok"}
    assert "Genres from a poster" in get(page)
    responses = [each.getresponse() for each in uploads]
    outcomes = Counter(
        (each.status, each.headers["Retry-After"], json.load(each)["error"]["code"]) for each in responses
    )
    assert outcomes == {
        (429, "10", "too_many_requests"): 1,
        (429, "10", "busy"): 10,
        (408, None, "too_slow"): UPLOADS_IN_ALL,
    }
    for each in uploads:
        each.close()
    request = urllib.request.Request(page, b"sample=nakusa", {"Accept": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as response:
        assert response.status == 200


def test_container_does_not_run_as_root() -> None:
    lines = (FOLDER / "Dockerfile").read_text().splitlines()
    assert lines.index("USER page") > lines.index("COPY . .")
    assert "__pycache__/" in (FOLDER / ".dockerignore").read_text()


def test_requirements_match_the_tested_versions() -> None:
    pins, tested = ((file.read_text().lower().split()) for file in (FOLDER / "requirements.txt", CONSTRAINTS))
    assert set(pins) <= set(tested)


def test_requirements_pin_every_import() -> None:
    lines = "\n".join(file.read_text() for file in FOLDER.glob("*.py"))
    imported = set(re.findall(r"^(?:from|import) (\w+)", lines, re.MULTILINE)) - sys.stdlib_module_names
    packages = {"google": "google-auth", "markdown_it": "markdown-it-py"}
    pinned = {pin.partition("==")[0] for pin in (FOLDER / "requirements.txt").read_text().split()}
    assert pinned == {packages.get(name, name) for name in imported} | {"gunicorn"}
