"""A bundle is checked when it is loaded; predictions follow the manifest's order and thresholds."""

import hashlib
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from serving.bundle.errors import BundleError, PosterError
from serving.bundle.model import Manifest, Model, available_cpus
from tests.serving.conftest import mean_colour_network, write_int8_network

ROOT = Path(__file__).parents[3]
SIZE = 16


def poster(red: int, green: int, blue: int) -> bytes:
    """A poster with one colour."""
    buffer = BytesIO()
    Image.new("RGB", (30, 40), (red, green, blue)).save(buffer, "PNG")
    return buffer.getvalue()


def probability(value: int) -> float:
    """The test network's probability for a channel value."""
    return 1 / (1 + math.exp(-8 * (value / 255 - 0.5)))


def change_manifest(bundle: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Edit manifest.json in place."""
    manifest = json.loads((bundle / "manifest.json").read_text())
    change(manifest)
    (bundle / "manifest.json").write_text(json.dumps(manifest))


def test_predictions_follow_the_manifests_order_and_thresholds(bundle: Path) -> None:
    model = Model.load(bundle)
    [first, second] = model.predict([poster(255, 100, 0), poster(0, 255, 255)])
    assert [genre.name for genre in first] == ["Action", "Sea & Sky", "Drama"]
    assert [genre.id for genre in first] == [1, None, 8]
    assert [genre.probability for genre in first] == pytest.approx(
        [probability(255), probability(100), probability(0)], abs=1e-5
    )
    assert [genre.predicted for genre in first] == [True, True, False]
    assert [genre.predicted for genre in second] == [False, True, True]
    assert [genre.threshold for genre in second] == [0.5, 0.25, 0.9]


def test_probability_equal_to_its_threshold_is_predicted(bundle: Path) -> None:
    probability = Model.load(bundle).predict([poster(100, 100, 100)])[0][0].probability
    change_manifest(bundle, lambda manifest: manifest["genres"][0].update(threshold=probability))
    assert Model.load(bundle).predict([poster(100, 100, 100)])[0][0].predicted


def test_probabilities_do_not_depend_on_the_batch(bundle: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (70, 3, SIZE, SIZE), dtype=np.uint8)
    model = Model.load(bundle)
    together = model.probabilities(images)
    assert together.shape == (70, 3)
    assert together.dtype == np.float32
    one_by_one = np.concatenate([model.probabilities(images[row : row + 1]) for row in range(70)])
    np.testing.assert_allclose(together, one_by_one, atol=1e-6)


def test_load_leaves_nothing_in_the_users_home(bundle: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("ORT_", "XDG_"))}
    program = "import sys, pathlib; from serving.bundle.model import Model; Model.load(pathlib.Path(sys.argv[1]))"
    subprocess.run(
        [sys.executable, "-c", program, str(bundle)],
        cwd=ROOT,
        env=environment | {"HOME": str(home)},
        check=True,
    )
    assert not list(home.rglob("*"))


def test_predictions_of_no_posters_are_empty(bundle: Path) -> None:
    model = Model.load(bundle)
    assert model.predict([]) == []
    assert model.probabilities(np.empty((0, 3, SIZE, SIZE), np.uint8)).shape == (0, 3)


@pytest.mark.parametrize(
    "images",
    [np.zeros((1, 3, 8, 8), np.uint8), np.zeros((1, SIZE, SIZE, 3), np.uint8), np.zeros((1, 3, SIZE, SIZE))],
)
def test_images_with_another_shape_or_type_are_refused(bundle: Path, images: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"uint8 \[N, 3, 16, 16\]"):
        Model.load(bundle).probabilities(images)


def test_unreadable_poster_raises_poster_error(bundle: Path) -> None:
    with pytest.raises(PosterError):
        Model.load(bundle).predict([poster(1, 2, 3), b"no image"])


def test_sha256_of_a_bundle_is_that_of_its_manifest(bundle: Path) -> None:
    sha256 = hashlib.sha256((bundle / "manifest.json").read_bytes()).hexdigest()
    assert Model.load(bundle).sha256 == sha256
    assert Model.load(bundle, sha256).sha256 == sha256


def test_manifest_with_another_sha256_is_refused(bundle: Path) -> None:
    with pytest.raises(BundleError, match=rf"manifest.json has sha256 [0-9a-f]{{64}}, but {'1' * 64}"):
        Model.load(bundle, "1" * 64)


def test_network_with_another_sha256_is_refused(bundle: Path) -> None:
    with (bundle / "model.onnx").open("ab") as file:
        file.write(b"\x00")
    with pytest.raises(BundleError, match=r"model.onnx has sha256"):
        Model.load(bundle)


@pytest.mark.parametrize("name", ["manifest.json", "model.onnx"])
def test_missing_file_is_named(bundle: Path, name: str) -> None:
    (bundle / name).unlink()
    with pytest.raises(BundleError, match=rf"no readable {name}: No such file"):
        Model.load(bundle)


def test_network_that_is_not_onnx_is_refused(bundle: Path) -> None:
    (bundle / "model.onnx").write_bytes(b"garbage")
    digest = hashlib.sha256(b"garbage").hexdigest()
    change_manifest(bundle, lambda manifest: manifest["files"].update({"model.onnx": digest}))
    with pytest.raises(BundleError, match="ONNX Runtime cannot load"):
        Model.load(bundle)


def test_network_with_another_number_of_genres_is_refused(bundle: Path) -> None:
    change_manifest(bundle, lambda manifest: manifest["genres"].pop())
    with pytest.raises(BundleError, match=r"'probabilities' .* requires tensor\(float\) \['N', 2\]"):
        Model.load(bundle)


def test_network_with_another_image_size_is_refused(bundle: Path) -> None:
    change_manifest(bundle, lambda manifest: manifest["preprocessing"].update(size=SIZE * 2))
    with pytest.raises(BundleError, match=r"'images' .* requires tensor\(uint8\) \['N', 3, 32, 32\]"):
        Model.load(bundle)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda manifest: manifest.pop("genres"), "manifest.json has no 'genres'"),
        (lambda manifest: manifest.update(format=2), "has format 2; this program reads format 1"),
        (lambda manifest: manifest.update(genres=[]), "lists no genres"),
        (lambda manifest: manifest["genres"][1].pop("threshold"), "genre 2 has no 'threshold'"),
        (lambda manifest: manifest["genres"][0].update(threshold=1.5), "threshold of 1.5; it must be between 0 and 1"),
        (lambda manifest: manifest["genres"][0].update(id="1"), "genre 1 has an invalid 'id': \"1\""),
        (lambda manifest: manifest["genres"][0].update(id=True), "invalid 'id': true"),
        (lambda manifest: manifest["preprocessing"].update(size=0), "size of 0; it must be positive"),
        (lambda manifest: manifest["preprocessing"].update(mean=[0.5]), "'mean' that is not three numbers"),
        (lambda manifest: manifest["preprocessing"].update(resize="crop"), "resizes posters with 'crop'"),
        (lambda manifest: manifest["files"].pop("model.onnx"), "has no sha256 for model.onnx"),
        (lambda manifest: manifest["files"].update({"model.onnx": 5}), "has no sha256 for model.onnx"),
        (lambda manifest: manifest.update(served="model.onnx"), "invalid 'served': \"model.onnx\""),
        (lambda manifest: manifest["served"].update(file="card.md"), 'served has an invalid .file.: "card.md"'),
        (lambda manifest: manifest["served"].update(file=None), "served has an invalid 'file': null"),
        (lambda manifest: manifest["served"].update(file="model-int8.onnx"), "has no sha256 for model-int8.onnx"),
        (lambda manifest: manifest["served"].pop("precision"), "served has no 'precision'"),
        (lambda manifest: manifest["served"].update(precision="int4"), 'invalid .precision.: "int4"'),
        (lambda manifest: manifest["served"].update(precision=8), "invalid 'precision': 8"),
        (lambda manifest: manifest["served"].pop("reason"), "served has no 'reason'"),
    ],
)
def test_invalid_manifest_is_explained(bundle: Path, change: Callable[[dict[str, Any]], None], message: str) -> None:
    change_manifest(bundle, change)
    with pytest.raises(BundleError, match=message):
        Model.load(bundle)


@pytest.mark.parametrize("data", [b"{", b"", b"\xff\xfe\x00", b"[1, 2]", b'"text"', b"NaN"])
def test_manifest_that_is_not_a_json_object_is_refused(data: bytes) -> None:
    with pytest.raises(BundleError, match=r"manifest\.json"):
        Manifest.parse(data)


@pytest.fixture
def int8_bundle(bundle: Path) -> Path:
    """A bundle that serves its int8 network, which predicts the opposite of the other."""
    write_int8_network(bundle, mean_colour_network(slope=-8))
    return bundle


def test_predictions_come_from_the_served_network(int8_bundle: Path) -> None:
    model = Model.load(int8_bundle)
    assert (model.manifest.served.file, model.manifest.served.precision) == ("model-int8.onnx", "int8")
    [genres] = model.predict([poster(255, 100, 0)])
    assert [genre.probability for genre in genres] == pytest.approx(
        [probability(0), probability(155), probability(255)], abs=1e-5
    )


def test_load_needs_the_served_network_only(int8_bundle: Path) -> None:
    (int8_bundle / "model.onnx").unlink()
    Model.load(int8_bundle)
    (int8_bundle / "model-int8.onnx").write_bytes(mean_colour_network())
    with pytest.raises(BundleError, match=r"model-int8.onnx has sha256"):
        Model.load(int8_bundle)


def test_manifest_without_served_serves_model_onnx(bundle: Path) -> None:
    change_manifest(bundle, lambda manifest: manifest.pop("served"))
    served = Model.load(bundle).manifest.served
    assert (served.file, served.precision) == ("model.onnx", "fp32")


@pytest.mark.parametrize(
    ("quota", "expected"), [("150000 100000", 2), ("50000 100000", 1), ("max 100000", 64), (None, 64)]
)
def test_cpus_are_limited_by_the_quota_of_the_container(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quota: str | None, expected: int
) -> None:
    """The host may have more, and shows them all."""
    if quota:
        (tmp_path / "cpu.max").write_text(f"{quota}\n")
    monkeypatch.setattr("serving.bundle.model._CPU_QUOTA", tmp_path / "cpu.max")
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: range(64))
    assert available_cpus() == expected
