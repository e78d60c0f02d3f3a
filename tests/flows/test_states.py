"""The short form of `tests/soak/soak_states.py`: chosen acts, after which everything has to come right again."""

from collections.abc import Iterator
from random import Random

import pytest

from tests import state_acts
from tests.state_fuzzer import Act, World, act_and_run

pytestmark = pytest.mark.stack


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A stack with two revisions and two versions."""
    with World(tmp_path_factory.mktemp("states")) as world:
        for options in (["--promote", "always"], ["--promote", "always", "--seed", "1"]):
            assert world.run(options).code == 0
        yield world


@pytest.mark.parametrize("act", [state_acts.lose_objects], ids=lambda act: act.name)
def test_state_is_mended_by_the_runs_after_an_act(world: World, act: Act) -> None:
    result = act_and_run(world, act, Random(0))
    assert result.faults == [], result.lines()
