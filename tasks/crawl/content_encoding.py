"""Decompresses bodies, also those of hosts that do not declare, or misname, the compression."""

import zlib

from tasks.errors import ResponseTooLarge, SiteError, SiteUnavailable, excerpt, excerpt_of_url

ACCEPTED = "gzip, deflate"
_UNSUPPORTED = {"br", "zstd", "compress", "x-compress", "dcb", "dcz"}
_GZIP_START = b"\x1f\x8b"
_LAYERS = 3  # a server compresses files that are compressed already
_GZIP, _ZLIB, _RAW = 31, 15, -15  # kinds of zlib's `wbits`


def decoded(body: bytes, encoding: str, url: str, largest_bytes: int) -> bytes:
    """The content of a body with the header Content-Encoding `encoding`.

    Each body that starts as gzip data does is decompressed, whatever the header says: no page or image starts so.

    Raises:
        SiteUnavailable: the compressed data is damaged or incomplete.
        ResponseTooLarge: the content is larger than `largest_bytes`.
        SiteError: its compression is not supported.
    """
    names = [name.strip().lower() for name in encoding.split(",")]
    unsupported = [name for name in names if name in _UNSUPPORTED]
    if unsupported and body:
        raise SiteError(f"{excerpt_of_url(url)} is compressed as {excerpt(unsupported[0])!r}, which is not supported.")
    try:
        if names == ["deflate"] and body and not body.startswith(_GZIP_START):
            body = _deflated(body, largest_bytes)
        for _ in range(_LAYERS):
            if body.startswith(_GZIP_START):
                body = _decompressed(body, _GZIP, largest_bytes)
    except (zlib.error, EOFError) as error:
        raise SiteUnavailable(f"The compressed body of {excerpt_of_url(url)} is damaged.", "damaged body") from error
    if len(body) > largest_bytes:
        raise ResponseTooLarge(f"The response of {excerpt_of_url(url)} is larger than {largest_bytes / 1e6:.0f} MB.")
    return body


def _deflated(body: bytes, largest_bytes: int) -> bytes:
    try:
        return _decompressed(body, _ZLIB, largest_bytes)
    except zlib.error:  # some servers leave out zlib's header
        return _decompressed(body, _RAW, largest_bytes)


def _decompressed(body: bytes, kind: int, largest_bytes: int) -> bytes:
    """The decompressed data, or its first `largest_bytes` + 1 bytes. Gzip files may be joined."""
    content = b""
    while True:
        stream = zlib.decompressobj(kind)
        content += stream.decompress(body, largest_bytes + 1 - len(content))
        if len(content) > largest_bytes:
            return content
        if not stream.eof:
            raise EOFError
        body = stream.unused_data
        if not body.startswith(_GZIP_START) or kind != _GZIP:
            return content
