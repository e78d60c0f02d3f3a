import base64
import io

import numpy as np
import pytest
from PIL import Image

from ml.evaluation.curves import poster_address, precision_recall_points, svg_path
from ml.scores.metrics import average_precision


def test_precision_recall_points_enclose_the_average_precision() -> None:
    generator = np.random.default_rng(0)
    labels = (generator.random(80) < 0.3).astype(np.uint8)
    probabilities = np.round(generator.random(80), 1).astype(np.float32)
    recall, precision = precision_recall_points(probabilities, labels).T
    assert (np.diff(recall) > 0).all() and recall[-1] == 1
    assert (np.diff(recall, prepend=0) * precision).sum() == pytest.approx(average_precision(probabilities, labels))


def test_precision_recall_points_of_many_posters_are_thinned_to_a_hundred() -> None:
    generator = np.random.default_rng(0)
    labels = (generator.random(5000) < 0.5).astype(np.uint8)
    points = precision_recall_points(generator.random(5000).astype(np.float32), labels)
    assert len(points) == 100
    assert points[0, 0] == pytest.approx(1 / labels.sum())
    assert points[-1].tolist() == [1, pytest.approx(labels.mean(), abs=0.01)]


def test_precision_recall_points_are_empty_for_a_genre_without_posters() -> None:
    points = precision_recall_points(np.ones(3, np.float32), np.zeros(3, np.uint8))
    assert points.shape == (0, 2)
    assert svg_path(points) == ""


def test_svg_path_has_its_y_axis_upwards() -> None:
    assert svg_path(np.array([[0, 1], [0.5, 0.25]])) == "M0.000 0.000L0.500 0.750"


def test_poster_address_restores_the_shape_of_a_poster() -> None:
    image = np.zeros((3, 64, 64), np.uint8)
    image[0, :32] = 255
    kind, _, data = poster_address(image).partition(",")
    assert kind == "data:image/jpeg;base64"
    with Image.open(io.BytesIO(base64.b64decode(data))) as poster:
        assert poster.size == (160, 240)
        assert poster.getpixel((80, 20))[0] > 240
        assert poster.getpixel((80, 220))[0] < 15
