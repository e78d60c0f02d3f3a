"""What went live and when, the way back to an earlier model, and the hold that keeps it live.

Each change of the live model is an object of its own, `rollouts/{time}.json`, which nothing replaces. A hold,
`hold.json`, says that a person chose the live model: runs train, evaluate and register, but replace nothing until a
person lifts it.
"""

import logging
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from itertools import islice

from infra.cloud_run import CloudRun
from infra.endpoint import served_bundle
from infra.errors import DeploymentError, InfraError, NotFound, OutdatedError
from infra.lease import rollout_lease
from infra.registry import ModelVersion, Registry
from infra.revisions import Revision
from infra.settings import MAIN_COLLECTION, Settings
from infra.store import Store
from ml.data.decoding import PREPROCESSING_VERSION
from serving.bundle.model import MANIFEST, Model
from tasks.artifacts import send_event
from tasks.bundles import bundle_key, fetch_bundle, upload_bundle
from tasks.candidate_revisions import deploy_checked_candidate
from tasks.champion import Champion, has_other_decoder, live_champion, version_name
from tasks.crawl.mirror import poster_key
from tasks.deployments import describe_version, forget_deployment, has_deployment, renew_deployment
from tasks.events import Event, append_event, now, read_events
from tasks.preprocess import read_test_ids
from tasks.records import Record

logger = logging.getLogger("tasks")

ROLLOUT_EVENT = "anime-genre.rollout"
"""The event in Prefect when another model is live. Its payload is the `Rollout`."""
_HOLD, _ROLLOUTS = "hold.json", "rollouts"
_BY_A_PERSON = "A person chose it."
_KNOWN_POSTERS = 3
_MOVING_SECONDS = 30.0


class Rollout(Event):
    """One change of what is live, one that failed and was undone, or one that a run found.

    `what` is the command or step, or "found"; `by` the run or the person. `before` and `after` are versions with the
    beginning of their bundles, `before` None if nothing was live. They are the same after a failure.
    """

    what: str
    by: str
    before: str | None
    after: str
    revision: str
    reason: str


class Hold(Record):
    """A person chose the live version at a time."""

    version: str
    since: str
    collection: str = MAIN_COLLECTION  # earlier holds do not name it

    @property
    def sentence(self) -> str:
        """Why nothing is promoted, and what lifts the hold."""
        return (
            f"A person chose {self.version} on {self.since[:10]}, so nothing replaces it until "
            f"{promote_command(self.collection)}, or a run with promote: always."
        )


class Overtaken(Record):
    """Another version than at the comparison is live, so a run's version was not compared with it."""

    version: str
    live: str
    collection: str = MAIN_COLLECTION

    @property
    def sentence(self) -> str:
        """Why the run's version does not replace the live one, and how it can."""
        return (
            f"Since the comparison, {self.live} has gone live, so nothing replaces it until the next run, or "
            f"{promote_command(self.collection, self.version)}."
        )


def promote_command(collection: str, version: str = "VERSION") -> str:
    """The command with which a person makes a version live, in backquotes for a sentence."""
    of_collection = "" if collection == MAIN_COLLECTION else f" --collection {collection}"
    return f"`anime-genre promote {version}{of_collection}`"


def record_rollout(settings: Settings, what: str, by: str, before: str | None, after: Revision, reason: str) -> Rollout:
    """Write that the revision `after` went live. If it serves another model than before, Prefect gets an event."""
    store = Store(settings)
    rollout = Rollout(
        when=time_of_next(read_rollouts(store)),
        what=what,
        by=by,
        before=before,
        after=name_of(after),
        revision=after.name,
        reason=reason,
    )
    append_event(store, _ROLLOUTS, rollout)
    if rollout.before != rollout.after:
        send_event(ROLLOUT_EVENT, f"anime-genre.collection.{settings.collection}", rollout.model_dump())
    return rollout


def time_of_next(rollouts: Sequence[Rollout]) -> str:
    """The present time, or a microsecond after the last rollout. They are read by time, and a clock may be late."""
    if not rollouts:
        return now()
    after = datetime.fromisoformat(rollouts[-1].when) + timedelta(microseconds=1)
    return max(now(), after.isoformat(timespec="microseconds"))


@contextmanager
def failure_recorded(settings: Settings, what: str, by: str, name: str) -> Iterator[None]:
    """Record in the history if a revision with the version `name` fails its checks in the block. The live one stays."""
    try:
        yield
    except DeploymentError as error:
        with suppress(InfraError):  # the first error is the reason
            if live := CloudRun(settings).live():
                record_rollout(settings, f"{what} failed", by, name_of(live), live, f"{name}: {error.message}")
        raise


