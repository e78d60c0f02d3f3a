"""What went live and when, the way back to an earlier model, and the hold that keeps it live.

Each change of the live model is an object of its own, `rollouts/{time}.json`, which nothing replaces. A hold,
`hold.json`, says that a person chose the live model: runs train, evaluate and register, but replace nothing until a
person lifts it.
"""

import logging
from datetime import UTC, datetime

from infra.cloud_run import CloudRun
from infra.endpoint import served_bundle
from infra.errors import DeploymentError, InfraError, NotFound
from infra.registry import Registry
from infra.revisions import Revision
from infra.settings import Settings
from infra.store import Store
from tasks.champion import Champion, live_champion, version_name
from tasks.deployments import has_deployment
from tasks.events import Event, append_event, now, read_events
from tasks.records import Record

logger = logging.getLogger("tasks")

_HOLD, _ROLLOUTS = "hold.json", "rollouts"


class Rollout(Event):
    """One change of what is live.

    `what` is the command or step, `by` the run or the person. `before` and `after` are versions with the beginning of
    their bundles, `before` None if nothing was live.
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

    @property
    def sentence(self) -> str:
        """Why nothing is promoted, and what lifts the hold."""
        return (
            f"A person chose {self.version} on {self.since[:10]}, so nothing replaces it until `anime-genre promote "
            "VERSION`, or a run with promote: always."
        )


def record_rollout(store: Store, what: str, by: str, before: str | None, after: Revision, reason: str) -> Rollout:
    """Write that the revision `after` went live."""
    rollout = Rollout(
        when=now(),
        what=what,
        by=by,
        before=before,
        after=name_of(after),
        revision=after.name,
        reason=reason,
    )
    append_event(store, _ROLLOUTS, rollout)
    return rollout


def read_rollouts(store: Store) -> list[Rollout]:
    """All changes of what was live, oldest first. Damaged ones are left out, which is logged."""
    return read_events(store, _ROLLOUTS, Rollout)


def name_of(revision: Revision) -> str:
    """The version that a revision serves."""
    return version_name(revision.environment.get("MODEL_VERSION", ""), revision.environment.get("BUNDLE_SHA256", ""))


def read_hold(store: Store) -> Hold | None:
    """The hold, None if there is none."""
    return store.read_parsed(_HOLD, Hold.model_validate_json)


def lift_hold(store: Store) -> None:
    """Remove the hold: a person wants another model."""
    store.delete(_HOLD)


def roll_back(settings: Settings, version: str | None, by: str) -> Rollout:
    """Serve an earlier version again, and hold it. No training and no build is needed.

    Args:
        version: a version of the registered model; by default the one that was first live before the present one.
        by: who does it.

    Raises:
        NotFound: nothing is live, there is no such version, or no revision serves it any more.
        DeploymentError: the function does not serve the version's bundle. The traffic is then where it was.
    """
    store, registry, live = Store(settings), Registry(settings), _live(settings)
    target = _revision(settings, version, registry) if version else _earlier(settings, live, store)
    hold = Hold(version=name_of(target), since=datetime.now(UTC).isoformat(timespec="seconds"))
    before = read_hold(store)
    # Before the traffic moves, so that no run that is working moves it back.
    store.write(_HOLD, hold.model_dump_json(indent=2).encode())
    try:
        return _serve(settings, registry, store, live, target, "rollback", by)
    except InfraError:
        if before is None:
            lift_hold(store)
        else:
            store.write(_HOLD, before.model_dump_json(indent=2).encode())
        raise


def promote(settings: Settings, version: str, by: str) -> Rollout:
    """Serve a version that was live before, and lift the hold. Raises as `roll_back`."""
    store, registry, live = Store(settings), Registry(settings), _live(settings)
    rollout = _serve(settings, registry, store, live, _revision(settings, version, registry), "promote", by)
    lift_hold(store)
    return rollout


def _live(settings: Settings) -> Champion:
    champion = live_champion(settings, Registry(settings))
    if champion is None:
        raise NotFound(
            f"No model of the collection {settings.collection} is live. Name another one with --collection, or start a "
            "run with anime-genre retrain."
        )
    return champion


def _revision(settings: Settings, version: str, registry: Registry) -> Revision:
    """The newest ready revision that serves a version of the registered model."""
    sha256 = registry.bundle_of(version)
    for revision in CloudRun(settings).revisions(settings.service):
        if revision.ready and revision.environment.get("BUNDLE_SHA256") == sha256:
            return revision
    raise NotFound(
        f"No revision serves {version_name(version, sha256)}. A run with promote: always deploys what it trains."
    )


def _earlier(settings: Settings, live: Champion, store: Store) -> Revision:
    """The newest ready revision of the model that went live before the present one."""
    revisions = CloudRun(settings).revisions(settings.service)  # newest first
    # A model is as old as its oldest revision: changed settings give it newer ones.
    oldest = {each.environment.get("BUNDLE_SHA256", ""): number for number, each in enumerate(revisions)}
    live_number = oldest.get(live.bundle_sha256, 0)
    for sha256, number in sorted(oldest.items(), key=lambda item: item[1]):
        ready = [each for each in revisions if each.environment.get("BUNDLE_SHA256") == sha256 and each.ready]
        if number > live_number and ready and sha256 and has_deployment(store, sha256):
            return ready[0]
    raise NotFound(f"No earlier model than {live.name} can be served. Name a version with --to.")


def _serve(
    settings: Settings, registry: Registry, store: Store, live: Champion, target: Revision, what: str, by: str
) -> Rollout:
    """Send the traffic to a revision, check what the public address serves, and set the alias."""
    cloud_run, sha256 = CloudRun(settings), target.environment["BUNDLE_SHA256"]
    if live.revision.name != target.name or live.moved:
        sent = cloud_run.send_traffic(settings.service, target.name)
        try:
            served = served_bundle(str(sent.url), settings.caller_service_account)
            if served != sha256:
                raise DeploymentError(
                    f"The function serves the bundle {served[:8]} instead of {sha256[:8]}. Try again in a minute."
                )
        except InfraError:
            cloud_run.send_traffic(settings.service, live.revision.name)
            raise
    if registered := registry.version_of(sha256):
        registry.set_champion(registered.version)
    return record_rollout(store, what, by, live.name, target, "A person chose it.")
