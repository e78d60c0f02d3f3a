"""Fetches posters that a request names: objects in a bucket, and images on allowed hosts. Environment variables:

POSTER_BUCKETS  further buckets that gs:// addresses may name, separated by commas
POSTER_HOSTS    hosts (HOST or HOST:PORT) that https:// addresses may name, separated by commas; by default the
                site's poster host
"""

import os
import time
from urllib.parse import urlsplit

import requests
import urllib3
from google.api_core import exceptions as google_exceptions
from google.cloud.storage import Bucket

from .errors import RequestError, first_names, shown
from .loading import STORAGE_ERRORS, download

MAX_BYTES = 20 * 1024 * 1024  # per poster; Cloud Run's limit is 32 MiB per request
MAX_NAME_BYTES = 1024  # Cloud Storage's limit for the name of an object
HOST_TIMEOUT_SECONDS = 10.0
_READ_TIMEOUT_SECONDS = 5.0  # between two packets of a host
_CHUNK_BYTES = 64 * 1024
_MALFORMED = "The poster's address is malformed; give one such as https://HOST/POSTER.jpg."
_DEFAULT_HOSTS = "cdn.myanimelist.net"


def fetch_poster(name: object, bucket: Bucket) -> bytes:
    """The first MAX_BYTES + 1 bytes of a poster.

    `name` is the name of an object in `bucket`, a gs:// address or an https:// address.

    Raises RequestError: 400 for an invalid name, 403 for a forbidden bucket or host, 404 if there is no such poster,
    503 if the bucket or host is unreachable, 504 if the host is too slow.
    """
    if not isinstance(name, str) or not 0 < len(name.encode(errors="surrogatepass")) <= MAX_NAME_BYTES:
        raise RequestError(
            400,
            "bad_request",
            f"The poster's name must be a string of 1 to {MAX_NAME_BYTES} bytes, as in posters/5.jpg.",
        )
    if any("\ud800" <= letter <= "\udfff" for letter in name):  # lone surrogates, which UTF-8 cannot encode
        raise RequestError(400, "bad_request", "The poster's name is not valid Unicode text.")
    if name.startswith(("https://", "http://")):
        return _from_host(name)
    if name.startswith("gs://"):
        bucket_name, _, name = name.removeprefix("gs://").partition("/")
        if bucket_name != bucket.name:
            if bucket_name not in _listed("POSTER_BUCKETS", ""):
                others = first_names(sorted(_listed("POSTER_BUCKETS", "")))
                raise RequestError(
                    403,
                    "forbidden_bucket",
                    f"Posters are read only from the function's own bucket{f' and from {others}' if others else ''}.",
                )
            bucket = bucket.client.bucket(bucket_name)
        if not name:
            raise RequestError(400, "bad_request", "The gs:// address names no object; give gs://BUCKET/OBJECT.")
    return _from_bucket(name, bucket)


def _from_bucket(name: str, bucket: Bucket) -> bytes:
    if name in (".", ".."):  # a URL cannot contain these names
        raise RequestError(400, "bad_request", f"'{name}' is not a valid object name.")
    try:
        # A range request, so that a large object cannot fill the memory.
        return download(bucket, name, end=MAX_BYTES)
    except google_exceptions.NotFound as error:
        raise RequestError(404, "no_such_poster", f"There is no poster {shown(name)} in the bucket.") from error
    except google_exceptions.RequestRangeNotSatisfiable:
        return b""  # an empty object has no first byte
    except google_exceptions.Forbidden as error:
        raise RequestError(403, "forbidden_bucket", f"The function may not read the bucket {bucket.name}.") from error
    except google_exceptions.BadRequest as error:
        raise RequestError(400, "bad_request", "The bucket does not accept this name; give another one.") from error
    except STORAGE_ERRORS as error:
        raise RequestError(503, "storage_unavailable", "The bucket is unreachable; try again in a minute.") from error


def _from_host(address: str) -> bytes:
    url = _allowed(address)
    deadline = time.monotonic() + HOST_TIMEOUT_SECONDS
    try:
        with requests.get(
            url,
            stream=True,
            timeout=_READ_TIMEOUT_SECONDS,
            allow_redirects=False,
            headers={"Accept": "image/*", "Accept-Encoding": "identity"},
            auth=lambda request: request,  # no credentials, not even from a .netrc file
        ) as response:
            if response.status_code in (404, 410):
                raise RequestError(404, "no_such_poster", "The poster's host has no such poster; check the address.")
            if response.status_code != 200:
                raise RequestError(
                    503,
                    "poster_unavailable",
                    f"The poster's host responded with status {response.status_code}; send the poster itself.",
                )
            return _read(response.raw, deadline)
    except (requests.Timeout, urllib3.exceptions.TimeoutError) as error:
        raise _too_slow() from error
    except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
        message = "The poster's host is unreachable; try again, or send the poster itself."
        raise RequestError(503, "poster_unavailable", message) from error


def _allowed(address: str) -> str:
    """Check an address and rebuild it from its checked parts, so that the request goes to exactly this host.

    The host must be listed and must present a certificate for its name. This keeps requests away from internal
    addresses, whatever the name resolves to.
    """
    if not address.isascii() or not address.isprintable() or "\\" in address or " " in address:
        raise RequestError(400, "bad_request", _MALFORMED)
    try:
        parts = urlsplit(address)
    except ValueError as error:
        raise RequestError(400, "bad_request", _MALFORMED) from error
    if parts.scheme != "https" or parts.netloc.lower() not in _listed("POSTER_HOSTS", _DEFAULT_HOSTS):
        hosts = first_names(sorted(_listed("POSTER_HOSTS", _DEFAULT_HOSTS)))
        message = (
            f"Posters are read only from https:// addresses on {hosts}."
            if hosts
            else "Posters are not read from addresses. Send the poster itself."
        )
        raise RequestError(403, "forbidden_host", message)
    return f"https://{parts.netloc.lower()}{parts.path or '/'}" + (f"?{parts.query}" if parts.query else "")


def _read(raw: urllib3.BaseHTTPResponse, deadline: float) -> bytes:
    """Read the response until the deadline, piece by piece, so that a host that sends slowly cannot block it."""
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
