from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import pytest

from ml.errors import TrainingError
from ml.reporting import NullReporter, Reporter
from ml.training.candidates import Range, Space
from ml.training.outcome import Trial
from ml.training.search import Step, Try, best_of, search

SPACE: Space = {"rate": Range(1e-3, 1.0), "width": (1, 2, 4)}
FIRST = {"rate": 0.1, "width": 2}


class Runs(NullReporter):
    """Remembers nested runs and what was told of them in the end."""

    def __init__(self) -> None:
        self.runs: dict[str, Mapping[str, object]] = {}
        self.figures: list[Mapping[str, float]] = []

    @contextmanager
    def run(self, name: str, parameters: Mapping[str, object]) -> Iterator[Reporter]:
        self.runs[name] = parameters
        yield self

    def hparams(self, parameters: Mapping[str, object], metrics: Mapping[str, float]) -> None:
        self.figures.append(metrics)


def near(number: int, parameters: dict[str, float], own: Reporter, step: Step) -> float:
    """Best at a rate of 0.05."""
    for at in (1, 2, 3):
        step(at, 1 - abs(parameters["rate"] - 0.05) - 0.1 / at)
    return 1 - abs(parameters["rate"] - 0.05)


def trials(attempt: Try, count: int = 8, seed: int = 0, reporter: Reporter | None = None) -> tuple[Trial, ...]:
    return search("network", SPACE, FIRST, count, seed, reporter or NullReporter(), attempt)


def test_the_first_setting_is_tried_first_and_all_lie_in_the_space() -> None:
    done = trials(near)
    assert done[0].parameters == FIRST
    assert [trial.number for trial in done] == list(range(1, 9))
    for trial in done:
        assert 1e-3 <= trial.parameters["rate"] <= 1.0
        assert trial.parameters["width"] in (1, 2, 4)
    assert best_of(done).validation_weighted_f1 == max(t.validation_weighted_f1 for t in done if not t.pruned)


def test_the_same_seed_proposes_the_same_settings_and_another_one_others() -> None:
    one, same, other = ([dict(trial.parameters) for trial in trials(near, seed=seed)] for seed in (3, 3, 4))
    assert one == same
    assert one != other


def test_a_trial_that_falls_behind_is_given_up_and_is_never_the_best() -> None:
    def attempt(number: int, parameters: dict[str, float], own: Reporter, step: Step) -> float:
        for at in (1, 2, 3):
            step(at, 0.5 if number < 4 else 0.4)
        return 0.5 if number < 4 else 0.9

    done = trials(attempt, 4)
    assert [trial.pruned for trial in done] == [False, False, False, True]
    assert done[3].validation_weighted_f1 == 0.4
    assert best_of(done).number < 4


def test_no_trial_is_given_up_before_the_step_from_which_that_is_allowed() -> None:
    reached: dict[int, int] = {}

    def attempt(number: int, parameters: dict[str, float], own: Reporter, step: Step) -> float:
        for at in (1, 2, 3, 4):
            reached[number] = at
            step(at, 1 / number)
        return 1 / number

    search("network", SPACE, FIRST, 4, 0, NullReporter(), attempt, pruned_from_step=2)
    assert reached == {1: 4, 2: 4, 3: 2, 4: 2}


def test_trials_are_nested_runs_with_their_setting_and_what_came_of_it() -> None:
    runs = Runs()
    done = trials(near, 2, reporter=runs)
    assert runs.runs == {"trial-1": done[0].parameters, "trial-2": done[1].parameters}
    assert runs.figures == [{"best/weighted_f1": trial.validation_weighted_f1} for trial in done]


def test_a_trial_that_diverges_is_passed_over(caplog: pytest.LogCaptureFixture) -> None:
    def attempt(number: int, parameters: dict[str, float], own: Reporter, step: Step) -> float:
        if number == 1:
            raise TrainingError("The loss is no number any more.")
        return 0.5

    assert [trial.number for trial in trials(attempt, 3)] == [2, 3]
    assert "network, trial 1: The loss is no number any more." in caplog.text


def test_where_all_trials_diverge_the_first_reason_is_given() -> None:
    def attempt(number: int, parameters: dict[str, float], own: Reporter, step: Step) -> float:
        raise TrainingError(f"Trial {number} diverged.")

    with pytest.raises(TrainingError, match=r"Trial 1 diverged\."):
        trials(attempt, 3)


def test_an_error_that_is_no_divergence_ends_the_search() -> None:
    def attempt(number: int, parameters: dict[str, float], own: Reporter, step: Step) -> float:
        raise MemoryError

    with pytest.raises(MemoryError):
        trials(attempt)
