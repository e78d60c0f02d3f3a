"""Backbones, heads, pretrained weights and class activation maps."""
