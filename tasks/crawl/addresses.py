"""Addresses on the web: whose they are, and whether they may be asked."""

import ipaddress
import socket
from urllib.parse import urlsplit

from infra.errors import ConfigurationError
from tasks.errors import SiteError, SiteUnavailable


def host_of(url: str) -> str:
    """Host and port of an address, in small letters; raises SiteError for what is none."""
    try:
        parts = urlsplit(url)
    except ValueError:  # an unfinished IPv6 address
        parts = urlsplit("")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise SiteError(f"{url!r} is no address on the web: write one such as https://example.org.")
    return parts.netloc.lower()


def is_loopback(url: str) -> bool:
    """Whether an address is on this machine."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def check_contact(url: str, contact: str | None) -> None:
    """See to it that a site on the net is asked only by those who say who they are.

    Raises:
        ConfigurationError: there is no contact.
    """
    if not contact and not is_loopback(url):
        raise ConfigurationError(
            f"{host_of(url)} is only asked with a contact, so that its owner can reach you: set ANIME_GENRE_CONTACT "
            "to an e-mail address or the address of a page of yours."
        )


def check_reachable(site_url: str, timeout_seconds: float = 10) -> None:
    """Knock at a site's door, without asking for anything.

    Raises:
        SiteError: `site_url` is no address on the web.
        SiteUnavailable: nobody answers there.
    """
    host_of(site_url)
    parts = urlsplit(site_url)
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
        socket.create_connection((str(parts.hostname), port), timeout_seconds).close()
    except (OSError, ValueError, UnicodeError) as error:
        raise SiteUnavailable(f"The site {site_url} cannot be reached: {error}.", "not reachable") from error
