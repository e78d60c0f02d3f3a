"""Posters of the bucket in a workspace, as files and as pixels. Workers of a cluster use this without Prefect."""

from collections.abc import Mapping
from pathlib import Path

from infra.store import Store
from ml.data.decoding import decode_posters
from ml.data.shards import Shards
from ml.reporting import Reporter
from serving.bundle.files import sha256_of_file
from serving.bundle.wording import counted
from tasks.crawl.ledger import poster_name
from tasks.crawl.mirror import poster_key
from tasks.errors import StalePosterError


def decode_stored(
    store: Store, workspace: Path, sha256_of: Mapping[str, str], pixels: Shards, reporter: Reporter
) -> None:
    """Fetch the posters whose pixels are missing into the workspace, and decode them. Raises as `fetch_posters`."""
    folder = workspace / "posters"
    missing = set(pixels.missing(sha256_of.values()))
    needed = {id: sha256 for id, sha256 in sha256_of.items() if sha256 in missing}
    fetch_posters(store, folder, needed)
    decode_posters({sha256: folder / poster_name(id) for id, sha256 in needed.items()}, pixels, reporter)


def fetch_posters(store: Store, folder: Path, sha256_of_title: Mapping[str, str]) -> None:
    """Fetch posters that are not in the folder, or have another hash there, from the bucket.

    Raises:
        StalePosterError: a poster in the bucket has another hash as well.
    """

    def differs(id: str) -> bool:
        path = folder / poster_name(id)
        return not path.exists() or sha256_of_file(path) != sha256_of_title[id]

    to_fetch = [id for id in sha256_of_title if differs(id)]
    store.download({poster_key(id): folder / poster_name(id) for id in to_fetch})
    if stale := [id for id in to_fetch if differs(id)]:
        raise StalePosterError(
            f"Another run replaced {counted(len(stale), 'poster')} in the bucket, such as {poster_key(stale[0])}. "
            "Start a run with the crawl."
        )
