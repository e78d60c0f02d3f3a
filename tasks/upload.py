"""Step 7: upload the bundle of a registered version to the bucket, from which the function loads it."""

import logging

from infra.registry import Registry
from infra.settings import read_settings
from infra.store import Store
from tasks.bundles import bundle_key, fetch_bundle, upload_bundle
from tasks.records import ModelRecord
from tasks.step import reused, step

logger = logging.getLogger("tasks")


@step("upload")
def upload(model: ModelRecord) -> ModelRecord:
    """Upload the bundle, and tag the version with its address.

    Raises:
        ServiceUnavailable: the store or MLflow is not reachable (retryable).
        NotFound: the bundle has no intact copy.
    """
    settings = read_settings(model.collection)
    store, registry = Store(settings), Registry(settings)
    address = store.uri(bundle_key(model.bundle_sha256))
    registry.tag_version(model.version, {"bundle_uri": address})
    folder = fetch_bundle(store, registry, settings.folder, model.bundle_sha256, model.run_id)
    uploaded = upload_bundle(store, folder, model.bundle_sha256)
    if not uploaded:
        return reused(model, f"{address} is already in the bucket")
    logger.info("Uploaded to %s: %s.", address, ", ".join(uploaded))
    return model
