from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ml.configuration import PreprocessConfig
from ml.data.dataset import Dataset, build_dataset, dataset_key
from ml.data.decoding import Poster, file_sha256
from ml.errors import DatasetError
from ml.reporting import NullReporter
from serving.bundle.image import decode

Make = Callable[[Path, int], list[Poster]]


def test_pixels_are_those_that_serving_decodes_and_rows_stay_together(dataset: Dataset, posters: list[Poster]) -> None:
    by_id = {poster.id: poster for poster in posters}
    for row in (0, 17, len(dataset.ids) - 1):
        poster = by_id[dataset.ids[row]]
        assert np.array_equal(dataset.images[row], decode(poster.file.read_bytes(), 32))
        assert dataset.parts[row] == poster.part
        assert dataset.titles[row] == poster.title
        named = [genre.name for genre, has in zip(dataset.genres, dataset.labels[row], strict=True) if has]
        assert set(named) == {genre.name for genre in poster.genres}
    assert dataset.images.shape == (120, 3, 32, 32)
    assert sum(len(dataset.rows(part)) for part in ("train", "validation", "test")) == 120


def test_writing_to_gathered_pixels_does_not_reach_the_file(dataset: Dataset) -> None:
    dataset.images[:10][:] = 0
    assert dataset.images[0].any()


def test_the_key_holds_genres_posters_parts_and_preprocessing_and_no_titles(
    posters: list[Poster], small: PreprocessConfig
) -> None:
    key = dataset_key(posters, small)
    assert dataset_key(posters[::-1], small) == key
    first, *others = posters
    assert dataset_key([replace(first, title="Renamed", franchise="other"), *others], small) == key
    for changed in (
        replace(first, genres=first.genres[:0]),
        replace(first, sha256="0" * 64),
        replace(first, part="left_out"),
    ):
        assert dataset_key([changed, *others], small) != key
    assert dataset_key(posters, replace(small, image_size=64)) != key
    assert dataset_key(posters, replace(small, min_posters=11)) != key


def test_a_dataset_that_is_there_is_not_built_again(
    posters: list[Poster], dataset: Dataset, small: PreprocessConfig
) -> None:
    gone = [replace(poster, file=Path("nowhere.jpg")) for poster in posters]
    assert build_dataset(gone, dataset.folder.parents[1], small, NullReporter()).key == dataset.key


def test_broken_posters_are_recorded_and_left_out(tmp_path: Path, make: Make, small: PreprocessConfig) -> None:
    posters = make(tmp_path / "posters", 60)
    cut, text = posters[3], posters[59]
    cut_data = cut.file.read_bytes()[:300]
    cut.file.write_bytes(cut_data)
    text.file.write_text("<html>")
    posters[3], posters[59] = _with_own_sha256(cut), _with_own_sha256(text)
    dataset = build_dataset(posters, tmp_path, small, NullReporter())
    assert set(dataset.broken) == {"3", "59"}
    assert len(dataset.images) == len(dataset.labels) == len(dataset.ids) == 58
    assert dataset.broken["59"] == "This is not a JPEG, PNG, WebP, AVIF or GIF image."
    row = dataset.ids.index("58")
    assert np.array_equal(dataset.images[row], decode(posters[58].file.read_bytes(), 32))


def test_a_file_other_than_the_recorded_one_makes_no_dataset(
    tmp_path: Path, make: Make, small: PreprocessConfig
) -> None:
    """A dataset without these posters would have the key of the complete one."""
    posters = make(tmp_path / "posters", 60)
    whole = posters[10].file.read_bytes()
    posters[10].file.write_bytes(posters[11].file.read_bytes())
    with pytest.raises(DatasetError, match=r"10\.jpg is not the file whose sha256 was recorded: fetch it again"):
        build_dataset(posters, tmp_path, small, NullReporter())
    posters[10].file.unlink()
    with pytest.raises(DatasetError, match=r"10\.jpg cannot be read \(No such file or directory\): fetch it again"):
        build_dataset(posters, tmp_path, small, NullReporter())
    posters[10].file.write_bytes(whole)
    assert len(build_dataset(posters, tmp_path, small, NullReporter()).ids) == 60


