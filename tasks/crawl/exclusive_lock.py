"""One crawl of a site at a time on this machine, whatever its workspace."""

import errno
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from infra.files import sha256_of
from tasks.crawl.addresses import host_of
from tasks.errors import SiteBusy


@contextmanager
def exclusive_lock(site_url: str) -> Iterator[None]:
    """Be the only one on this machine who asks a site, for the length of the block.

    Held by a socket's name in Linux's abstract namespace: no file is left, and it ends with the process, however
    that ends. Other systems have no such names, and containers do not see each other's; there the lock of the
    workspace, or Prefect's concurrency limit, has to do.

    Raises:
        SiteBusy: another process is asking the site.
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
            raise SiteBusy(f"Another run is asking {host}, and one at a time is enough.") from None
        yield
