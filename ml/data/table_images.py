"""BMP and TIFF posters, which people's folders hold, become PNG.

The deployed function keeps its five formats (see `serving.bundle.image`).
"""

from io import BytesIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from serving.bundle.errors import PosterError, PosterSizeError
from serving.bundle.image import DECODING_BYTES, FORMATS, without_warnings

_TABLE_FORMATS = ("BMP", "TIFF")
ENDINGS = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".avif", ".gif", ".bmp", ".dib", ".tif", ".tiff")
"""Endings of image files, the preferred first."""
READABLE_FORMATS = " ".join((*FORMATS, *_TABLE_FORMATS))
"""All formats of posters that training reads."""
_STARTS = (b"BM", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_BYTES_PER_PIXEL = 16
_PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")


def in_served_format(data: bytes) -> bytes:
    """The bytes of an image; those of a BMP or TIFF image, of which the first page counts, as PNG.

    Raises PosterError if the image is damaged, PosterSizeError if it is too large. Other bytes pass unchecked.
    """
    if not data.startswith(_STARTS):
        return data
    try:
        with without_warnings():
            with Image.open(BytesIO(data), formats=_TABLE_FORMATS) as image:
                if image.width * image.height * _BYTES_PER_PIXEL > DECODING_BYTES:
                    raise PosterSizeError(f"The image is too large: it has {image.width} x {image.height} pixels.")
                turned = ImageOps.exif_transpose(image)
            if turned.mode == "F":  # samples between 0 and 1, or between 0 and 255
                samples = np.asarray(turned)
                turned = Image.fromarray((samples * (255 if samples.max() <= 1 else 1)).clip(0, 255).astype(np.uint8))
            if turned.mode.startswith("I;16"):
                turned = turned.convert("I").point(lambda value: value / 256).convert("L")
            stream = BytesIO()
            (turned if turned.mode in _PNG_MODES else turned.convert("RGB")).save(stream, "PNG")
    except PosterError:
        raise
    except UnidentifiedImageError as error:
        if data.startswith(b"BM"):  # also the start of a text
            return data  # `decode` says which formats it reads
        raise PosterError("The image is damaged or truncated.") from error
    except Exception as error:  # damaged data makes Pillow raise many types
        raise PosterError(f"The image is damaged or truncated: {str(error).strip().rstrip('.')}.") from error
    return stream.getvalue()
