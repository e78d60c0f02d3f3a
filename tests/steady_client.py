"""A client that asks the function at a steady rate, whatever happens meanwhile."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

import requests

from tests.pictures import image_file


@dataclass
class SteadyClient:
    """Sends a picture `rate` times per second, each time in a thread of its own.

    `responses` has the time of each response and the sha256 of its bundle, `failed` what was no prediction.
    """

    url: str
    rate: float = 20.0
    responses: list[tuple[float, str]] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    @contextmanager
    def asking(self) -> Iterator["SteadyClient"]:
        """Ask during the block."""
        ended = threading.Event()
        thread = threading.Thread(target=self._run, args=(image_file(), ended))
        thread.start()
        try:
            yield self
        finally:
            ended.set()
            thread.join()

    def _run(self, picture: bytes, ended: threading.Event) -> None:
        with ThreadPoolExecutor(64) as pool:
            due = time.monotonic()
            while not ended.is_set():
                pool.submit(self._ask, picture)
                due += 1 / self.rate
                time.sleep(max(0.0, due - time.monotonic()))

    def _ask(self, picture: bytes) -> None:
        try:
            response = requests.post(self.url, data=picture, headers={"Content-Type": "image/jpeg"}, timeout=30)
            response.raise_for_status()
            self.responses.append((time.monotonic(), response.json()["model"]["sha256"]))
        except (OSError, ValueError, KeyError) as error:
            self.failed.append(str(error))