def record_unknown_rollout(settings: Settings, by: str) -> None:
    """Record what is live if no rollout says so: a run was killed after it moved the traffic, or another tool did.

    The aliases `champion` and `previous` are then set as well.
    """
    store, registry = Store(settings), Registry(settings)
    with rollout_lease(store, settings.workspace):
        champion, rollouts = live_champion(settings, registry), read_rollouts(store)
        last = rollouts[-1].after if rollouts else None
        if champion is not None and champion.name != last:
            reason = "It was live, and no rollout says why. A run was killed, or another tool moved the traffic."
            logger.warning("%s is live, and the last rollout was that of %s.", champion.name, last)
            _set_aliases(registry, _revision_named(settings, last), champion.bundle_sha256)
            record_rollout(settings, "found", by, last, champion.revision, reason)


def read_rollouts(store: Store) -> list[Rollout]:
    """All changes of what was live, oldest first. Damaged ones are left out, which is logged."""
    return read_events(store, _ROLLOUTS, Rollout)


def live_since(rollouts: Sequence[Rollout], live: Revision) -> datetime | None:
    """When a live version last replaced another one; the age of its revision if the rollouts do not have it."""
    since = None
    for rollout in reversed(rollouts):
        if rollout.after != name_of(live):
            break
        since = datetime.fromisoformat(rollout.when)
    return since or live.created


def name_of(revision: Revision) -> str:
    """The version that a revision serves."""
    return version_name(revision.version, revision.bundle_sha256)


def _revision_named(settings: Settings, name: str | None) -> Revision | None:
    """The newest revision that serves a version."""
    return next((each for each in CloudRun(settings).revisions() if name_of(each) == name), None)


def read_hold(store: Store) -> Hold | None:
    """The hold, None if there is none."""
    return store.read_parsed(_HOLD, Hold.model_validate_json)


def lift_hold(store: Store, hold: Hold | None) -> None:
    """Remove the hold that `store` has read, if there was one. That of a person who has just chosen a model stays."""
    if hold:
        with suppress(OutdatedError):
            store.delete(_HOLD)


def roll_back(settings: Settings, version: str | None, by: str) -> Rollout:
    """Serve an earlier version again, and hold it. No training and no build is needed.

    The hold is written at once, so that a rollout that is working moves no traffic. Then its end is waited for.

    Args:
        version: a version of the registered model; by default the one that was live before the present one.
        by: who does it.

    Raises:
        NotFound: nothing is live, there is no such version, it was never live, or no revision serves it any more.
        DeploymentError: the function does not serve the version's bundle. The traffic is then where it was.
        BusyError: another rollout does not end.
    """
    store, registry, live = Store(settings), Registry(settings), _live(settings)
    target = _revision(settings, version, registry, store) if version else _earlier(settings, live, store)
    since = datetime.now(UTC).isoformat(timespec="seconds")
    hold = Hold(version=name_of(target), since=since, collection=settings.collection)
    before = read_hold(store)
    try:
        store.write(_HOLD, hold.model_dump_json(indent=2).encode())
        with rollout_lease(store, settings.workspace):
            return move_traffic(settings, registry, target, "rollback", by, _BY_A_PERSON)
    except BaseException as error:  # such as Ctrl-C, which may also come once the version is live
        served = None if isinstance(error, InfraError) else CloudRun(settings).live()
        # The write itself may have failed, with or without the hold, or because another person has written one.
        if (served is None or served.name != target.name) and read_hold(store) == hold:
            if before is None:
                lift_hold(store, hold)
            else:
                store.write(_HOLD, before.model_dump_json(indent=2).encode())
        raise


def promote(settings: Settings, version: str, by: str) -> Rollout:
    """Serve a version of the registered model, and lift the hold, except one that is written meanwhile.

    If a revision with it was live before and is still there, only the traffic moves. Otherwise its bundle is taken
    from MLflow or the bucket, and deployed and checked as in a run.

    Raises:
        NotFound: there is no such version, or its bundle has no intact copy.
        DeploymentError: the build or the revision failed, or the service does not serve the version's bundle. The
            traffic is then where it was.
        BusyError: another rollout does not end.
    """
    store, registry = Store(settings), Registry(settings)
    hold, registered = read_hold(store), registry.version(version)
    with rollout_lease(store, settings.workspace):
        target = None
        if has_deployment(store, registered.bundle_sha256):
            target = _ready_revision(settings, registered.bundle_sha256, store)
        if target is None:
            with failure_recorded(settings, "promote", by, version_name(version, registered.bundle_sha256)):
                target = _deploy(settings, store, registry, registered)
        rollout = move_traffic(settings, registry, target, "promote", by, _BY_A_PERSON)
        lift_hold(store, hold)
    return rollout


