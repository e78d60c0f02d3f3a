"""Events: one object each in the bucket, `{folder}/{time}.json`, which nothing replaces."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import TypeVar

from infra.store import Store
from tasks.records import Record


class Event(Record):
    """Something that happened at a time, in ISO format and UTC."""

    when: str


_Event = TypeVar("_Event", bound=Event)
_AT_ONCE = 8


def now() -> str:
    """The present time, as events have it."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def append_event(store: Store, folder: str, event: Event, suffix: str = "") -> None:
    """Write an event. The suffix follows the time in its key."""
    store.write(f"{folder}/{event.when}{suffix}.json", event.model_dump_json(indent=2).encode())


def read_events(store: Store, folder: str, kind: type[_Event], since: str = "", suffix: str = "") -> list[_Event]:
    """The events of a folder since a time, oldest first, with a suffix if one is given.

    Damaged ones are left out, which is logged.
    """
    keys = (key for key in sorted(store.keys(f"{folder}/")) if key.endswith(f"{suffix}.json"))
    wanted = [key for key in keys if key >= f"{folder}/{since}"]
    # A year has some sixty, and a rollback reads them several times: one by one, that takes longer than its rollout.
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        read = pool.map(lambda key: store.read_parsed(key, kind.model_validate_json), wanted)
        return [event for event in read if event]