def test_titles_without_genres_do_not_enter(tmp_path: Path, make: Make, small: PreprocessConfig) -> None:
    posters = make(tmp_path / "posters", 60)
    posters[5] = replace(posters[5], genres=())
    assert "5" not in build_dataset(posters, tmp_path, small, NullReporter()).ids


def test_a_build_that_was_killed_leaves_nothing_that_counts_as_done(
    tmp_path: Path, make: Make, small: PreprocessConfig
) -> None:
    class Killed(NullReporter):
        def progress(self, done: int, total: int, what: str) -> None:
            if done >= 30:
                raise KeyboardInterrupt

    posters = make(tmp_path / "posters", 60)
    with pytest.raises(KeyboardInterrupt):
        build_dataset(posters, tmp_path, small, Killed())
    assert not (tmp_path / "datasets").exists()
    assert len(build_dataset(posters, tmp_path, small, NullReporter()).ids) == 60
    assert [path.name for path in (tmp_path / "datasets").iterdir()] == [dataset_key(posters, small)]


def test_a_damaged_dataset_is_built_anew(tmp_path: Path, make: Make, small: PreprocessConfig) -> None:
    posters = make(tmp_path / "posters", 60)
    folder = build_dataset(posters, tmp_path, small, NullReporter()).folder
    (folder / "labels.npy").write_bytes(b"")
    with pytest.raises(DatasetError, match="no complete dataset"):
        Dataset.load(folder)
    assert len(build_dataset(posters, tmp_path, small, NullReporter()).images) == 60


def test_damaged_pixels_are_decoded_anew(
    tmp_path: Path, make: Make, small: PreprocessConfig, caplog: pytest.LogCaptureFixture
) -> None:
    posters = make(tmp_path / "posters", 60)
    dataset = build_dataset(posters, tmp_path, small, NullReporter())
    expected = dataset.images[:]
    (file,) = (tmp_path / "pixels" / "32-v1").glob("*.npy")
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    assert np.array_equal(build_dataset(posters, tmp_path, small, NullReporter()).images[:], expected)
    assert "is dropped, and its rows are made anew: its checksum is another one" in caplog.text
    assert "pixels of 60 posters are missing. It is built anew." in caplog.text


def test_of_two_datasets_the_second_decodes_only_what_is_new(
    tmp_path: Path, make: Make, small: PreprocessConfig
) -> None:
    totals: list[int] = []

    class Counting(NullReporter):
        def progress(self, done: int, total: int, what: str) -> None:
            totals.append(total)

    posters = make(tmp_path / "posters", 70)
    first = build_dataset(posters[:60], tmp_path, small, NullReporter())
    gone = [replace(poster, file=Path("nowhere.jpg")) for poster in posters[:60]]
    second = build_dataset(gone + posters[60:], tmp_path, small, Counting())
    assert set(totals) == {10}
    assert set(first.shards) < set(second.shards)
    for poster in posters:
        row = second.ids.index(poster.id)
        assert np.array_equal(second.images[row], decode(poster.file.read_bytes(), 32))


def test_posters_that_look_alike_are_counted(tmp_path: Path, make: Make, small: PreprocessConfig) -> None:
    posters = make(tmp_path / "posters", 60)
    for own, other in ((7, 3), (9, 3), (21, 20)):
        posters[own].file.write_bytes(posters[other].file.read_bytes())
        posters[own] = _with_own_sha256(posters[own])
    summary = build_dataset(posters, tmp_path, small, NullReporter()).summary()
    assert summary["posters_alike"] == {"groups": 2, "posters": 5}


def test_too_few_posters_are_told_before_any_is_decoded(tmp_path: Path, posters: list[Poster]) -> None:
    gone = [replace(poster, file=Path("nowhere.jpg")) for poster in posters]
    with pytest.raises(DatasetError, match="120 posters leave 0 genres to learn"):
        build_dataset(gone, tmp_path, PreprocessConfig(min_posters=500), NullReporter())
    assert not list(tmp_path.iterdir())


def _with_own_sha256(poster: Poster) -> Poster:
    return replace(poster, sha256=file_sha256(poster.file))
