"""Step 7: upload the bundle of a registered version to the bucket, from which the function loads it."""

from infra.registry import Registry
from infra.settings import read_settings
from infra.store import Store
from serving.bundle.model import MANIFEST
from tasks.bundles import bundle_key, fetch_bundle, upload_bundle
from tasks.records import BundleRecord, ModelRecord
from tasks.step import reused, step


@step("upload")
def upload(model: ModelRecord) -> BundleRecord:
    """Upload the bundle, and tag the version with its address.

    Raises:
        ServiceUnavailable: the store or MLflow is not reachable (retryable).
        BundleError: the bundle does not match its hash.
    """
    settings = read_settings(model.collection)
    store, registry = Store(settings), Registry(settings)
    record = BundleRecord(uri=store.uri(bundle_key(model.bundle_sha256)), sha256=model.bundle_sha256)
    registry.tag_version(model.version, {"bundle_uri": record.uri})
    if store.exists(f"{bundle_key(model.bundle_sha256)}/{MANIFEST}"):
        return reused(record, f"{record.uri} is already in the bucket")
    folder = fetch_bundle(registry, settings.folder, model.run_id, model.bundle_sha256)
    upload_bundle(store, folder, model.bundle_sha256)
    return record
