"""Precision-recall curves, SVG paths and posters as data: addresses, for pages without a plotting library.

A page's style sheet gives the curves their colours, in light and in dark mode.
"""

import io

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import precision_recall_curve

from ml.poster_sheet import poster_picture
from ml.scores.metrics import Labels
from serving.bundle.heatmap import data_url

_JPEG_QUALITY = 72
_CURVE_POINTS = 100


def precision_recall_points(probabilities: NDArray[np.floating], labels: Labels) -> NDArray[np.float64]:
    """Recall and precision of one genre, [P, 2], from the highest threshold to the lowest.

    `probabilities` and `labels` are [N]. Only points that gain recall are kept, at most 100 of them. The result is
    empty if no poster has the genre.
    """
    if not labels.any():
        return np.zeros((0, 2))
    precision, recall, _ = precision_recall_curve(labels, probabilities)
    points = np.stack([recall, precision], axis=1)[::-1]  # the first point, recall 0, has no threshold
    points = points[1:][np.diff(points[:, 0]) > 0]
    kept: NDArray[np.float64] = points[
        np.linspace(0, len(points) - 1, min(_CURVE_POINTS, len(points))).round().astype(int)
    ]
    return kept


def svg_path(points: NDArray[np.float64]) -> str:
    """An SVG path through points (x, y), [P, 2] from 0 to 1, in a unit square whose y axis points down."""
    steps = [f"{x:.3f} {1 - y:.3f}" for x, y in points.tolist()]
    return f"M{'L'.join(steps)}" if steps else ""


def poster_address(image: NDArray[np.uint8]) -> str:
    """A poster, uint8 [3, S, S], as a data: address of a JPEG in a poster's shape."""
    stream = io.BytesIO()
    poster_picture(image).save(stream, "JPEG", quality=_JPEG_QUALITY, optimize=True)
    return data_url(stream.getvalue(), "image/jpeg")
