"""Metrics, thresholds, folds, intervals and calibration."""
