"""Posters that a request names instead of bringing them: objects of a bucket, and pictures of known hosts.

POSTER_BUCKETS  buckets besides the bundle's own that gs:// addresses may name, with commas between them
POSTER_HOSTS    hosts (HOST or HOST:PORT) that https:// addresses may name; the site's poster CDN where it is not set
"""

import os
import time
from urllib.parse import urlsplit

import requests
import urllib3
from google.api_core import exceptions as google_exceptions
from google.cloud.storage import Bucket

from ..bundle.errors import RequestError
from .loading import UNREACHABLE, download

MAX_BYTES = 20 * 1024 * 1024  # of a poster; Cloud Run itself ends at 32 MiB a request
MAX_NAME_BYTES = 1024  # Cloud Storage's own limit for an object's name
HOST_TIMEOUT_SECONDS = 10.0
_SILENCE_SECONDS = 5.0  # of a host between two packets
_CHUNK_BYTES = 64 * 1024
_DEFAULT_HOSTS = "cdn.myanimelist.net"


def named_poster(name: object, bucket: Bucket) -> bytes:
    """The poster of a name, at most MAX_BYTES + 1 bytes of it.

    `name` is an object's path in `bucket`, a gs:// address or an https:// address.

    Raises RequestError: 400 for what is no name, 403 for another bucket or host, 404 for no such poster, 503 where
    bucket or host do not answer, 504 where the host is too slow.
    """
    if not isinstance(name, str) or not 0 < len(name.encode(errors="surrogatepass")) <= MAX_NAME_BYTES:
        raise RequestError(400, "bad_request", 'A poster is named like {"name": "posters/5.jpg"}.')
    if any("\ud800" <= letter <= "\udfff" for letter in name):  # halves of letters, which no address can hold
        raise RequestError(400, "bad_request", "The poster's name is no text.")
    if name.startswith(("https://", "http://")):
        return _from_host(name)
    if name.startswith("gs://"):
        bucket_name, _, name = name.removeprefix("gs://").partition("/")
        if bucket_name != bucket.name:
            if bucket_name not in _listed("POSTER_BUCKETS", ""):
                raise RequestError(403, "forbidden_bucket", "Posters are read from the function's own bucket only.")
            bucket = bucket.client.bucket(bucket_name)
        if not name:
            raise RequestError(400, "bad_request", "The gs:// address names a bucket and no object.")
    return _from_bucket(name, bucket)


def _from_bucket(name: str, bucket: Bucket) -> bytes:
    if name in (".", ".."):  # which addresses lose on their way
        raise RequestError(400, "bad_request", f"'{name}' is no object's name.")
    try:
        # A range, so that no object can fill the memory.
        return download(bucket, name, end=MAX_BYTES)
    except google_exceptions.NotFound as error:
        raise RequestError(404, "no_such_poster", f"There is no poster '{name}' in the bucket.") from error
    except google_exceptions.RequestRangeNotSatisfiable:
        return b""  # an empty object has no first byte
    except google_exceptions.Forbidden as error:
        raise RequestError(403, "forbidden_bucket", f"The function may not read the bucket {bucket.name}.") from error
    except google_exceptions.BadRequest as error:
        raise RequestError(400, "bad_request", "The bucket takes no such name.") from error
    except UNREACHABLE as error:
        raise RequestError(503, "storage_unavailable", "The bucket does not answer; try again.") from error


def _from_host(address: str) -> bytes:
    url = _allowed(address)
    deadline = time.monotonic() + HOST_TIMEOUT_SECONDS
    try:
        with requests.get(
            url,
            stream=True,
            timeout=_SILENCE_SECONDS,
            allow_redirects=False,
            headers={"Accept": "image/*", "Accept-Encoding": "identity"},
            auth=lambda request: request,  # none, not even of a .netrc
        ) as response:
            if response.status_code in (404, 410):
                raise RequestError(404, "no_such_poster", "The poster's host has no such poster.")
            if response.status_code != 200:
                raise RequestError(
                    503, "poster_unavailable", f"The poster's host answers {response.status_code} and no poster."
                )
            return _read(response.raw, deadline)
    except (requests.Timeout, urllib3.exceptions.TimeoutError) as error:
        raise _too_slow() from error
    except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
        raise RequestError(503, "poster_unavailable", "The poster's host does not answer.") from error


def _allowed(address: str) -> str:
    """The address, put together anew from its parts, so that nothing else is asked than what was looked at.

    That the host is listed and shows a certificate for its name keeps inner addresses out, whatever the name resolves
    to.
    """
    if not address.isascii() or not address.isprintable() or "\\" in address or " " in address:
        raise RequestError(400, "bad_request", "The poster's address is malformed.")
    try:
        parts = urlsplit(address)
    except ValueError as error:
        raise RequestError(400, "bad_request", "The poster's address is malformed.") from error
    if parts.scheme != "https" or parts.netloc.lower() not in _listed("POSTER_HOSTS", _DEFAULT_HOSTS):
        raise RequestError(
            403, "forbidden_host", "Posters are read from https:// addresses of the hosts that were allowed only."
        )
    return f"https://{parts.netloc.lower()}{parts.path or '/'}" + (f"?{parts.query}" if parts.query else "")


def _read(raw: urllib3.BaseHTTPResponse, deadline: float) -> bytes:
    """What comes before the deadline; a piece at a time, as it comes, so that a host that drips does not hold it up."""
    data = bytearray()
    while len(data) <= MAX_BYTES and (piece := raw.read1(_CHUNK_BYTES)):
        data += piece
        if time.monotonic() > deadline:
            raise _too_slow()
    return bytes(data[: MAX_BYTES + 1])


def _too_slow() -> RequestError:
    return RequestError(504, "too_slow", "The poster's host is too slow; try again, or send the poster itself.")


def _listed(variable: str, default: str) -> set[str]:
    return {entry.strip().lower() for entry in os.environ.get(variable, default).split(",") if entry.strip()}
