"""Bundles and predictions: kept with the MLflow run of their training, a bundle as its model, and in the bucket.

Bundles are in the bucket after their upload.
"""

import logging
import shutil
from collections.abc import Callable
from pathlib import Path

from infra.errors import NotFound
from infra.files import move_folder
from infra.registry import Registry
from infra.store import Store, crc32c_of_file
from serving.bundle.errors import BundleError
from serving.bundle.files import sha256_of_file, temporary_path
from serving.bundle.model import CARD, MANIFEST, Manifest, check_sha256

_EARLIER_ARTIFACTS = "bundle"  # of runs before December 2026, which logged no model with their bundle

logger = logging.getLogger("tasks")


def bundle_key(sha256: str) -> str:
    """The prefix of a bundle's objects in the bucket, and of its files in the workspace."""
    return f"bundles/{sha256}"


def fetch_bundle(store: Store, registry: Registry, workspace: Path, sha256: str, run_id: str | None = None) -> Path:
    """The local folder of a bundle, complete and checked.

    It is taken from the workspace, from the model or the artifacts of the run that trained it (if given), or from the
    bucket. Damaged copies are logged and skipped.

    Raises:
        NotFound: none of them has an intact copy.
    """
    folder = workspace / bundle_key(sha256)
    temporary = temporary_path(folder)
    places: dict[str, Callable[[], Path]] = {
        "workspace": lambda: folder,
        "MLflow model": lambda: registry.fetch_bundle(run_id or "", sha256, temporary),
        "MLflow run": lambda: registry.fetch_folder(run_id or "", _EARLIER_ARTIFACTS, temporary),
        "bucket": lambda: _download_bundle(store, sha256, temporary),
    }
    if run_id is None:
        del places["MLflow model"], places["MLflow run"]
    for place, fetch in places.items():
        try:
            found = fetch()
            check_bundle(found, sha256)
            if found != folder:
                move_folder(found, folder)
        except NotFound:
            continue
        except BundleError as error:
            if place != "workspace":
                logger.warning("The copy of bundle %s in the %s is not used: %s", sha256[:8], place, error)
            elif folder.exists():
                logger.warning("The bundle in %s is damaged and is downloaded again. %s", folder, error)
            continue
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return folder
    raise NotFound(f"The bundle {sha256[:8]} has no intact copy in the {', '.join(places)}.")


def _download_bundle(store: Store, sha256: str, folder: Path) -> Path:
    """Download a bundle from the bucket. Its card is prose, so a bundle without one is complete."""
    manifest = store.read(f"{bundle_key(sha256)}/{MANIFEST}")
    check_sha256(MANIFEST, manifest, sha256)
    present = set(store.keys(f"{bundle_key(sha256)}/"))
    names = [name for name in _files(Manifest.parse(manifest)) if name != CARD or _object(sha256, CARD) in present]
    store.download({_object(sha256, name): folder / name for name in names})
    return folder


def fetch_predictions(store: Store, registry: Registry, workspace: Path, run_id: str, key: str) -> Path:
    """The local file of a training's predictions: from the workspace, the bucket, or the run.

    Afterwards the bucket has it.

    Raises:
        NotFound: none of them has it.
    """
    path = workspace / key

    def is_here() -> bool:
        return path.is_file() and sha256_of_file(path) == path.stem

    in_bucket = store.exists(key)
    if path.is_file() and not is_here():
        logger.warning("The file %s is damaged and is downloaded again.", path)
    if not is_here() and in_bucket:
        store.download({key: path})
    if not is_here():
        registry.fetch_folder(run_id, path.name, path.parent)
        in_bucket = False
    if not is_here():
        raise NotFound(f"The predictions {key} are damaged in the bucket and in the MLflow run.")
    if not in_bucket:
        store.upload({key: path})
        logger.warning("%s was missing and is in the bucket again.", store.uri(key))
    return path


def upload_bundle(store: Store, folder: Path, sha256: str, replace: bool = False) -> list[str]:
    """Upload the files of a bundle that are missing or differ in the bucket, and return their names.

    With `replace`, all are uploaded. The manifest comes last: its presence means that the bundle is complete.
    """
    present = {} if replace else store.checksums(f"{bundle_key(sha256)}/")
    names = [
        name
        for name in _files(Manifest.parse((folder / MANIFEST).read_bytes()))
        if (folder / name).exists() and present.get(_object(sha256, name)) != crc32c_of_file(folder / name)
    ]
    for name in names:
        store.upload({_object(sha256, name): folder / name})
    return names


def _object(sha256: str, name: str) -> str:
    return f"{bundle_key(sha256)}/{name}"


def _files(manifest: Manifest) -> tuple[str, ...]:
    """All files of a bundle, the manifest last. Bundles of other precisions and earlier versions have other files."""
    return (*sorted(manifest.files), CARD, MANIFEST)


def check_bundle(folder: Path, sha256: str) -> Manifest:
    """Check the hash of the manifest and the hashes of all files that it lists.

    Raises:
        BundleError: a file is missing or has another hash; the message names it.
    """
    if not (folder / MANIFEST).is_file():
        raise BundleError(f"The bundle in {folder} has no {MANIFEST}.")
    data = (folder / MANIFEST).read_bytes()
    check_sha256(MANIFEST, data, sha256)
    manifest = Manifest.parse(data)
    for name, expected in manifest.files.items():
        if not (folder / name).is_file():
            raise BundleError(f"The bundle in {folder} has no {name}.")
        check_sha256(name, (folder / name).read_bytes(), expected)
    return manifest
