"""The short form of `tests/soak/soak_states.py`: the first rollout is killed when its model is live, amid damage."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from signal import SIGKILL

import pytest

from tests.conftest import NewWorkspace
from tests.state_acts import (
    ACTS,
    damage_file,
    damage_object,
    edit_registry,
    kill_revision,
    kill_viewer,
    lose_objects,
    lose_rows_of_the_ledger,
)
from tests.state_fuzzer import Act, Did, World, act_and_run

pytestmark = pytest.mark.stack

DAMAGE = [
    *(lose_objects, damage_object, damage_object, damage_file, damage_file, lose_rows_of_the_ledger),
    *(edit_registry, kill_viewer, kill_revision),
]


@pytest.fixture
def world(tmp_path: Path, new_workspace: NewWorkspace) -> Iterator[World]:
    """A stack in which nothing has run."""
    new_workspace(tmp_path / "workspace")
    with World(tmp_path) as world:
        yield world


def damaged_and_killed(world: World, random: Random) -> Did | None:
    """A run is killed right after it moved the traffic, and everything is damaged at that moment."""
    did = next(act for act in ACTS if act.name == "kill_after_traffic_sent").do(world, random)
    assert did

    def at_stop() -> str:
        damage = [done.what for act in DAMAGE if (done := act.do(world, random))]
        assert did.at_stop
        return "; ".join([*damage, did.at_stop() or ""])

    return replace(did, at_stop=at_stop)


def test_everything_agrees_again_after_a_killed_rollout_and_damage(world: World) -> None:
    act = Act("damaged and killed", damaged_and_killed, "before", stops_function=True, loses_results=True)
    result = act_and_run(world, [act], Random(0))
    assert result.faults == [], result.lines()
    assert result.runs[0].code == -SIGKILL, result.lines()
