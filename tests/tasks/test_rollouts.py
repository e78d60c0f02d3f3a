"""The order in which models went live, from which a rollback takes the earlier one, and the hold of a rollback."""

import json
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from infra.errors import DeploymentError, NotFound, OutdatedError, ServiceUnavailable
from infra.revisions import Image, Resources, Revision
from infra.settings import Settings
from tasks import redeploy as redeploying
from tasks import rollouts
from tasks.records import DatasetRecord, EvaluationRecord, ModelRecord
from tasks.rollouts import (
    Hold,
    Overtaken,
    Rollout,
    move_traffic,
    promote,
    read_hold,
    read_rollouts,
    roll_back,
    time_of_next,
    went_live,
)

pytestmark = pytest.mark.stack

RESOURCES = Resources("1", "1Gi")
MODELS = [letter * 64 for letter in "abcd"]


def rollout(event: str) -> Rollout:
    """A change such as "b", or "rollback a"."""
    what, _, letter = event.rpartition(" ")
    return Rollout(
        when="2026-11-29T00:00:00+00:00",
        what=what or "redeploy",
        by="a person",
        before=None,
        after=f"version 1 ({letter * 8})",
        revision="",
        reason="",
    )


@pytest.mark.parametrize(
    ("events", "order"),
    [
        ([], "abcd"),
        (["a", "b", "c"], "dabc"),
        (["a", "b", "c", "a"], "dbca"),
        (["a", "b", "c", "rollback b"], "dab"),
        (["a", "b", "c", "rollback b", "rollback a"], "da"),
        (["a", "b", "rollback a", "promote b"], "cdab"),
        (["a", "b", "c", "rollback b", "d"], "abd"),
        (["a", "b", "c", "c", "promote failed c"], "dabc"),
        (["a", "b", "x"], "cdab"),
        (["a", "b", "rollback a", "rollback b"], "cdab"),
    ],
)
def test_models_are_in_the_order_in_which_they_went_live(events: list[str], order: str) -> None:
    assert went_live([rollout(event) for event in events], MODELS) == [letter * 64 for letter in order]


@pytest.mark.parametrize("hours", [-1, 1], ids=["on_time", "an_hour_late"])
def test_next_rollout_follows_the_last_one_whatever_the_clock_says(hours: int) -> None:
    last = rollout("a").model_copy(update={"when": (datetime.now(UTC) + timedelta(hours=hours)).isoformat()})
    following = time_of_next([last])
    assert following > last.when
    assert datetime.fromisoformat(following) - datetime.now(UTC) < timedelta(hours=max(hours, 0), seconds=1)


