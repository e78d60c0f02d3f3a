"""Serves the small site until it is ended: `python -m infra.local.site --port 8764 --titles 600 --seed 0`."""

import argparse
import signal
import sys
from types import FrameType

from infra.errors import StackError
from infra.local.site.server import SmallSiteServer


def main() -> None:
    """Prints the site's address, then serves it; Ctrl-C and SIGTERM end it quietly."""
    parser = argparse.ArgumentParser(
        prog="python -m infra.local.site",
        description="A small MyAnimeList of invented titles.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--port", type=int, default=8764, help="loopback port; 0 takes a free one")
    parser.add_argument("--titles", type=int, default=600, help="how many titles to invent, 20 or more")
    parser.add_argument("--seed", type=int, default=0, help="another seed, another site")
    arguments = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _end)
    try:
        with SmallSiteServer(arguments.titles, arguments.seed, arguments.port) as server:
            print(server.base_url, flush=True)
            server.serve_forever()
    except (StackError, ValueError) as error:
        sys.exit(str(error))


def _end(number: int, frame: FrameType | None) -> None:
    sys.exit(0)


if __name__ == "__main__":
    main()
