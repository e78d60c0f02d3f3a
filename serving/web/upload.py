"""Reads the poster from a form: a file, a photo or a pasted picture; a sample; or an address."""

import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from flask import Request
from werkzeug.datastructures import FileStorage

from .errors import PosterError

MAX_POSTER_BYTES = 20 * 1024 * 1024
UPLOAD_SECONDS = 120.0  # for a whole upload to arrive; a slow phone sends 20 MB in 105
TOO_LARGE = f"The poster is larger than {MAX_POSTER_BYTES // 2**20} MB; choose a smaller one."
# Sample posters: file name in static/samples, and title.
SAMPLES = {
    "nakusa": "Nakusa",
    "yuhi-tram": "Yuhi Tram: The Paper Crown",
    "niwahanes-mirror": "Niwahane's Mirror",
    "fuchiyas-mirror": "Fuchiya's Mirror",
}
_SAMPLES_FOLDER = Path(__file__).parent / "static" / "samples"
_ANY_BYTES = "application/octet-stream"
_IMAGE_TYPE = re.compile(r"image/[\w.+-]+", re.ASCII)


@dataclass(frozen=True)
class Poster:
    """A poster as a person gave it.

    `content` is its bytes, or the address or object name from which the function reads it. `name` is shown on the
    page. `sample` is its key in SAMPLES, if it is a sample.
    """

    content: bytes | str
    name: str
    content_type: str = _ANY_BYTES
    sample: str | None = None

    @property
    def address(self) -> str | None:
        """The address of a poster that the function fetches."""
        return self.content if isinstance(self.content, str) else None


def read_poster(request: Request) -> Poster:
    """Read the form's fields `sample`, `poster` (a file; there may be two such fields) or `address`.

    Raises:
        PosterError: there is no poster, or it is larger than MAX_POSTER_BYTES.
    """
    sample = request.form.get("sample")
    if sample in SAMPLES:
        return Poster((_SAMPLES_FOLDER / f"{sample}.jpg").read_bytes(), SAMPLES[sample], "image/jpeg", sample)
    for upload in request.files.getlist("poster"):
        if upload.filename:
            return _uploaded(upload, upload.filename)
    if address := request.form.get("address", "").strip():
        return Poster(address, address)
    raise PosterError(400, "no_poster", "No poster was chosen; choose an image or enter its address first.")


def stop_reading(request: Request) -> None:
    """End an upload. The connection stays open for the response. Servers other than gunicorn have their own limits."""
    _shut_down(request.environ.get("gunicorn.socket"))


def _shut_down(connection: socket.socket | None) -> None:
    if connection is not None:
        with suppress(OSError):
            connection.shutdown(socket.SHUT_RD)


@contextmanager
def in_time(request: Request) -> Iterator[None]:
    """Read an upload inside this block. A socket timeout would not be enough, because it restarts with each byte.

    Raises:
        PosterError: (408) the upload does not arrive within UPLOAD_SECONDS.
    """
    late, connection = threading.Event(), request.environ.get("gunicorn.socket")

    def stop() -> None:  # in a thread without Flask's request
        late.set()
        _shut_down(connection)

    timer = threading.Timer(UPLOAD_SECONDS, stop)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        if late.is_set():  # replaces the error that the truncated upload caused
            message = f"The poster did not arrive within {UPLOAD_SECONDS:.0f} seconds; choose a smaller one."
            raise PosterError(408, "too_slow", message)


def _uploaded(upload: FileStorage, name: str) -> Poster:
    data = upload.read()
    if len(data) > MAX_POSTER_BYTES:
        raise PosterError(413, "too_large", TOO_LARGE)
    # The type that the browser gives. The function checks the bytes in any case.
    return Poster(data, name, upload.mimetype if _IMAGE_TYPE.fullmatch(upload.mimetype) else _ANY_BYTES)