class Objects(dict[str, bytes]):
    """A bucket in memory. Of an object that was read or written, it deletes only that content."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[str, bytes] = {}

    def write(self, key: str, data: bytes) -> None:
        self[key] = self.seen[key] = data

    def delete(self, key: str) -> None:
        if self.seen.get(key, self.get(key)) != self.get(key):
            raise OutdatedError(f"Another run has replaced {key} since it was read. Try again.")
        self.pop(key, None)

    def exists(self, key: str) -> bool:
        return key in self

    def keys(self, prefix: str = "") -> Any:
        return [key for key in self if key.startswith(prefix)]

    def read_parsed(self, key: str, parse: Any) -> Any:
        if key not in self:
            return None
        self.seen[key] = self[key]
        return parse(self[key])


@pytest.mark.parametrize("earlier", [None, Hold(version="version 3 (cccccccc)", since="2026-11-01")])
@pytest.mark.parametrize("is_live", [False, True])
@pytest.mark.parametrize(
    ("during", "error"),
    [
        ("wait", KeyboardInterrupt()),  # the wait for another rollout
        ("write", KeyboardInterrupt()),
        ("write", ServiceUnavailable("The response is lost.")),
        ("write", OutdatedError("Another person's hold was written first.")),
    ],
)
def test_rollback_undoes_its_hold_if_it_ends_before_the_version_is_live(
    during: str,
    error: BaseException,
    earlier: Hold | None,
    is_live: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupted(*_: object) -> None:
        raise error

    def write(key: str, data: bytes) -> None:
        monkeypatch.setattr(store, "write", partial(Objects.write, store))
        store.write(key, theirs.model_dump_json().encode() if is_late else data)
        interrupted()

    is_late = isinstance(error, OutdatedError)
    theirs = Hold(version="version 4 (dddddddd)", since="2026-11-30")
    old, new = (
        Revision(
            version, Image("", ""), {"MODEL_VERSION": version, "BUNDLE_SHA256": letter * 64}, True, None, RESOURCES
        )
        for version, letter in (("1", "a"), ("2", "b"))
    )
    store: Any = Objects()
    if earlier:
        store["hold.json"] = earlier.model_dump_json().encode()
    live = old if is_live else new
    monkeypatch.setattr(rollouts, "Store", lambda settings: store)
    monkeypatch.setattr(rollouts, "Registry", lambda settings: None)
    monkeypatch.setattr(rollouts, "CloudRun", lambda settings: SimpleNamespace(live=lambda: live))
    monkeypatch.setattr(rollouts, "_live", lambda settings: None)
    monkeypatch.setattr(rollouts, "_revision", lambda *_: old)
    if during == "write":
        monkeypatch.setattr(store, "write", write)
    else:
        monkeypatch.setattr(rollouts, "rollout_lease", interrupted)
    with pytest.raises(type(error)):
        roll_back(Settings(workspace=tmp_path), "1", "a person")
    hold = read_hold(store)
    if is_late:
        assert hold == theirs
    elif is_live and isinstance(error, KeyboardInterrupt):
        assert hold and hold.version == "version 1 (aaaaaaaa)"
    else:
        assert hold == earlier


@pytest.mark.parametrize("record", ["deployments", "rollouts", None])
def test_rollback_serves_a_named_version_only_if_it_was_live(
    record: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store: Any = Objects()
    if record == "deployments":
        store[f"deployments/{'a' * 64}.json"] = b"{}"
    elif record == "rollouts":
        store["rollouts/1.json"] = rollout("a").model_copy(update={"revision": "ready"}).model_dump_json().encode()
    ready = Revision("ready", Image("", ""), {"BUNDLE_SHA256": "a" * 64}, True, None, RESOURCES)
    registry: Any = SimpleNamespace(version=lambda version: SimpleNamespace(bundle_sha256="a" * 64))
    monkeypatch.setattr(rollouts, "CloudRun", lambda settings: SimpleNamespace(revisions=lambda: [ready]))
    with nullcontext() if record else pytest.raises(NotFound, match="`anime-genre promote 1` checks and deploys it"):
        assert rollouts._revision(Settings(workspace=tmp_path), "1", registry, store) is ready


class World:
    """A service and a registered model in memory, with a revision of each of the versions 1 and 2."""

    def __init__(self, patch: pytest.MonkeyPatch, live: Revision | None) -> None:
        self.live, self.sent, self.aliases = live, list[dict[str, Any]](), dict[str, str]()
        self.store: Any = Objects()
        self.registry: Any = SimpleNamespace(
            previous=lambda: None,
            version_of=lambda sha256: SimpleNamespace(version="1" if sha256[0] == "a" else "2"),
            set_champion=lambda version: self.aliases.update(champion=version),
            set_previous=lambda version: self.aliases.update(previous=version),
        )
        patch.setattr(rollouts, "Store", lambda settings: self.store)
        patch.setattr(rollouts, "CloudRun", lambda settings: self)
        patch.setattr(rollouts, "_wait_until_served", lambda *_: None)
        patch.setattr(rollouts, "send_event", lambda name, about, payload: self.sent.append(payload))

    def traffic(self) -> Any:
        return SimpleNamespace(revision=self.live, moved=False) if self.live else None

    def revisions(self) -> list[Revision]:
        return [SECOND, FIRST]

    def send_traffic(self, name: str) -> Revision:
        self.live = FIRST if name == FIRST.name else SECOND
        return self.live


FIRST, SECOND = (
    Revision(
        f"revision-{version}",
        Image("", ""),
        {"MODEL_VERSION": version, "BUNDLE_SHA256": letter * 64},
        True,
        None,
        RESOURCES,
    )
    for version, letter in (("1", "a"), ("2", "b"))
)


def test_record_of_a_model_that_is_live_again_says_since_when_and_what_it_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, key = World(monkeypatch, live=SECOND), f"deployments/{'a' * 64}.json"
    kept = {"version": "1", "bundle_sha256": "a" * 64, "later": {"titles": 3}}
    old = {"live_since": "2026-01-01T00:00:00+00:00", "previous_version": None, "previous_bundle_sha256": None}
    world.store[key] = json.dumps({**kept, **old}).encode()
    move_traffic(Settings(workspace=tmp_path), world.registry, FIRST, "rollback", "a person", "")
    record = json.loads(world.store[key])
    assert datetime.now(UTC) - datetime.fromisoformat(record.pop("live_since")) < timedelta(minutes=1)
    assert record == {**kept, "previous_version": "2", "previous_bundle_sha256": "b" * 64}

    written = world.store[key]
    move_traffic(Settings(workspace=tmp_path), world.registry, FIRST, "promote", "a person", "")
    assert world.store[key] == written, "it has been live since"


@pytest.mark.parametrize("last", [None, "version 2 (bbbbbbbb)"])
def test_rollout_that_was_interrupted_after_it_moved_the_traffic_is_recorded_once_and_sent(
    last: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*_: object) -> None:
        raise ServiceUnavailable("MLflow is not reachable.")

    world = World(monkeypatch, live=FIRST)
    arguments = Settings(workspace=tmp_path), world.registry, FIRST, "redeploy", "run 1", ""
    if last:
        event = rollout("b").model_copy(update={"after": last})
        world.store["rollouts/2026-11-29.json"] = event.model_dump_json().encode()
    with monkeypatch.context() as patch, pytest.raises(ServiceUnavailable):  # MLflow is still unreachable
        patch.setattr(rollouts, "_set_aliases", unreachable)
        patch.setattr(rollouts, "live_champion", unreachable)
        move_traffic(*arguments)
    done = move_traffic(*arguments)
    assert (done.before, done.after) == (last, "version 1 (aaaaaaaa)")
    assert world.aliases == {"champion": "1"} | ({"previous": "2"} if last else {})
    assert move_traffic(*arguments) == done and world.sent == [done.model_dump()]
    assert [each.what for each in read_rollouts(world.store)][-2:] == ["redeploy failed", "redeploy"]


@pytest.mark.parametrize("earlier", [None, Hold(version="version 3 (cccccccc)", since="2026-11-01")])
@pytest.mark.parametrize("is_replaced", [False, True])
def test_promote_lifts_the_hold_except_one_that_is_written_while_it_works(
    earlier: Hold | None, is_replaced: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def deploy(*_: object) -> Revision:
        if is_replaced:  # by the rollback of another process, which waits for the end
            store["hold.json"] = fresh.model_dump_json().encode()
        return Revision("revision-5", Image("", ""), {}, True, None, RESOURCES)

    store: Any = Objects()
    if earlier:
        store["hold.json"] = earlier.model_dump_json().encode()
    fresh = Hold(version="version 1 (aaaaaaaa)", since="2026-11-29")
    registered = SimpleNamespace(version="5", bundle_sha256="e" * 64)
    monkeypatch.setattr(rollouts, "Store", lambda settings: store)
    monkeypatch.setattr(rollouts, "Registry", lambda settings: SimpleNamespace(version=lambda version: registered))
    monkeypatch.setattr(rollouts, "rollout_lease", lambda *_: nullcontext())
    monkeypatch.setattr(rollouts, "_deploy", deploy)
    monkeypatch.setattr(rollouts, "move_traffic", lambda *_: rollout("promote e"))
    promote(Settings(workspace=tmp_path), "5", "a person")
    assert read_hold(store) == (fresh if is_replaced else None)


def prepare_redeploy(patch: pytest.MonkeyPatch, store: Any, live: Revision | None, workspace: Path) -> None:
    """Replace what the step `redeploy` uses. Its rollout makes "revision-2" live."""
    moved = rollout("b").model_copy(update={"revision": "revision-2"})
    for name, value in {
        "read_settings": lambda collection: Settings(workspace=workspace),
        "Store": lambda settings: store,
        "Registry": lambda settings: SimpleNamespace(tag_version=lambda *_: None),
        "CloudRun": lambda settings: SimpleNamespace(live=lambda: live, url=lambda: "http://f"),
        "fetch_bundle": lambda *_: workspace,
        "deploy_checked_candidate": lambda *_, **__: None,
        "rollout_lease": lambda *_: nullcontext(),
        "failure_recorded": lambda *_: nullcontext(),
        "write_deployment": lambda *_: None,
        "show_link": lambda *_: None,
        "run_name": lambda: "test",
        "move_traffic": lambda *_: moved,
    }.items():
        patch.setattr(redeploying, name, value)


def redeploy(**evaluation: Any) -> Any:
    """The step `redeploy` for version 2, whose bundle is "b"."""
    known = EvaluationRecord.model_construct(known_posters=[], passed_gate=True, reason="", **evaluation)
    dataset = DatasetRecord.model_construct(collection="films", snapshot_date="2026-11-29")
    model = ModelRecord(version="2", run_id="1", bundle_sha256="b" * 64)
    return redeploying.redeploy.__wrapped__(dataset, known, model)


@pytest.mark.parametrize(
    ("compared", "live", "moves"),
    [
        (None, None, True),
        ("a", "a", True),
        ("a", "b", True),  # a try before this one has moved the traffic
        ("a", None, True),  # the service was deleted
        ("a", "c", False),
        (None, "c", False),
    ],
)
def test_redeploy_replaces_only_the_model_that_was_live_at_the_comparison(
    compared: str | None, live: str | None, moves: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = {"MODEL_VERSION": "1", "BUNDLE_SHA256": (live or "") * 64}
    revision = Revision("revision-1", Image("", ""), environment, True, None, RESOURCES) if live else None
    prepare_redeploy(monkeypatch, Objects(), revision, tmp_path)
    done = redeploy(compared_with=compared and compared * 64)
    if moves:
        assert done.revision == "revision-2"
    else:
        assert done == Overtaken(version="2", live="version 1 (cccccccc)")
        assert done.sentence.endswith("nothing replaces it until the next run, or `anime-genre promote 2`.")


def test_sentence_of_a_hold_names_the_command_for_its_collection() -> None:
    hold = Hold.model_validate({"version": "version 1 (aaaaaaaa)", "since": "2026-11-01"})
    assert "until `anime-genre promote VERSION`, or" in hold.sentence, "earlier holds do not name their collection"
    of_another = hold.model_copy(update={"collection": "built-in"})
    assert "until `anime-genre promote VERSION --collection built-in`, or" in of_another.sentence


def test_hold_that_a_run_overrules_is_lifted_only_when_the_new_model_is_live(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object) -> None:
        raise DeploymentError("The function does not serve the bundle.")

    store: Any = Objects()
    prepare_redeploy(monkeypatch, store, None, tmp_path)
    hold = Hold(version="version 1 (aaaaaaaa)", since="2026-11-01T00:00:00+00:00")
    store["hold.json"] = hold.model_dump_json().encode()
    with monkeypatch.context() as patch, pytest.raises(DeploymentError):
        patch.setattr(redeploying, "move_traffic", failing)
        redeploy(overruled_hold=hold.since)
    assert read_hold(store) == hold
    assert redeploy(overruled_hold=None) == read_hold(store) == hold, "it was written after the comparison"
    assert redeploy(overruled_hold=hold.since).revision == "revision-2" and read_hold(store) is None
