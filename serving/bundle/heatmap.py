"""Where on a poster a network saw a genre, as a picture to be laid over it."""

import base64
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

# From nothing to all: the colours of viridis, which differ in lightness too; what is cold is transparent.
_COLOURS = ((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37))
_MOST_OPAQUE = 200


def heatmap(places: NDArray[np.float32], size: int) -> bytes:
    """A PNG of size x size pixels, of a class activation map [h, w] >= 0; its highest place is warmest."""
    highest = float(places.max(initial=0))
    share = places / highest if highest > 0 else np.zeros_like(places)
    wide = Image.fromarray(np.round(share * 255).astype(np.uint8)).resize((size, size), Image.Resampling.BICUBIC)
    stops, levels = np.linspace(0, 255, len(_COLOURS)), np.arange(256)
    ramp = np.column_stack([np.interp(levels, stops, channel) for channel in zip(*_COLOURS, strict=True)])
    wide.putpalette(np.round(ramp).astype(np.uint8).tobytes())
    stream = io.BytesIO()
    wide.save(stream, "PNG", transparency=bytes((levels * _MOST_OPAQUE // 255).tolist()))
    return stream.getvalue()


def as_address(png: bytes) -> str:
    """A PNG as a data: address, which a page can show as it is."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
