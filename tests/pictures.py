"""Pictures for tests."""

import io

import numpy as np
from PIL import Image


def image_file(kind: str = "JPEG", size: tuple[int, int] = (60, 80), seed: int = 0) -> bytes:
    """A picture whose colours depend on the seed."""
    colours = np.random.default_rng(seed).integers(0, 256, (2, 2, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(colours).resize(size).save(buffer, kind)
    return buffer.getvalue()
