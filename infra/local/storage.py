"""The storage emulator: gcp-storage-emulator on 127.0.0.1, with four changes.

It has the checks of `same_origin`, a longer queue, a database for what it knows about objects, and the precondition
`ifGenerationMatch` (https://cloud.google.com/storage/docs/request-preconditions), which the emulator ignores.

    python -m infra.local.storage --port 8898 --folder FOLDER --bucket anime-genre
"""

import argparse
import json
import socketserver
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from gcp_storage_emulator import server
from gcp_storage_emulator.settings import STORAGE_DIR
from gcp_storage_emulator.storage import Storage

from infra.local.same_origin import SameOriginHandler

_OTHER_THAN_OBJECTS = ("buckets", "resumable", "bucket_iam_policies", "soft_deleted")  # attributes of Storage


class _Objects(dict[str, Any]):
    """The descriptions of a bucket's objects by name. It notes which ones change."""

    def __init__(self) -> None:
        super().__init__()
        self.changed: set[str] = set()

    def __setitem__(self, name: str, description: Any) -> None:
        super().__setitem__(name, description)
        self.changed.add(name)

    def __delitem__(self, name: str) -> None:
        super().__delitem__(name)
        self.changed.add(name)


class _PreconditionFailed(Exception):
    """The object has another generation than the request requires."""


class _Storage(Storage):  # type: ignore[misc]
    """The emulator's storage, with preconditions, and with the descriptions of objects in a database.

    The emulator writes one JSON file with all descriptions after each change. With 25,000 posters that takes half a
    second per object, and a process that is killed meanwhile loses them all.
    """

    objects: dict[str, Any]
    generation: str | None = None
    """The generation that the current request requires, "0" for none. The server handles one request at a time."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._upload_generations: dict[str, str | None] = {}  # of resumable uploads, by id
        super().__init__(*args, **kwargs)

    def create_resumable_upload(self, bucket_name: str, file_name: str, file_obj: Any) -> str:
        """Start an upload in several requests. Its precondition is checked with the last one."""
        file_id: str = super().create_resumable_upload(bucket_name, file_name, file_obj)
        self._upload_generations[file_id] = self.generation
        return file_id

    def create_file(
        self, bucket_name: str, file_name: str, content: bytes, file_obj: Any, file_id: str | None = None
    ) -> None:
        """Write an object."""
        self._check(bucket_name, file_name, self._upload_generations.pop(file_id) if file_id else self.generation)
        super().create_file(bucket_name, file_name, content, file_obj, file_id)

    def delete_file(self, bucket_name: str, file_name: str) -> None:
        """Delete an object."""
        self._check(bucket_name, file_name, self.generation)
        super().delete_file(bucket_name, file_name)

    def get_file(self, bucket_name: str, file_name: str, show_error: bool = True) -> bytes:
        """Read an object."""
        self._check(bucket_name, file_name, self.generation)
        content: bytes = super().get_file(bucket_name, file_name, show_error)
        return content

    def _check(self, bucket: str, name: str, generation: str | None) -> None:
        if generation is None or bucket not in self.buckets:  # the emulator keeps unfinished uploads beside the buckets
            return
        found = self.objects.get(bucket, {}).get(name)
        if generation != (found["generation"] if found else "0"):
            raise _PreconditionFailed

    def _read_config_from_file(self) -> None:
        super()._read_config_from_file()  # the file of an earlier version
        path = Path(self._data_dir) / STORAGE_DIR / ".meta.db"
        self._database = sqlite3.connect(path, check_same_thread=False)  # the server runs in a thread of its own
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = NORMAL")
        self._database.execute("CREATE TABLE IF NOT EXISTS other (name TEXT PRIMARY KEY, value TEXT)")
        self._database.execute(
            "CREATE TABLE IF NOT EXISTS objects (bucket TEXT, name TEXT, description TEXT, PRIMARY KEY (bucket, name))"
        )
        earlier, self.objects = self.objects, {}
        for bucket, name, description in self._database.execute("SELECT bucket, name, description FROM objects"):
            dict.__setitem__(self.objects.setdefault(bucket, _Objects()), name, json.loads(description))
        for name, value in self._database.execute("SELECT name, value FROM other"):
            setattr(self, name, json.loads(value))
        for bucket, objects in earlier.items():
            self.objects.setdefault(bucket, _Objects())
            for name, description in objects.items():
                self.objects[bucket][name] = description
        self._write_config_to_file()
        if self._store.exists_file(".meta"):
            self._store.remove_file(".meta")

    def _write_config_to_file(self) -> None:
        with self._database:  # one transaction
            for name in _OTHER_THAN_OBJECTS:
                self._database.execute("REPLACE INTO other VALUES (?, ?)", (name, json.dumps(getattr(self, name))))
            for bucket in self.buckets:
                self._write_objects(bucket)

    def _write_objects(self, bucket: str) -> None:
        objects = self.objects.setdefault(bucket, _Objects())
        for name in objects.changed:
            if name in objects:
                row = (bucket, name, json.dumps(objects[name]))
                self._database.execute("REPLACE INTO objects VALUES (?, ?, ?)", row)
            else:
                self._database.execute("DELETE FROM objects WHERE bucket = ? AND name = ?", (bucket, name))
        objects.changed.clear()

    def _bucket_soft_delete_retention_seconds(self, bucket_name: str) -> int:
        """The emulator keeps what is deleted for a week. Nothing here restores it."""
        return 0


class _Handler(SameOriginHandler, server.RequestHandler):  # type: ignore[misc]
    """The emulator's handler with the checks."""

    def parse_request(self) -> bool:
        """Read the head of a request, with its precondition."""
        if not super().parse_request():
            return False
        self.storage.generation = parse_qs(urlsplit(self.path).query).get("ifGenerationMatch", [None])[0]
        return True

    def do_GET(self) -> None:
        """Handle a request that reads."""
        self._checked(super().do_GET)

    def do_POST(self) -> None:
        """Handle a request that writes."""
        self._checked(super().do_POST)

    def do_PUT(self) -> None:
        """Handle a part of an upload."""
        self._checked(super().do_PUT)

    def do_DELETE(self) -> None:
        """Handle a request that deletes."""
        self._checked(super().do_DELETE)

    def _checked(self, handle: Callable[[], None]) -> None:
        try:
            handle()
        except _PreconditionFailed:
            message = "At least one of the pre-conditions you specified did not hold."
            self.send_error(HTTPStatus.PRECONDITION_FAILED, explain=message)

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
    server.RequestHandler, server.Storage = _Handler, _Storage
    # GET /wipe deletes all objects, and browsers send no Origin with the image of a page.
    server.HANDLERS = tuple(route for route in server.HANDLERS if route[0] != "^/wipe$")
    server.create_server("127.0.0.1", args.port, default_bucket=args.bucket, data_dir=str(args.folder)).run()


if __name__ == "__main__":
    main()
