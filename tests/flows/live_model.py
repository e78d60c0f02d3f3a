"""What answers at the function's address, and bundles for it."""

import json

from flows.summary import RunSummary
from infra.cloud_run import CloudRun
from infra.endpoint import request_prediction
from infra.settings import read_settings
from infra.store import Store
from serving.bundle.files import sha256_of


def is_answered_by(sha256: str, run: RunSummary) -> bool:
    """Whether the function answers with this bundle. It is asked about a poster of the run."""
    settings = read_settings()
    response = request_prediction(CloudRun(settings).live().url, run.record.evaluation.known_posters[0].name)
    return bool(response["model"]["sha256"] == sha256)


def bundle_with_threshold(store: Store, sha256: str, threshold: float) -> str:
    """Write a bundle into the bucket that differs from another one in the threshold of its first genre; its sha256."""
    manifest = json.loads(store.read(f"bundles/{sha256}/manifest.json"))
    manifest["genres"][0]["threshold"] = threshold
    changed = json.dumps(manifest).encode()
    other = sha256_of(changed)
    for name in manifest["files"]:
        store.write(f"bundles/{other}/{name}", store.read(f"bundles/{sha256}/{name}"))
    store.write(f"bundles/{other}/manifest.json", changed)
    return other
