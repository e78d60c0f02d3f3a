"""Checks of URLs: which host they name, and whether it may be requested and can be reached."""

import socket
from pathlib import PurePosixPath
from urllib.parse import quote, urljoin, urlsplit

from infra.errors import ConfigurationError
from infra.loopback import is_loopback
from tasks.errors import SiteError, SiteUnavailable, excerpt, excerpt_of_url


def host_of(url: str) -> str:
    """Host and port of a URL in lower case (of a gs:// address: its bucket); raises SiteError if it is invalid."""
    try:
        parts = urlsplit(url)
    except ValueError:  # an incomplete IPv6 address
        parts = urlsplit("")
    if parts.scheme not in ("http", "https", "gs") or not parts.hostname:
        raise SiteError(f"{excerpt_of_url(url)!r} is not a valid URL. A valid one is https://example.org.")
    return parts.netloc.lower()


def joined(base_url: str, address: str) -> str:
    """An absolute URL from an address on a page or in a header, which may be relative. It is ASCII.

    Raises:
        ValueError: the address cannot be read.
    """
    # Bytes of a header that are not UTF-8 are surrogates in its text.
    as_bytes = address.strip().replace("\\", "/").encode("utf-8", "surrogateescape")
    return urljoin(base_url, quote(as_bytes, safe="".join(map(chr, range(33, 127)))))


def is_file(url: str) -> bool:
    """Whether a URL is that of a file, such as a table, instead of a site's or an API's."""
    parts = urlsplit(url)
    return parts.scheme == "gs" or bool(PurePosixPath(parts.path).suffix)


def is_in_bucket(address: str) -> bool:
    """Whether an address is that of an object of a bucket."""
    return address.startswith("gs://")


def check_contact(url: str, contact: str | None) -> None:
    """Check that requests to other machines name a contact.

    Raises:
        ConfigurationError: there is no contact.
    """
    if not contact and not is_loopback(url):
        raise ConfigurationError(
            f"Requests to {host_of(url)} need a contact, so that its owner can reach you. Set ANIME_GENRE_CONTACT to "
            "your e-mail address or the URL of your web page."
        )


def check_reachable(site_url: str, timeout_seconds: float = 10) -> None:
    """Check that a site accepts connections, without a request.

    Raises:
        SiteError: `site_url` is not a valid URL.
        SiteUnavailable: the connection failed.
    """
    host_of(site_url)
    parts = urlsplit(site_url)
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
        socket.create_connection((str(parts.hostname), port), timeout_seconds).close()
    except (OSError, ValueError, UnicodeError) as error:
        raise SiteUnavailable(
            f"The site {excerpt_of_url(site_url)} cannot be reached: {excerpt(error)}. Is the address right?",
            "not reachable",
        ) from error
