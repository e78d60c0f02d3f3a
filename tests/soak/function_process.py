"""Runs the function from its deployed zip, with functions-framework and a bucket in a storage emulator.

Google's client and the zip's builder are imported inside functions. A library that two processes map counts half in
the PSS of each, so a process that measures the function's memory must not map its libraries.
"""

import hashlib
import http.client
import io
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from infra.local.processes import free_port, terminate_trees

BUCKET = "posters-bucket"
MANIFEST = "manifest.json"
_STOP_SECONDS = 3  # gunicorn waits longer for open connections


@dataclass(frozen=True)
class FunctionProcess:
    """A running function: its URL, its main process and its log file."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path

    def tree(self) -> list[psutil.Process]:
        """The main process and all its descendants."""
        parent = psutil.Process(self.process.pid)
        return [parent, *parent.children(recursive=True)]

    def workers(self) -> list[int]:
        """The ids of the worker processes. They change after a crash."""
        return sorted(child.pid for child in self.tree()[1:])

    def pss_bytes(self) -> int:
        """Proportional set size of all processes, in which shared memory counts once."""
        return sum(_kilobytes(Path(f"/proc/{member.pid}/smaps_rollup"), "Pss:") for member in self.tree()) * 1024

    def peak_rss_bytes(self) -> int:
        """The highest memory use of any of its processes, ever or since `reset_peak`."""
        return max(_kilobytes(Path(f"/proc/{member.pid}/status"), "VmHWM:") for member in self.tree()) * 1024

    def reset_peak(self) -> None:
        """Reset `peak_rss_bytes` (proc(5), /proc/PID/clear_refs)."""
        for member in self.tree():
            Path(f"/proc/{member.pid}/clear_refs").write_text("5")


def _kilobytes(file: Path, member: str) -> int:
    """A value from a file in /proc; 0 if its process has just ended."""
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(member)), 0)


def unpack_function(folder: Path) -> Path:
    """Unpack the deployed zip into `folder`."""
    import serving
    from infra.source_zip import source_zip

    with zipfile.ZipFile(io.BytesIO(source_zip(Path(serving.__file__).parent))) as archive:
        archive.extractall(folder)
    return folder


def upload(storage_url: str, files: Mapping[str, bytes], bucket: str = BUCKET) -> None:
    """Upload files to an emulator's bucket."""
    from google.auth.credentials import AnonymousCredentials
    from google.cloud.storage import Client

    options = {"api_endpoint": storage_url}
    target = Client(project="local", credentials=AnonymousCredentials(), client_options=options).bucket(bucket)
    for name, data in files.items():
        target.blob(name).upload_from_string(data)


def upload_bundle(storage_url: str, bundle: Path, bucket: str = BUCKET) -> dict[str, str]:
    """Upload a bundle to an emulator's bucket and return the environment variables with which a function serves it."""
    sha256 = hashlib.sha256((bundle / MANIFEST).read_bytes()).hexdigest()
    files = {f"bundles/{sha256}/{path.name}": path.read_bytes() for path in bundle.iterdir()}
    upload(storage_url, files, bucket)
    from infra.revisions import RUNTIME_ENVIRONMENT

    return {
        **RUNTIME_ENVIRONMENT,
        "STORAGE_EMULATOR_HOST": storage_url,
        "BUNDLE_URI": f"gs://{bucket}/bundles/{sha256}",
        "BUNDLE_SHA256": sha256,
    }


@contextmanager
def started(
    source: Path, environment: Mapping[str, str], log: Path, python: str = sys.executable
) -> Iterator[FunctionProcess]:
    """Run a function inside the block, with the command of the local Cloud Run."""
    port = free_port()
    command = [python, "-m", "functions_framework", "--target", "predict", "--source", str(source / "main.py")]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    # gunicorn puts a control socket into XDG_RUNTIME_DIR; the path must be short.
    with log.open("ab") as output, tempfile.TemporaryDirectory(prefix="run-") as runtime:
        process = subprocess.Popen(
            command,
            cwd=source,
            env={**os.environ, **environment, "PORT": str(port), "XDG_RUNTIME_DIR": runtime},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        try:
            yield FunctionProcess(f"http://127.0.0.1:{port}", process, log)
        finally:
            terminate_trees([process.pid], _STOP_SECONDS)
            process.wait()


def wait_for_response(function: FunctionProcess, poster: bytes, timeout_seconds: float = 120) -> bytes:
    """Send a poster until it gets a prediction; return it. Raises RuntimeError if there is none in time."""
    address = urlsplit(function.url)
    deadline = time.monotonic() + timeout_seconds
    status = 0
    while function.process.poll() is None and time.monotonic() < deadline:
        connection = http.client.HTTPConnection(address.netloc, timeout=timeout_seconds)
        try:
            connection.request("POST", "/", poster, {"Content-Type": "image/jpeg", "Connection": "close"})
            response = connection.getresponse()
            status, body = response.status, response.read()
            if status == 200:
                return body
        except OSError:  # the port is not open yet
            pass
        finally:
            connection.close()
        time.sleep(0.01)
    raise RuntimeError(f"The function gave no prediction (last status {status}); see {function.log}.")