def _deploy(settings: Settings, store: Store, registry: Registry, registered: ModelVersion) -> Revision:
    """Deploy a registered version as a revision without traffic."""
    sha256 = registered.bundle_sha256
    folder = fetch_bundle(store, registry, settings.folder, sha256, registered.run_id)
    model = Model.load(folder)
    if has_other_decoder(model):
        raise DeploymentError(
            f"{version_name(registered.version, sha256)} was trained on posters of decoder version "
            f"{model.manifest.preprocessing.version}, and the function has {PREPROCESSING_VERSION}. Train another one."
        )
    upload_bundle(store, folder, sha256)
    registry.tag_version(registered.version, {"bundle_uri": store.uri(bundle_key(sha256))})
    posters, dataset_date = _known_posters(store, model.manifest.dataset_key), registered.tags.get("dataset_date", "")
    candidate = deploy_checked_candidate(
        settings, folder, posters, version=registered.version, dataset_date=dataset_date
    )
    describe_version(store, registry, registered, CloudRun(settings).live(), settings.collection)
    return candidate


def _known_posters(store: Store, dataset_key: str) -> list[str]:
    """The objects of some test posters of a dataset, the same as long as the bucket has them."""
    ids = read_test_ids(store, dataset_key)
    if not ids:
        logger.warning("The dataset %s is missing, so no predictions are compared before the rollout.", dataset_key[:8])
    keys = (poster_key(id) for id in random.Random(dataset_key).sample(ids, len(ids)))
    # Posters of titles that have become explicit since are deleted.
    return [store.object_name(key) for key in islice(filter(store.exists, keys), _KNOWN_POSTERS)]


def _live(settings: Settings) -> Champion:
    champion = live_champion(settings, Registry(settings))
    if champion is None:
        raise NotFound(
            f"No model of the collection {settings.collection} is live. Name another one with --collection, or start a "
            "run with anime-genre retrain."
        )
    return champion


def _revision(settings: Settings, version: str, registry: Registry, store: Store) -> Revision:
    """The newest ready revision of a version that was live, and so has passed its checks."""
    sha256 = registry.version(version).bundle_sha256
    name, command = version_name(version, sha256), promote_command(settings.collection, version)
    # A bundle without figures has no record of its deployment.
    if not has_deployment(store, sha256) and name not in {each.after for each in read_rollouts(store)}:
        raise NotFound(f"No rollout has served {name}. {command} checks and deploys it.")
    if revision := _ready_revision(settings, sha256, store):
        return revision
    raise NotFound(f"No revision that was live serves {name}. {command} deploys it again.")


def _ready_revision(settings: Settings, sha256: str, store: Store) -> Revision | None:
    """The newest ready revision of a bundle that was live."""
    revisions = _were_live(CloudRun(settings).revisions(), store)
    return next((each for each in revisions if each.bundle_sha256 == sha256), None)


def _were_live(revisions: Sequence[Revision], store: Store) -> list[Revision]:
    """The ready revisions that were live. The others may have failed their checks, or a run was killed before those.

    In a bucket without rollouts, which began later or are lost, these are all ready ones.
    """
    names = live_revisions(store)
    return [each for each in revisions if each.ready and (each.name in names or not names)]


def live_revisions(store: Store) -> set[str]:
    """The names of all revisions that are or were live. A rollout that failed names the one that stayed live."""
    return {each.revision for each in read_rollouts(store)}


def _earlier(settings: Settings, live: Champion, store: Store) -> Revision:
    """The newest revision that was live of the model before the present one whose bundle and revision are there."""
    revisions = CloudRun(settings).revisions()  # newest first
    models, were_live = models_of(revisions, store), _were_live(revisions, store)
    before = models[: models.index(live.bundle_sha256)] if live.bundle_sha256 in models else models
    for sha256 in reversed(before):
        found = [each for each in were_live if each.bundle_sha256 == sha256]
        is_complete = sha256 and store.exists(f"{bundle_key(sha256)}/{MANIFEST}")
        if found and is_complete and has_deployment(store, sha256):
            return found[0]
    raise NotFound(f"No earlier model than {live.name} can be served. Name a version with --to.")


def models_of(revisions: Sequence[Revision], store: Store) -> list[str]:
    """The bundles of revisions, given newest first, in the order in which they last went live."""
    by_age = dict.fromkeys(each.bundle_sha256 for each in reversed(revisions))
    return went_live(read_rollouts(store), list(by_age))


