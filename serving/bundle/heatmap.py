"""Draws a class activation map as a picture that can be laid over a poster."""

import base64
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

# Colours of viridis (Smith and van der Walt, 2015). They also differ in lightness, so they work without colour vision.
_COLOURS = ((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37))
_MAX_ALPHA = 200  # of 255: the poster stays visible under the highest values


def colour_ramp() -> NDArray[np.uint8]:
    """The colour of each level from low (0) to high (255), uint8 [256, 3] (RGB)."""
    stops, levels = np.linspace(0, 255, len(_COLOURS)), np.arange(256)
    channels = [np.interp(levels, stops, channel) for channel in zip(*_COLOURS, strict=True)]
    return np.round(np.column_stack(channels)).astype(np.uint8)


def heatmap(activation: NDArray[np.float32], size: int) -> bytes:
    """A PNG of size x size pixels of a class activation map, float32 [h, w] with values >= 0.

    Colours are relative to the highest value of the map. Low values are transparent.
    """
    highest = float(activation.max(initial=0))
    relative = activation / highest if highest > 0 else np.zeros_like(activation)
    levels = Image.fromarray(np.round(relative * 255).astype(np.uint8))
    picture = levels.resize((size, size), Image.Resampling.BICUBIC)
    picture.putpalette(colour_ramp().tobytes())
    stream = io.BytesIO()
    picture.save(stream, "PNG", transparency=bytes(level * _MAX_ALPHA // 255 for level in range(256)))
    return stream.getvalue()


def data_url(picture: bytes, media_type: str = "image/png") -> str:
    """A picture as a data: URL, which a page can show directly."""
    return f"data:{media_type};base64,{base64.b64encode(picture).decode()}"
