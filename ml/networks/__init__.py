"""Backbones, heads, weights and class activation maps."""
