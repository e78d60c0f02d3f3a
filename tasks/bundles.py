"""Bundles are kept with the MLflow run of their training, and in the bucket after their upload."""

import shutil
from pathlib import Path

from infra.registry import Registry
from infra.store import Store
from serving.bundle.errors import BundleError
from serving.bundle.model import CARD, MANIFEST, Manifest, check_sha256

_ARTIFACTS = "bundle"


def bundle_key(sha256: str) -> str:
    """The prefix of a bundle's objects in the bucket, and of its files in the workspace."""
    return f"bundles/{sha256}"


def log_bundle(registry: Registry, run_id: str, folder: Path) -> None:
    """Log a bundle's files as artifacts of the run that trained it."""
    registry.log_folder(run_id, folder, _ARTIFACTS)


def fetch_bundle(registry: Registry, workspace: Path, run_id: str, sha256: str) -> Path:
    """The local folder of a run's bundle, complete and checked. It is downloaded from MLflow if necessary.

    Raises:
        BundleError: a file is missing or does not match its sha256.
    """
    folder = workspace / bundle_key(sha256)
    if not (folder / MANIFEST).exists():
        move_bundle(registry.fetch_folder(run_id, _ARTIFACTS, workspace / "bundles" / f"{run_id}.part"), folder)
    check_bundle(folder, sha256)
    return folder


def fetch_uploaded_bundle(store: Store, workspace: Path, sha256: str) -> Path:
    """The local folder of an uploaded bundle, complete and checked. It is downloaded from the bucket if necessary.

    Raises:
        NotFound: the bundle is not in the bucket.
        BundleError: a file does not match its sha256.
    """
    folder = workspace / bundle_key(sha256)
    if not (folder / MANIFEST).exists():
        downloaded = folder.with_name(f"{sha256}.part")
        manifest = store.read(f"{bundle_key(sha256)}/{MANIFEST}")
        check_sha256(MANIFEST, manifest, sha256)
        names = _files(Manifest.parse(manifest))
        store.download({f"{bundle_key(sha256)}/{name}": downloaded / name for name in names})
        move_bundle(downloaded, folder)
    check_bundle(folder, sha256)
    return folder


def move_bundle(complete: Path, folder: Path) -> None:
    """Move the folder of a complete bundle into place. Files of an interrupted download are replaced."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    complete.replace(folder)


def upload_bundle(store: Store, folder: Path, sha256: str) -> None:
    """Upload a bundle. The manifest comes last: its presence means that the bundle is complete."""
    for name in _files(Manifest.parse((folder / MANIFEST).read_bytes())):
        store.upload({f"{bundle_key(sha256)}/{name}": folder / name})


def _files(manifest: Manifest) -> tuple[str, ...]:
    """All files of a bundle, the manifest last. Bundles of other precisions and earlier versions have other files."""
    return (*sorted(manifest.files), CARD, MANIFEST)


def check_bundle(folder: Path, sha256: str) -> Manifest:
    """Check the hash of the manifest and the hashes of all files that it lists.

    Raises:
        BundleError: a file is missing or has another hash; the message names it.
    """
    data = (folder / MANIFEST).read_bytes()
    check_sha256(MANIFEST, data, sha256)
    manifest = Manifest.parse(data)
    for name, expected in manifest.files.items():
        if not (folder / name).is_file():
            raise BundleError(f"The bundle in {folder} has no {name}.")
        check_sha256(name, (folder / name).read_bytes(), expected)
    return manifest
