"""Hyperparameter search with Optuna. Trials that fall behind are pruned."""

import copy
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ml.errors import TrainingError
from ml.reporting import Reporter
from ml.training.bench import SELECTION
from ml.training.candidates import Range, SearchSpace
from ml.training.outcome import Trial

if TYPE_CHECKING:
    import optuna

logger = logging.getLogger(__name__)

REFIT = "refit"
"""The run and the checkpoint of the training after the search: the best trial's, on the whole training part."""
_TRIALS_BEFORE_PRUNING = 2


class Pruned(Exception):
    """Raised inside a trial that fell behind the others. It never leaves the search."""


Step = Callable[[int, float], None]
"""Reports a trial's step, counted from 1, and its score so far. Raises Pruned."""
Attempt = Callable[[int, dict[str, float], Reporter, Step], float]
"""Runs a trial and returns its score. Arguments are its number, its hyperparameters, its reporter and its step."""


@dataclass(frozen=True)
class SearchPlan:
    """What is searched, and for how long.

    `first` are the hyperparameters of the first trial; only those in `space` are used. No trial is pruned before
    `pruned_from_step`.
    """

    name: str
    space: SearchSpace
    first: Mapping[str, float]
    trials: int
    seed: int
    pruned_from_step: int = 1


class TrialProgress:
    """Reports how many images the trials of a network have processed, of those that they still may process.

    Epochs that are restored from a checkpoint, or skipped by a pruned trial, count neither as done nor as to do: they
    take no time, and would make the remaining time wrong.
    """

    def __init__(self, name: str, trials: int, epochs: int, images: int, reporter: Reporter) -> None:
        """`images` is the number of images per epoch, those that only score it included.

        `trials` includes the training after the search, if there is one.
        """
        self._what, self._reporter = f"training {name}", reporter
        self._trials, self._epochs, self._images = trials, epochs, images
        self._trial = self._done = 0
        self._left = trials * epochs * images
        self._complete = False

    def begin_trial(self, number: int) -> None:
        """Call this at the start of a trial, counted from 1."""
        self._trial = number
        self.end_epoch(0)

    def begin_refit(self, epochs: int, images: int) -> None:
        """Call this at the start of the training after the search, with its epochs and its images per epoch."""
        self._epochs, self._images = epochs, images
        self.begin_trial(self._trials)

    def add(self, images: int) -> None:
        """Call this after each batch."""
        self._done, self._left = self._done + images, max(0, self._left - images)
        self._report()

    def end_epoch(self, epochs: int) -> None:
        """Call this with the number of completed epochs of the trial."""
        self._left = ((self._trials - self._trial + 1) * self._epochs - epochs) * self._images
        self._report()

    def end(self) -> None:
        """Call this at the end."""
        self._left = 0
        self._report()

    def _report(self) -> None:
        total = self._done + self._left
        if total and not self._complete:
            self._complete = self._left == 0
            self._reporter.progress(self._done, total, self._what, "images")


def search(plan: SearchPlan, attempt: Attempt, reporter: Reporter) -> tuple[Trial, ...]:
    """Run up to `plan.trials` trials and return those that finished or were pruned, in order.

    The same seed and scores give the same hyperparameters. A killed search can therefore be repeated with trials that
    restore their results. Trials that diverge are skipped; if all diverge, the first TrainingError is raised.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)  # this module logs what matters
    done: list[Trial] = []
    failures: list[TrainingError] = []

    def objective(trial: optuna.Trial) -> float:
        start = time.perf_counter()
        number, parameters = trial.number + 1, _suggest(trial, plan.space)
        scores: list[float] = []

        def step(at: int, score: float) -> None:
            scores.append(score)
            trial.report(score, at)
            if trial.should_prune():
                raise Pruned

        with reporter.run(f"trial-{number}", parameters) as trial_reporter:
            pruned = False
            try:
                score = attempt(number, parameters, trial_reporter, step)
            except Pruned:
                pruned, score = True, scores[-1]
                logger.info("%s, trial %d: pruned at weighted F1 %.3f", plan.name, number, score)
            except TrainingError as error:
                # The traceback keeps the trial's network, so neither handlers of the log nor `failures` get it.
                logger.warning("%s, trial %d: %s", plan.name, number, str(error))
                failures.append(copy.copy(error))
                raise
            done.append(Trial(number, parameters, score, time.perf_counter() - start, pruned))
            trial_reporter.hparams(parameters, {f"{SELECTION}/best_weighted_f1": score})
        # Raised outside of the run, which would otherwise be marked as failed.
        if pruned:
            raise optuna.TrialPruned
        return score

    study = optuna.create_study(
        direction="maximize",
        sampler=optuna.samplers.TPESampler(seed=plan.seed % 2**32),
        pruner=optuna.pruners.MedianPruner(
            n_startup_trials=_TRIALS_BEFORE_PRUNING, n_warmup_steps=plan.pruned_from_step
        ),
    )
    study.enqueue_trial({name: plan.first[name] for name in plan.space})
    # Traced networks have reference cycles, so their memory on a GPU is free only after a collection.
    study.optimize(objective, n_trials=plan.trials, catch=TrainingError, gc_after_trial=True)
    if not any(not trial.pruned for trial in done):
        raise failures[0]
    return tuple(done)


def best_of(trials: tuple[Trial, ...]) -> Trial:
    """The finished trial with the highest score."""
    return max((trial for trial in trials if not trial.pruned), key=lambda trial: trial.validation_weighted_f1)


def _suggest(trial: "optuna.Trial", space: SearchSpace) -> dict[str, float]:
    return {
        name: trial.suggest_float(name, values.low, values.high, log=values.log)
        if isinstance(values, Range)
        else trial.suggest_categorical(name, values)
        for name, values in space.items()
    }
