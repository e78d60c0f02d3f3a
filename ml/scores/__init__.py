"""Metrics, thresholds, folds, intervals, calibration and shift."""
