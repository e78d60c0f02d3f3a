import gc
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

import pytest

from ml.errors import TrainingError
from ml.reporting import NullReporter, Reporter
from ml.training.candidates import Range, SearchSpace
from ml.training.outcome import Trial
from ml.training.search import Attempt, SearchPlan, Step, best_of, search

pytestmark = pytest.mark.train

SPACE: SearchSpace = {"rate": Range(1e-3, 1.0), "width": (1, 2, 4)}
FIRST = {"rate": 0.1, "width": 2}
PLAN = SearchPlan("network", SPACE, FIRST, trials=8, seed=0)


class Runs(NullReporter):
    """Records nested runs and their final metrics."""

    def __init__(self) -> None:
        self.runs: dict[str, Mapping[str, object]] = {}
        self.figures: list[Mapping[str, float]] = []

    @contextmanager
    def run(self, name: str, parameters: Mapping[str, object]) -> Iterator[Reporter]:
        self.runs[name] = parameters
        yield self

    def hparams(self, parameters: Mapping[str, object], metrics: Mapping[str, float]) -> None:
        self.figures.append(metrics)


def near(number: int, parameters: dict[str, float], reporter: Reporter, step: Step) -> float:
    """Highest score at a rate of 0.05."""
    for at in (1, 2, 3):
        step(at, 1 - abs(parameters["rate"] - 0.05) - 0.1 / at)
    return 1 - abs(parameters["rate"] - 0.05)


def trials(attempt: Attempt, count: int = 8, seed: int = 0) -> tuple[Trial, ...]:
    return search(replace(PLAN, trials=count, seed=seed), attempt, NullReporter())


def test_search_tries_the_first_setting_first_and_stays_in_the_space() -> None:
    done = trials(near)
    assert done[0].parameters == FIRST
    assert [trial.number for trial in done] == list(range(1, 9))
    for trial in done:
        assert 1e-3 <= trial.parameters["rate"] <= 1.0
        assert trial.parameters["width"] in (1, 2, 4)
    assert best_of(done).validation_weighted_f1 == max(t.validation_weighted_f1 for t in done if not t.pruned)


def test_search_repeats_its_settings_for_the_same_seed() -> None:
    one, same, other = ([dict(trial.parameters) for trial in trials(near, seed=seed)] for seed in (3, 3, 4))
    assert one == same
    assert one != other


def test_search_prunes_a_trial_that_falls_behind() -> None:
    def attempt(number: int, parameters: dict[str, float], reporter: Reporter, step: Step) -> float:
        for at in (1, 2, 3):
            step(at, 0.5 if number < 4 else 0.4)
        return 0.5 if number < 4 else 0.9

    done = trials(attempt, 4)
    assert [trial.pruned for trial in done] == [False, False, False, True]
    assert done[3].validation_weighted_f1 == 0.4
    assert best_of(done).number < 4


def test_search_does_not_prune_before_the_allowed_step() -> None:
    reached: dict[int, int] = {}

    def attempt(number: int, parameters: dict[str, float], reporter: Reporter, step: Step) -> float:
        for at in (1, 2, 3, 4):
            reached[number] = at
            step(at, 1 / number)
        return 1 / number

    search(replace(PLAN, trials=4, pruned_from_step=2), attempt, NullReporter())
    assert reached == {1: 4, 2: 4, 3: 2, 4: 2}


def test_search_reports_trials_as_nested_runs_with_settings_and_final_metrics() -> None:
    runs = Runs()
    done = search(replace(PLAN, trials=2), near, runs)
    assert runs.runs == {"trial-1": done[0].parameters, "trial-2": done[1].parameters}
    assert runs.figures == [{"selection/best_weighted_f1": trial.validation_weighted_f1} for trial in done]


def test_search_skips_a_trial_that_diverges(caplog: pytest.LogCaptureFixture) -> None:
    def attempt(number: int, parameters: dict[str, float], reporter: Reporter, step: Step) -> float:
        if number == 1:
            raise TrainingError("The loss is not finite.")
        return 0.5

    assert [trial.number for trial in trials(attempt, 3)] == [2, 3]
    assert "network, trial 1: The loss is not finite." in caplog.text


def test_search_raises_the_first_reason_if_all_trials_diverge() -> None:
    def attempt(number: int, parameters: dict[str, float], reporter: Reporter, step: Step) -> float:
        raise TrainingError(f"Trial {number} diverged.")

    with pytest.raises(TrainingError, match=r"Trial 1 diverged\."):
        trials(attempt, 3)


def test_search_does_not_catch_other_errors() -> None:
    def attempt(number: int, parameters: dict[str, float], reporter: Reporter, step: Step) -> float:
        raise MemoryError

    with pytest.raises(MemoryError):
        trials(attempt)


def test_search_releases_what_a_trial_leaves_behind() -> None:
    class Network:
        def __init__(self) -> None:
            self.itself = self  # a reference cycle, as traced networks have

    left: list[weakref.ref[Network]] = []

    def attempt(number: int, parameters: dict[str, float], reporter: Reporter, step: Step) -> float:
        assert not [each for each in left if each() is not None]
        network = Network()
        left.append(weakref.ref(network))
        if number in (1, 3):
            raise TrainingError("The loss is not finite.")
        return 0.5

    gc.disable()
    try:
        trials(attempt, 4)
        assert not [each for each in left if each() is not None]
    finally:
        gc.enable()
    assert len(left) == 4
