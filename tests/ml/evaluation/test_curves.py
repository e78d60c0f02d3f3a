import base64
import io

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import precision_recall_curve as expected_curve

from ml.evaluation.curves import poster_address, poster_sheet, precision_recall_curve, svg_path


def test_the_curve_has_the_points_of_scikit_learn_that_gain_recall() -> None:
    generator = np.random.default_rng(0)
    labels = (generator.random(80) < 0.3).astype(np.uint8)
    probabilities = np.round(generator.random(80), 1).astype(np.float32)
    precision, recall, _ = expected_curve(labels, probabilities)
    found = precision_recall_curve(probabilities, labels)
    expected = {(round(r, 9), round(p, 9)) for r, p in zip(recall, precision, strict=True)}
    assert {(round(r, 9), round(p, 9)) for r, p in found.tolist()} <= expected
    assert (np.diff(found[:, 0]) > 0).all()
    assert found[-1, 0] == 1


def test_a_curve_of_many_posters_keeps_its_ends_and_a_hundred_points() -> None:
    generator = np.random.default_rng(0)
    labels = (generator.random(5000) < 0.5).astype(np.uint8)
    found = precision_recall_curve(generator.random(5000).astype(np.float32), labels)
    assert len(found) == 100
    assert found[0, 0] == pytest.approx(1 / labels.sum())
    assert found[-1].tolist() == [1, pytest.approx(labels.mean(), abs=0.01)]


def test_a_genre_that_no_poster_has_has_no_curve() -> None:
    points = precision_recall_curve(np.ones(3, np.float32), np.zeros(3, np.uint8))
    assert points.shape == (0, 2)
    assert svg_path(points) == ""


def test_a_path_runs_from_point_to_point_with_y_upwards() -> None:
    assert svg_path(np.array([[0, 1], [0.5, 0.25]])) == "M0.000 0.000L0.500 0.750"


def test_a_poster_gets_its_shape_back() -> None:
    image = np.zeros((3, 64, 64), np.uint8)
    image[0, :32] = 255
    kind, _, data = poster_address(image).partition(",")
    assert kind == "data:image/jpeg;base64"
    with Image.open(io.BytesIO(base64.b64decode(data))) as poster:
        assert poster.size == (160, 240)
        assert poster.getpixel((80, 20))[0] > 240
        assert poster.getpixel((80, 220))[0] < 15


def test_a_sheet_has_each_poster_above_its_caption() -> None:
    images = np.full((10, 3, 32, 32), 200, np.uint8)
    bare = poster_sheet(images)
    assert bare.shape == (2 * 248 + 8, 8 * 168 + 8, 3)
    captions = ["Cowboy Bebop\nAction 0.91", *[""] * 9]
    captioned = poster_sheet(images, captions)
    assert captioned.shape[0] == bare.shape[0] + 2 * 2 * 16
    below = captioned[8 + 240 : 8 + 240 + 32, 8 : 8 + 160]
    assert (below < 100).any()
    assert (captioned[8 + 240 : 8 + 240 + 32, 176 : 176 + 160] == 255).all()


def test_a_caption_never_reaches_into_the_next_poster() -> None:
    sheet = poster_sheet(np.zeros((2, 3, 8, 8), np.uint8), ["A very long title " * 9, ""])
    assert (sheet[248:, 168:] == 255).all()


def test_a_sheet_of_no_posters_is_a_picture_all_the_same() -> None:
    assert poster_sheet(np.zeros((0, 3, 8, 8), np.uint8)).ndim == 3
