"""The deployment record that GET /model returns: `deployments/{bundle_sha256}.json`."""

import json
import logging
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from infra.cloud_run import CloudRun
from infra.errors import NotFound
from infra.registry import ModelVersion, Registry
from infra.revisions import Revision
from infra.settings import Settings
from infra.store import Store
from ml.data.splits import TEST
from serving.bundle.model import FIGURES
from tasks.bundles import bundle_key
from tasks.champion import Champion
from tasks.records import DatasetRecord, EvaluationRecord, ModelRecord, ScoreRecord

logger = logging.getLogger("tasks")

_SCORES = [name for name in ScoreRecord.model_fields if name != "name"]
_LATER = "later"
_READ_BY_THE_PAGE = {"bundle_sha256", "live_since", "previous_version", "collection", "posters", "figures"}


def write_deployment(
    store: Store, live: Revision | None, dataset: DatasetRecord, evaluation: EvaluationRecord, model: ModelRecord
) -> None:
    """Write the record of a model that is about to go live.

    It is written just before the traffic moves. A step that was killed in between writes it again when it is retried.

    Args:
        live: the revision that has the traffic until now. If it has the same bundle, an intact record stays.
    """
    same = live is not None and live.bundle_sha256 == model.bundle_sha256
    if same and _is_intact(store, model.bundle_sha256):
        return
    chosen = evaluation.scores[0].model_dump()
    record = {
        "version": model.version,
        "bundle_sha256": model.bundle_sha256,
        **_from_now(None if same else live),
        "collection": dataset.collection,
        "snapshot_date": dataset.snapshot_date,
        "posters": dataset.parts,
        "figures": {f"{TEST}/{name}": chosen[name] for name in _SCORES},
    }
    _write(store, record)


def describe_version(
    store: Store, registry: Registry, registered: ModelVersion, live: Revision | None, collection: str
) -> None:
    """Write the record of a registered version that is about to go live, from its bundle and its run in MLflow.

    Args:
        live: the revision that has the traffic until now.
    """
    record = _from_bundle(store, registry, registered.bundle_sha256, registered)
    if record is None:
        return
    _write(
        store,
        {
            **record,
            "version": registered.version,
            **_from_now(live),
            "collection": collection,
            "snapshot_date": registered.tags.get("dataset_date"),
        },
    )


def renew_deployment(store: Store, live: Revision | None, bundle_sha256: str) -> None:
    """Write in a bundle's record, if it has one that is intact, that it goes live now, instead of the revision `live`.

    Raises OutdatedError if another process replaces the record meanwhile.
    """
    _update(store, bundle_sha256, **_from_now(live))


def _from_now(replaced: Revision | None) -> dict[str, str | None]:
    return {
        "live_since": datetime.now(UTC).isoformat(timespec="seconds"),
        "previous_version": (replaced.version or None) if replaced else None,
        "previous_bundle_sha256": replaced.bundle_sha256 if replaced else None,
    }


def restore_deployment(settings: Settings, store: Store, registry: Registry, champion: Champion) -> None:
    """Write the champion's record again if it is missing or damaged, from its revisions, its bundle and MLflow."""
    sha256 = champion.bundle_sha256
    if _is_intact(store, sha256):
        return
    record = _from_bundle(store, registry, sha256, registry.version_of(sha256))
    if record is None:
        return
    revisions = CloudRun(settings).revisions()
    created = [each.created for each in revisions if each.bundle_sha256 == sha256 and each.created]
    _write(
        store,
        {
            **record,
            "version": champion.version,
            "live_since": min(created, default=datetime.now(UTC)).isoformat(timespec="seconds"),
            "collection": settings.collection,
            "snapshot_date": champion.revision.environment.get("DATASET_DATE"),
        },
    )
    logger.warning("The deployment record of %s was missing or damaged, and is written again.", champion.name)


def _from_bundle(
    store: Store, registry: Registry, sha256: str, registered: ModelVersion | None
) -> dict[str, Any] | None:
    """What a record has of the bundle in the bucket and of its run in MLflow; None if the bundle is incomplete."""
    try:
        posters = json.loads(store.read(f"{bundle_key(sha256)}/{FIGURES}"))["dataset"]["posters"]
        metrics = registry.metrics(registered.run_id) if registered else {}
    except (NotFound, ValueError, KeyError, TypeError) as error:
        logger.warning("The deployment record of the bundle %s cannot be written: %s", sha256[:8], error)
        return None
    return {
        "bundle_sha256": sha256,
        "previous_version": None,
        "previous_bundle_sha256": None,
        "posters": posters,
        "figures": {f"{TEST}/{name}": metrics.get(f"{TEST}/{name}") for name in _SCORES},
    }


def read_figures(store: Store, bundle_sha256: str) -> dict[str, float | None]:
    """The test figures of a bundle's record, such as `test/weighted_f1`; empty if there is no intact record."""
    return store.read_parsed(_key(bundle_sha256), lambda content: dict(json.loads(content)["figures"])) or {}


def deployed_bundles(store: Store) -> list[str]:
    """The bundles that have ever been live."""
    return [Path(key).stem for key in store.keys("deployments/")]


def deployed_version(store: Store, bundle_sha256: str) -> str:
    """The version of a bundle by its record; empty if there is no intact record."""
    return store.read_parsed(_key(bundle_sha256), lambda content: str(json.loads(content)["version"])) or ""


def read_later(store: Store, bundle_sha256: str) -> dict[str, Any]:
    """What a bundle's record says about later titles (see `tasks.scoreboard`); empty if it says nothing."""
    return store.read_parsed(_key(bundle_sha256), lambda content: dict(json.loads(content).get(_LATER, {}))) or {}


def write_later(store: Store, bundle_sha256: str, later: dict[str, Any]) -> None:
    """Add what is known about later titles to a bundle's record, if it has one that is intact.

    Raises OutdatedError if another process replaces the record meanwhile.
    """
    _update(store, bundle_sha256, **{_LATER: later})


def has_deployment(store: Store, bundle_sha256: str) -> bool:
    """Whether a bundle has ever been live."""
    return store.exists(_key(bundle_sha256))


def forget_deployment(store: Store, bundle_sha256: str) -> None:
    """Delete the record of a bundle that did not go live in the end."""
    store.delete(_key(bundle_sha256))


def _is_intact(store: Store, sha256: str) -> bool:
    try:
        record = json.loads(store.read(_key(sha256)))
    except (NotFound, ValueError):
        return False
    return isinstance(record, dict) and record.keys() >= _READ_BY_THE_PAGE and record["bundle_sha256"] == sha256


def _update(store: Store, bundle_sha256: str, **values: Any) -> None:
    """Replace these values in a bundle's record, if it has one that is intact."""
    record = store.read_parsed(_key(bundle_sha256), json.loads)
    if isinstance(record, dict):
        store.write(_key(bundle_sha256), json.dumps({**record, **values}, indent=2).encode())


def _write(store: Store, record: dict[str, Any]) -> None:
    if later := read_later(store, record["bundle_sha256"]):  # of an earlier time as the live model
        record = {**record, _LATER: later}
    store.write(_key(record["bundle_sha256"]), json.dumps(record, indent=2).encode())


def _key(bundle_sha256: str) -> str:
    return f"deployments/{bundle_sha256}.json"
