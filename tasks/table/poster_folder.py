"""Folders of poster files in a bucket, for tables: uploaded by the command, or given by an address."""

import json
from collections.abc import Mapping
from pathlib import Path

from infra.store import Store
from serving.bundle.files import sha256_of, sha256_of_file

_LISTING = ".json"


def poster_addresses(store: Store, folder: str) -> dict[str, str]:
    """The gs:// address of each file in a folder, by its path in the folder.

    `folder` is the gs:// address of a folder, or that of a listing that `upload_posters` wrote.
    """
    if folder.endswith(_LISTING):
        addresses: dict[str, str] = json.loads(store.read_address(folder))
        return addresses
    bucket, _, prefix = folder.removeprefix("gs://").partition("/")
    prefix = prefix.rstrip("/") + "/" if prefix else ""
    keys = store.of_bucket(bucket).keys(prefix)
    return {key.removeprefix(prefix): f"gs://{bucket}/{key}" for key in keys if not key.endswith("/")}


def upload_posters(store: Store, files: Mapping[str, Path]) -> str:
    """Upload files, given by their paths in a folder, under their hashes; return the address of a listing of them.

    Files that the bucket has are not uploaded again.
    """
    keys = {name: f"files/{sha256_of_file(path)}{path.suffix.lower()}" for name, path in files.items()}
    present = set(store.keys("files/"))
    store.upload({keys[name]: path for name, path in files.items() if keys[name] not in present})
    return store.uri(_write_listing(store, {name: store.uri(key) for name, key in keys.items()}))


def _write_listing(store: Store, addresses: Mapping[str, str]) -> str:
    content = json.dumps(addresses, indent=1, sort_keys=True, ensure_ascii=False).encode()
    key = f"folders/{sha256_of(content)}{_LISTING}"
    store.write(key, content)
    return key
