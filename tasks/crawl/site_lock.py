"""A lock that allows one crawl of a site at a time on this machine, in any workspace."""

import errno
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from serving.bundle.files import sha256_of
from tasks.crawl.addresses import host_of
from tasks.errors import SiteBusy


@contextmanager
def site_lock(site_url: str) -> Iterator[None]:
    """Be the only process on this machine that crawls a site, during the block.

    The lock is the name of a socket in Linux's abstract namespace: it leaves no file behind and ends with the process.
    Other systems have no such names, and containers do not share them. There only the lock of the workspace and
    Prefect's concurrency limit protect the site.

    Raises:
        SiteBusy: another process is crawling the site.
    """
    if sys.platform != "linux":
        yield
        return
    host = host_of(site_url)
    with socket.socket(socket.AF_UNIX) as lock:
        try:
            lock.bind(f"\0anime-genre {sha256_of(host.encode())}")
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            raise SiteBusy(f"Another run is crawling {host}. Only one run at a time may do so.") from None
        yield