def went_live(rollouts: Sequence[Rollout], models: Sequence[str]) -> list[str]:
    """Bundles in the order in which they last went live, without those that a rollback left behind.

    Args:
        rollouts: all changes of what was live, oldest first.
        models: sha256 of the bundles, by the age of their oldest revision. Those that no rollout names keep this order.
    """
    order = list(models)
    for rollout in rollouts:
        found = [each for each in models if rollout.after.endswith(f"({each[:8]})")]
        if rollout.what == "rollback" and found and found[0] in order:
            order = order[: order.index(found[0]) + 1]
        else:
            order = [each for each in order if each not in found] + found
    return order


def move_traffic(settings: Settings, registry: Registry, target: Revision, what: str, by: str, reason: str) -> Rollout:
    """Send the traffic to a revision, check what the public address serves, set the aliases, and record the change.

    The caller holds the lease of rollouts. After an error, traffic and aliases are put back, and the record says so.
    If the revision is live by the last rollout, that one is returned.

    Args:
        settings: those of the collection.
        registry: the registered model, whose alias `champion` follows the traffic. `previous` is then the model that
            was live before.
        target: a ready revision.
        what, by, reason: see `Rollout`.

    Raises:
        DeploymentError: the service does not serve the revision's bundle.
        ServiceUnavailable: Cloud Run, the store or MLflow is not reachable (retryable).
    """
    store, cloud_run, sha256 = Store(settings), CloudRun(settings), target.bundle_sha256
    traffic = cloud_run.traffic()
    before = traffic.revision if traffic else None
    previous, rollouts = registry.previous(), read_rollouts(store)
    replaced, earlier = _replaced(settings, before, target, rollouts)
    if before is None or before.bundle_sha256 != sha256:
        renew_deployment(store, before, sha256)  # it may have been live before
    try:
        moves = traffic is None or traffic.moved or traffic.revision.name != target.name
        if moves:
            sent = cloud_run.send_traffic(target.name)
            _wait_until_served(str(sent.url), sha256, settings.caller_service_account)
        _set_aliases(registry, earlier, sha256)
        if not moves and replaced == name_of(target) and rollouts[-1].revision == target.name:
            return rollouts[-1]
        return record_rollout(settings, what, by, replaced, target, reason)
    except InfraError as error:
        if before is not None:
            logger.warning("The traffic goes back to %s: %s", name_of(before), error)
            cloud_run.send_traffic(before.name)
            reason = f"{name_of(target)}: {error.message}"
            with suppress(InfraError):  # the first error is the reason; the next run mends the aliases
                record_rollout(settings, f"{what} failed", by, name_of(before), before, reason)
                _undo(settings, store, registry, target, previous)
        raise


def _replaced(
    settings: Settings, live: Revision | None, target: Revision, rollouts: Sequence[Rollout]
) -> tuple[str | None, Revision | None]:
    """The version that `target` replaces, and a revision of it, both None if nothing was live.

    That is the live one. If no rollout has recorded that the version of `target` went live, then an attempt before
    this one has moved the traffic, and the last version that a rollout recorded is replaced.
    """
    changes = [each for each in rollouts if each.before != each.after]
    if live is None:
        return None, None
    if name_of(live) != name_of(target) or name_of(target) in {each.after for each in changes}:
        return name_of(live), live
    last = changes[-1].after if changes else None
    return last, _revision_named(settings, last)


def _undo(
    settings: Settings, store: Store, registry: Registry, target: Revision, previous: ModelVersion | None
) -> None:
    """Set both aliases again, and forget the deployment of `target` if it was never live: no rollback may choose it."""
    if name_of(target) not in {each.after for each in read_rollouts(store)}:
        forget_deployment(store, target.bundle_sha256)
    live_champion(settings, registry)  # sets the alias `champion`
    if previous:
        registry.set_previous(previous.version)


def _wait_until_served(url: str, sha256: str, caller: str | None) -> None:
    """Wait until the address serves a bundle: for some seconds, the earlier revision may still answer."""
    deadline = time.monotonic() + _MOVING_SECONDS
    while (served := served_bundle(url, caller)) != sha256:
        if time.monotonic() > deadline:
            raise DeploymentError(f"The function serves the bundle {served[:8]} instead of {sha256[:8]}.")
        time.sleep(0.5)


def _set_aliases(registry: Registry, before: Revision | None, sha256: str) -> None:
    if registered := registry.version_of(sha256):
        registry.set_champion(registered.version)
    replaced = before.bundle_sha256 if before else ""
    if replaced and replaced != sha256 and (registered := registry.version_of(replaced)):
        registry.set_previous(registered.version)
