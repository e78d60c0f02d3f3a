"""Scores on the test part, baselines, leaks, the promotion gate, comparison and report."""
