"""A search over hyperparameters: Optuna proposes, a function tries, and trials that fall behind are given up."""

import logging
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from ml.errors import TrainingError, needs_package
from ml.reporting import Reporter
from ml.training.candidates import Range, Space
from ml.training.outcome import Trial

if TYPE_CHECKING:
    import optuna

logger = logging.getLogger(__name__)

_BEFORE_PRUNING = 2
"""Trials that run to their end before others are compared with their median."""


class Pruned(Exception):
    """Raised inside a trial that has fallen behind the others; no error, and never seen outside of the search."""


Step = Callable[[int, float], None]
"""Tells the search how far a trial is (counted from 1) and its score by then; raises Pruned."""
Try = Callable[[int, dict[str, float], Reporter, Step], float]
"""Tries a setting: the trial's number from 1, the setting, where its curves go, the step; gives its score."""


def search(
    name: str,
    space: Space,
    first: Mapping[str, float],
    trials: int,
    seed: int,
    reporter: Reporter,
    attempt: Try,
    pruned_from_step: int = 1,
) -> tuple[Trial, ...]:
    """Try up to `trials` settings, `first` first; all that were finished or given up, in the order of trial.

    The same seed proposes the same settings for the same scores, so a search that was killed is repeated by running it
    anew with trials that remember their results. A trial that diverges is passed over; raises its TrainingError where
    all do.
    """
    with needs_package("The search over hyperparameters"):
        import optuna
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # what matters is told by this module
    done: list[Trial] = []
    failures: list[TrainingError] = []

    def objective(trial: optuna.Trial) -> float:
        start = time.perf_counter()
        number, parameters = trial.number + 1, _suggest(trial, space)
        scores: list[float] = []

        def step(at: int, score: float) -> None:
            scores.append(score)
            trial.report(score, at)
            if trial.should_prune():
                raise Pruned

        with reporter.run(f"trial-{number}", parameters) as own:
            pruned = False
            try:
                score = attempt(number, parameters, own, step)
            except Pruned:
                pruned, score = True, scores[-1]
                logger.info("%s, trial %d is given up at weighted F1 %.3f.", name, number, score)
            except TrainingError as error:
                logger.warning("%s, trial %d: %s", name, number, error)
                failures.append(error)
                raise
            done.append(Trial(number, parameters, score, time.perf_counter() - start, pruned))
            own.hparams(parameters, {"best/weighted_f1": score})
        # Outside of the run: to be given up is no failure of it.
        if pruned:
            raise optuna.TrialPruned
        return score

    study = optuna.create_study(
        direction="maximize",
        sampler=optuna.samplers.TPESampler(seed=seed % 2**32),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=_BEFORE_PRUNING, n_warmup_steps=pruned_from_step),
    )
    study.enqueue_trial(dict(first))
    study.optimize(objective, n_trials=trials, catch=TrainingError)
    if not any(not trial.pruned for trial in done):
        raise failures[0]
    return tuple(done)


def best_of(trials: tuple[Trial, ...]) -> Trial:
    """The finished trial with the highest score."""
    return max((trial for trial in trials if not trial.pruned), key=lambda trial: trial.validation_weighted_f1)


def _suggest(trial: "optuna.Trial", space: Space) -> dict[str, float]:
    return {
        name: trial.suggest_float(name, where.low, where.high, log=where.log)
        if isinstance(where, Range)
        else trial.suggest_categorical(name, where)
        for name, where in space.items()
    }
