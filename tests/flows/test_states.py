"""The short form of `tests/soak/soak_states.py`: many things go wrong at once, and a run is killed."""

from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from tests.conftest import NewWorkspace
from tests.state_acts import (
    damage_file,
    damage_object,
    edit_registry,
    kill_revision,
    kill_run,
    kill_viewer,
    lose_objects,
    lose_rows_of_the_ledger,
)
from tests.state_fuzzer import World, act_and_run

pytestmark = pytest.mark.stack

DAMAGE = [
    *(lose_objects, damage_object, damage_object, damage_file, damage_file, lose_rows_of_the_ledger),
    *(edit_registry, kill_viewer, kill_revision),
]


@pytest.fixture
def world(tmp_path: Path, new_workspace: NewWorkspace) -> Iterator[World]:
    """A stack with a live model."""
    new_workspace(tmp_path / "workspace")
    with World(tmp_path) as world:
        first = world.run(["--promote", "always"])
        assert first.code == 0, first.line()
        yield world


def test_everything_agrees_again_after_damage_and_a_killed_run(world: World) -> None:
    result = act_and_run(world, [*DAMAGE, kill_run], Random(0), is_during=True)
    assert result.faults == [], result.lines()
