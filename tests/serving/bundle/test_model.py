"""A bundle is checked before it answers, and answers in the manifest's order with its thresholds."""

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
import requests
from google.cloud.storage import Bucket
from PIL import Image

from serving.bundle.errors import BundleError, PosterError
from serving.bundle.model import Manifest, Model
from tests.serving.conftest import StartFunction, mean_colour_network, upload_bundle

ROOT = Path(__file__).parents[3]
SIZE = 16


def poster(red: int, green: int, blue: int) -> bytes:
    """A poster of one colour."""
    buffer = BytesIO()
    Image.new("RGB", (30, 40), (red, green, blue)).save(buffer, "PNG")
    return buffer.getvalue()


def probability(value: int) -> float:
    """What the test network says of a channel of this value."""
    return 1 / (1 + math.exp(-8 * (value / 255 - 0.5)))


def change_manifest(bundle: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Edit manifest.json in place."""
    manifest = json.loads((bundle / "manifest.json").read_text())
    change(manifest)
    (bundle / "manifest.json").write_text(json.dumps(manifest))


def test_predictions_come_in_the_manifests_order_with_thresholds_applied(bundle: Path) -> None:
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


def test_a_probability_equal_to_its_threshold_is_predicted(bundle: Path) -> None:
    said = Model.load(bundle).predict([poster(100, 100, 100)])[0][0].probability
    change_manifest(bundle, lambda manifest: manifest["genres"][0].update(threshold=said))
    assert Model.load(bundle).predict([poster(100, 100, 100)])[0][0].predicted


def test_a_batch_answers_as_its_images_alone(bundle: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (70, 3, SIZE, SIZE), dtype=np.uint8)
    model = Model.load(bundle)
    together = model.probabilities(images)
    assert together.shape == (70, 3)
    assert together.dtype == np.float32
    alone = np.concatenate([model.probabilities(images[row : row + 1]) for row in range(70)])
    np.testing.assert_allclose(together, alone, atol=1e-6)


def test_loading_a_model_leaves_nothing_in_the_users_home(bundle: Path, tmp_path: Path) -> None:
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


def test_no_posters_give_no_answers(bundle: Path) -> None:
    model = Model.load(bundle)
    assert model.predict([]) == []
    assert model.probabilities(np.empty((0, 3, SIZE, SIZE), np.uint8)).shape == (0, 3)


@pytest.mark.parametrize(
    "images",
    [np.zeros((1, 3, 8, 8), np.uint8), np.zeros((1, SIZE, SIZE, 3), np.uint8), np.zeros((1, 3, SIZE, SIZE))],
)
def test_an_array_of_another_shape_or_type_is_refused(bundle: Path, images: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"uint8 \[N, 3, 16, 16\]"):
        Model.load(bundle).probabilities(images)


def test_a_poster_that_cannot_be_read_is_a_poster_error(bundle: Path) -> None:
    with pytest.raises(PosterError):
        Model.load(bundle).predict([poster(1, 2, 3), b"no image"])


def test_the_bundles_hash_is_that_of_its_manifest(bundle: Path) -> None:
    sha256 = hashlib.sha256((bundle / "manifest.json").read_bytes()).hexdigest()
    assert Model.load(bundle).sha256 == sha256
    assert Model.load(bundle, sha256).sha256 == sha256


def test_another_manifest_than_expected_is_refused_and_both_hashes_named(bundle: Path) -> None:
    with pytest.raises(BundleError, match=rf"manifest.json has sha256 [0-9a-f]{{64}}, but {'1' * 64}"):
        Model.load(bundle, "1" * 64)


def test_another_network_than_the_manifest_says_is_refused(bundle: Path) -> None:
    with (bundle / "model.onnx").open("ab") as file:
        file.write(b"\x00")
    with pytest.raises(BundleError, match=r"model.onnx has sha256"):
        Model.load(bundle)


@pytest.mark.parametrize("name", ["manifest.json", "model.onnx"])
def test_a_missing_file_is_named(bundle: Path, name: str) -> None:
    (bundle / name).unlink()
    with pytest.raises(BundleError, match=rf"no readable {name}: No such file"):
        Model.load(bundle)


def test_a_network_that_is_no_onnx_is_refused(bundle: Path) -> None:
    (bundle / "model.onnx").write_bytes(b"garbage")
    digest = hashlib.sha256(b"garbage").hexdigest()
    change_manifest(bundle, lambda manifest: manifest["files"].update({"model.onnx": digest}))
    with pytest.raises(BundleError, match="ONNX Runtime cannot load"):
        Model.load(bundle)


def test_a_network_with_another_number_of_genres_than_the_manifest_is_refused(bundle: Path) -> None:
    change_manifest(bundle, lambda manifest: manifest["genres"].pop())
    with pytest.raises(BundleError, match=r"'probabilities' .* asks for tensor\(float\) \['N', 2\]"):
        Model.load(bundle)


def test_a_network_for_another_image_size_is_refused(bundle: Path) -> None:
    change_manifest(bundle, lambda manifest: manifest["preprocessing"].update(size=SIZE * 2))
    with pytest.raises(BundleError, match=r"'images' .* asks for tensor\(uint8\) \['N', 3, 32, 32\]"):
        Model.load(bundle)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda manifest: manifest.pop("genres"), "manifest.json has no 'genres'"),
        (lambda manifest: manifest.update(format=2), "has format 2; this program reads format 1"),
        (lambda manifest: manifest.update(genres=[]), "lists no genres"),
        (lambda manifest: manifest["genres"][1].pop("threshold"), "genre 2 has no 'threshold'"),
        (lambda manifest: manifest["genres"][0].update(threshold=1.5), "1.5 is not between 0 and 1"),
        (lambda manifest: manifest["genres"][0].update(id="1"), "'id' cannot be \"1\""),
        (lambda manifest: manifest["genres"][0].update(id=True), "'id' cannot be true"),
        (lambda manifest: manifest["preprocessing"].update(size=0), "size 0 is not positive"),
        (lambda manifest: manifest["preprocessing"].update(mean=[0.5]), "'mean' is not three numbers"),
        (lambda manifest: manifest["preprocessing"].update(resize="crop"), "resized by 'crop'"),
        (lambda manifest: manifest["files"].pop("model.onnx"), "gives no sha256 of model.onnx"),
        (lambda manifest: manifest["files"].update({"model.onnx": 5}), "gives no sha256 of model.onnx"),
        (lambda manifest: manifest.update(served="model.onnx"), "'served' cannot be \"model.onnx\""),
        (lambda manifest: manifest["served"].update(file="card.md"), 'served the file cannot be "card.md"'),
        (lambda manifest: manifest["served"].update(file=None), "served 'file' cannot be null"),
        (lambda manifest: manifest["served"].update(file="model-int8.onnx"), "gives no sha256 of model-int8.onnx"),
        (lambda manifest: manifest["served"].pop("precision"), "served has no 'precision'"),
        (lambda manifest: manifest["served"].update(precision="int4"), 'precision cannot be "int4"'),
        (lambda manifest: manifest["served"].update(precision=8), "'precision' cannot be 8"),
        (lambda manifest: manifest["served"].pop("reason"), "served has no 'reason'"),
    ],
)
def test_a_wrong_manifest_says_what_is_wrong(bundle: Path, change: Callable[[dict[str, Any]], None], says: str) -> None:
    change_manifest(bundle, change)
    with pytest.raises(BundleError, match=says):
        Model.load(bundle)


@pytest.mark.parametrize("data", [b"{", b"", b"\xff\xfe\x00", b"[1, 2]", b'"text"', b"NaN"])
def test_a_manifest_that_is_no_json_object_is_refused(data: bytes) -> None:
    with pytest.raises(BundleError, match=r"manifest\.json"):
        Manifest.parse(data)


@pytest.fixture
def int8_bundle(bundle: Path) -> Path:
    """A bundle that serves the second of its networks, which says the opposite of the first."""
    network = mean_colour_network(slope=-8)
    (bundle / "model-int8.onnx").write_bytes(network)
    served = {"file": "model-int8.onnx", "precision": "int8", "reason": "It is as good."}

    def serve(manifest: dict[str, Any]) -> None:
        manifest["served"] = served
        manifest["files"]["model-int8.onnx"] = hashlib.sha256(network).hexdigest()

    change_manifest(bundle, serve)
    return bundle


def test_the_network_that_the_manifest_serves_is_the_one_that_answers(int8_bundle: Path) -> None:
    model = Model.load(int8_bundle)
    assert (model.manifest.served.file, model.manifest.served.precision) == ("model-int8.onnx", "int8")
    [said] = model.predict([poster(255, 100, 0)])
    assert [genre.probability for genre in said] == pytest.approx(
        [probability(0), probability(155), probability(255)], abs=1e-5
    )


def test_of_two_networks_only_the_one_that_is_served_is_needed(int8_bundle: Path) -> None:
    (int8_bundle / "model.onnx").unlink()
    Model.load(int8_bundle)
    (int8_bundle / "model-int8.onnx").write_bytes(mean_colour_network())
    with pytest.raises(BundleError, match=r"model-int8.onnx has sha256"):
        Model.load(int8_bundle)


def test_a_manifest_that_says_nothing_of_what_is_served_serves_model_onnx(bundle: Path) -> None:
    change_manifest(bundle, lambda manifest: manifest.pop("served"))
    served = Model.load(bundle).manifest.served
    assert (served.file, served.precision) == ("model.onnx", "fp32")


def test_the_function_answers_with_the_network_that_is_served_and_names_its_precision(
    start_function: StartFunction, bucket: Bucket, int8_bundle: Path
) -> None:
    with start_function(**upload_bundle(bucket, int8_bundle)) as (url, _):
        answer = requests.post(url, data=poster(255, 100, 0), headers={"Content-Type": "image/png"}).json()
        health = requests.get(f"{url}/health").json()
    assert answer["model"]["precision"] == health["model"]["precision"] == "int8"
    said = {genre["name"]: genre["probability"] for genre in answer["genres"]}
    expected = {"Action": probability(0), "Sea & Sky": probability(155), "Drama": probability(255)}
    assert said == pytest.approx(expected, abs=1e-5)
