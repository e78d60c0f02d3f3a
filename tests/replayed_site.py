"""Real pages and posters, replayed by `replay/serve.py` of the real data as a process."""

import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from infra.local.processes import free_port


@dataclass
class Replay:
    """A replayed site: its URL and the log of its requests."""

    url: str
    log: Path

    def requests(self) -> list[dict]:
        """All requests so far. An incomplete last line is ignored."""
        return [json.loads(line) for line in self.log.read_text().splitlines(keepends=True) if line.endswith("\n")]


@contextmanager
def replayed(data: Path, folder: Path, port: int = 0, **options: object) -> Iterator[Replay]:
    """Serve the replayed site inside the block."""
    port = port or free_port()
    log = folder / f"requests-{time.monotonic_ns()}.jsonl"
    log.touch()
    arguments = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    command = [sys.executable, str(data / "replay" / "serve.py"), "--port", str(port), "--log", str(log), *arguments]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        url = f"http://127.0.0.1:{port}"
        for _ in range(200):
            try:
                urllib.request.urlopen(f"{url}/anime/season/1900/fall", timeout=5).close()
            except urllib.error.HTTPError:
                break
            except OSError:
                time.sleep(0.05)
        log.write_text("")  # remove the requests above
        yield Replay(url, log)
    finally:
        process.terminate()
        process.wait()
