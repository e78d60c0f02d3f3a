import warnings

import numpy as np
import pytest

from ml.scores.calibration import calibrate
from ml.scores.logistic import fit_curves


def test_fit_curves_calibrates_and_keeps_the_order() -> None:
    generator = np.random.default_rng(6)
    truth = generator.uniform(0.05, 0.6, (4000, 2))
    labels = (generator.random((4000, 2)) < truth).astype(np.uint8)
    estimates = 0.3 * np.log(truth / (1 - truth)) + 0.4  # in the right order, but no probabilities
    probabilities = fit_curves(estimates, labels).probabilities(estimates)
    assert probabilities.dtype == np.float32
    assert np.abs(probabilities - truth).mean() < 0.02
    assert calibrate(probabilities, labels).expected_error < 0.02
    for genre in range(2):
        order = np.argsort(estimates[:, genre])
        assert (np.diff(probabilities[order, genre]) >= 0).all()


def test_fit_curves_gives_the_frequency_for_misleading_estimates() -> None:
    labels = (np.arange(200) % 5 == 0).astype(np.uint8)[:, None]
    estimates = 0.2 - 0.1 * labels + np.random.default_rng(7).normal(size=(200, 1)) * 0.05
    curves = fit_curves(estimates, labels)
    assert curves.slope[0] > 0
    probabilities = curves.probabilities(estimates)
    assert probabilities.max() - probabilities.min() < 0.05
    assert probabilities.mean() == pytest.approx(0.2, abs=0.05)


def test_fit_curves_stays_finite_for_separable_absent_and_universal_genres() -> None:
    generator = np.random.default_rng(8)
    labels = np.column_stack([np.arange(100) < 50, np.zeros(100), np.ones(100), np.arange(100) == 3]).astype(np.uint8)
    estimates = labels + generator.normal(size=(100, 4)) * 1e-3
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        curves = fit_curves(estimates, labels)
        probabilities = curves.probabilities(estimates)
    assert np.isfinite(curves.slope).all() and np.isfinite(curves.offset).all()
    assert (probabilities[:50, 0] > 0.9).all() and (probabilities[50:, 0] < 0.1).all()
    assert probabilities[:, 1].max() < 0.1 < 0.9 < probabilities[:, 2].min()
