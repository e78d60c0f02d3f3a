"""The storage emulator: gcp-storage-emulator on loopback, with a queue for more than five callers at once.

python -m infra.local.storage --port 8898 --folder FOLDER --bucket anime-genre
"""

import argparse
import socketserver
from pathlib import Path

from gcp_storage_emulator.server import create_server


def main() -> None:
    """Serve a folder's buckets until the process is ended."""
    parser = argparse.ArgumentParser(prog="python -m infra.local.storage", description="A storage emulator.")
    parser.add_argument("--port", type=int, required=True, help="loopback port")
    parser.add_argument("--folder", type=Path, required=True, help="where the objects are kept")
    parser.add_argument("--bucket", required=True, help="the bucket that is there from the start")
    args = parser.parse_args()
    # It answers one request at a time. With Python's queue of five, the sixth caller waits for a second or more.
    socketserver.TCPServer.request_queue_size = 128
    create_server("127.0.0.1", args.port, default_bucket=args.bucket, data_dir=str(args.folder)).run()


if __name__ == "__main__":
    main()
