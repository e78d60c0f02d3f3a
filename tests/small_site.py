"""The small site in a thread of the test."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from infra.local.site.server import SmallSiteServer


@contextmanager
def small_site(titles: int = 600, seed: int = 0, port: int = 0) -> Iterator[str]:
    """Serve the small site during the block and yield its address, such as "http://127.0.0.1:40123".

    Raises:
        StackError: the port is taken or not allowed.
    """
    with SmallSiteServer(titles, seed, port) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), name="small-site", daemon=True)
        thread.start()
        try:
            yield server.base_url
        finally:
            server.shutdown()
            thread.join()
