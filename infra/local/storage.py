"""The storage emulator: gcp-storage-emulator on 127.0.0.1, with the checks of `same_origin` and a longer queue.

python -m infra.local.storage --port 8898 --folder FOLDER --bucket anime-genre
"""

import argparse
import socketserver
from contextlib import suppress
from pathlib import Path
from typing import Any

from gcp_storage_emulator import server

from infra.local.same_origin import SameOriginHandler


class _Handler(SameOriginHandler, server.RequestHandler):  # type: ignore[misc]
    """The emulator's handler with the checks."""

    def log_message(self, format: str, *args: object) -> None:
        """Log a request, unless the disk of the log is full."""
        with suppress(OSError):
            super().log_message(format, *args)


def _handle_error(server: socketserver.BaseServer, request: Any, client_address: Any) -> None:
    """Log the error of a request. If the disk of the log is full, an error of the log would end the server."""
    with suppress(OSError):
        _log_error(server, request, client_address)


_log_error = socketserver.BaseServer.handle_error


def main() -> None:
    """Serve the buckets of a folder until the process is terminated."""
    parser = argparse.ArgumentParser(prog="python -m infra.local.storage", description="A storage emulator.")
    parser.add_argument("--port", type=int, required=True, help="port on 127.0.0.1")
    parser.add_argument("--folder", type=Path, required=True, help="folder for the objects")
    parser.add_argument("--bucket", required=True, help="bucket to create at the start")
    args = parser.parse_args()
    # The emulator handles one request at a time. With Python's default queue of five connections, a sixth client waits
    # for a second or more.
    socketserver.TCPServer.request_queue_size = 128
    socketserver.BaseServer.handle_error = _handle_error  # type: ignore[assignment, method-assign]
    server.RequestHandler = _Handler
    # GET /wipe deletes all objects, and browsers send no Origin with the image of a page.
    server.HANDLERS = tuple(route for route in server.HANDLERS if route[0] != "^/wipe$")
    server.create_server("127.0.0.1", args.port, default_bucket=args.bucket, data_dir=str(args.folder)).run()


if __name__ == "__main__":
    main()
