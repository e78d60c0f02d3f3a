"""Posters, labels and parts, on disk and in memory."""
