"""The command of the small site: `python -m infra.local.site --port 8764`."""

import argparse
import signal
import sys
from types import FrameType

from infra.errors import StackError
from infra.local.site.server import SmallSiteServer


def main() -> None:
    """Print the site's address and serve the site until Ctrl-C or SIGTERM."""
    parser = argparse.ArgumentParser(
        prog="python -m infra.local.site",
        description="A small MyAnimeList of invented titles.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--port", type=int, default=8764, help="port on 127.0.0.1; 0 chooses a free one")
    arguments = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _exit)
    try:
        with SmallSiteServer(port=arguments.port) as server:
            print(server.base_url, flush=True)
            server.serve_forever()
    except StackError as error:
        sys.exit(str(error))


def _exit(number: int, frame: FrameType | None) -> None:
    sys.exit(0)


if __name__ == "__main__":
    main()
