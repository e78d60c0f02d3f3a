"""Where a bundle is: with its MLflow run from training on, and in the bucket once it is uploaded."""

import shutil
from pathlib import Path

from infra.registry import Registry
from infra.store import Store
from serving.bundle.errors import BundleError
from serving.bundle.model import CARD, MANIFEST, Manifest, check_sha256

_ARTIFACTS = "bundle"


def bundle_key(sha256: str) -> str:
    """The prefix of a bundle's objects in the bucket."""
    return f"bundles/{sha256}"


def log_bundle(registry: Registry, run_id: str, folder: Path) -> None:
    """Keep a bundle's files with the run that trained it."""
    registry.log_folder(run_id, folder, _ARTIFACTS)


def fetch_bundle(registry: Registry, workspace: Path, run_id: str, sha256: str) -> Path:
    """The folder of a run's bundle on this machine, whole and checked; fetched from MLflow where it is not.

    Raises:
        BundleError: a file is missing or not what its sha256 says.
    """
    folder = workspace / bundle_key(sha256)
    if not (folder / MANIFEST).exists():
        move_bundle(registry.fetch_folder(run_id, _ARTIFACTS, workspace / "bundles" / f"{run_id}.part"), folder)
    check_bundle(folder, sha256)
    return folder


def fetch_uploaded_bundle(store: Store, workspace: Path, sha256: str) -> Path:
    """The folder of a bundle of the bucket on this machine, whole and checked.

    Raises:
        NotFound: it is not in the bucket.
        BundleError: a file is not what its sha256 says.
    """
    folder = workspace / bundle_key(sha256)
    if not (folder / MANIFEST).exists():
        beside = folder.with_name(f"{sha256}.part")
        manifest = store.read(f"{bundle_key(sha256)}/{MANIFEST}")
        check_sha256(MANIFEST, manifest, sha256)
        names = _files(Manifest.parse(manifest))
        store.download({f"{bundle_key(sha256)}/{name}": beside / name for name in names})
        move_bundle(beside, folder)
    check_bundle(folder, sha256)
    return folder


def move_bundle(beside: Path, folder: Path) -> None:
    """Move a whole bundle to its place, over what may lie there of an interrupted download."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    beside.replace(folder)


def upload_bundle(store: Store, folder: Path, sha256: str) -> None:
    """Put a bundle into the bucket, its manifest last: it says that all is there."""
    for name in _files(Manifest.parse((folder / MANIFEST).read_bytes())):
        store.upload({f"{bundle_key(sha256)}/{name}": folder / name})


def _files(manifest: Manifest) -> tuple[str, ...]:
    """All files of a bundle, its manifest last; which there are differs with what it holds and how old it is."""
    return (*sorted(manifest.files), CARD, MANIFEST)


def check_bundle(folder: Path, sha256: str) -> Manifest:
    """Compare every file of a bundle with the hashes in its manifest, and the manifest with the bundle's.

    Raises:
        BundleError: names the file that is missing or different.
    """
    data = (folder / MANIFEST).read_bytes()
    check_sha256(MANIFEST, data, sha256)
    manifest = Manifest.parse(data)
    for name, expected in manifest.files.items():
        if not (folder / name).is_file():
            raise BundleError(f"The bundle in {folder} has no {name}.")
        check_sha256(name, (folder / name).read_bytes(), expected)
    return manifest
