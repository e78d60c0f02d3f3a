"""What tests put into the local stand-ins for storage and Cloud Run."""

import json
from pathlib import Path

from pydantic import SecretStr

from flows.trial import _tiny_bundle
from infra.settings import Settings
from serving.bundle.model import MANIFEST, Model
from tests.infra.conftest import TOKEN


def stand_in_settings(workspace: Path, storage_url: str, run_url: str | None = None) -> Settings:
    """Settings of a workspace, which is created, with the bucket `data` of a storage stand-in."""
    workspace.mkdir(exist_ok=True)
    return Settings(
        workspace=workspace,
        bucket="data",
        storage_emulator_host=storage_url,
        cloud_run_endpoint=run_url,
        cloud_run_token=SecretStr(TOKEN),
    )


def write_bundle(folder: Path, threshold: float) -> str:
    """A tiny bundle, different for each threshold. Returns its sha256."""
    files = _tiny_bundle()
    manifest = json.loads(files[MANIFEST])
    manifest["genres"][0]["threshold"] = threshold
    folder.mkdir()
    for name, data in (files | {MANIFEST: json.dumps(manifest).encode()}).items():
        (folder / name).write_bytes(data)
    return Model.load(folder).sha256
