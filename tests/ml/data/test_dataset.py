import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ml.configuration import PreprocessConfig
from ml.data.dataset import Dataset, build_dataset, dataset_key
from ml.data.decoding import Poster
from ml.errors import DatasetError
from ml.reporting import NullReporter
from serving.bundle.files import sha256_of_file
from serving.bundle.image import decode
from tests.damage import DAMAGES
from tests.messages import project_messages

Make = Callable[[Path, int], list[Poster]]


def test_dataset_rows_hold_pixels_labels_and_part_of_the_same_poster(dataset: Dataset, posters: list[Poster]) -> None:
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


def test_dataset_key_depends_on_genres_posters_parts_and_preprocessing_but_not_titles(
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


def test_dataset_keeps_titles_that_pandas_reads_as_missing(tmp_path: Path, make: Make, small: PreprocessConfig) -> None:
    posters = make(tmp_path / "posters", 60)
    titles = ["None", "NA", "Null", "nan", "", ' "quoted", with commas ', "two\nlines"]
    for row, title in enumerate(titles):
        posters[row] = replace(posters[row], title=title)
    folder = build_dataset(posters, tmp_path, small, NullReporter()).folder
    dataset = Dataset.load(folder)
    assert [dataset.titles[dataset.ids.index(str(row))] for row in range(len(titles))] == titles
    assert (folder / "rows.csv").read_bytes().startswith(b"id,title,franchise,part,sha256\r\n0,None,series 0,")


def test_dataset_that_exists_is_reused(posters: list[Poster], dataset: Dataset, small: PreprocessConfig) -> None:
    gone = [replace(poster, file=Path("nowhere.jpg")) for poster in posters]
    assert build_dataset(gone, dataset.folder.parents[1], small, NullReporter()).key == dataset.key


def test_dataset_is_written_again_if_franchises_were_corrected(
    tmp_path: Path, make: Make, small: PreprocessConfig
) -> None:
    posters = make(tmp_path / "posters", 60)
    before = build_dataset(posters, tmp_path, small, NullReporter())
    posters[7] = replace(posters[7], franchise=posters[8].franchise, title="Renamed")
    after = build_dataset(posters, tmp_path, small, NullReporter())
    assert after.key == before.key
    for dataset in (after, Dataset.load(after.folder)):
        assert dataset.franchises[dataset.ids.index("7")] == "series 8"
    assert after.franchises_sha256 != before.franchises_sha256
    written = (after.folder / "manifest.json").stat().st_ino
    posters[7] = replace(posters[7], title="Renamed again")
    assert build_dataset(posters, tmp_path, small, NullReporter()).franchises_sha256 == after.franchises_sha256
    assert (after.folder / "manifest.json").stat().st_ino == written


def test_dataset_records_broken_posters_and_omits_them(tmp_path: Path, make: Make, small: PreprocessConfig) -> None:
    posters = make(tmp_path / "posters", 60)
    cut, text = posters[3], posters[59]
    cut_data = cut.file.read_bytes()[:300]
    cut.file.write_bytes(cut_data)
    text.file.write_text("<html>")
    posters[3], posters[59] = _with_new_sha256(cut), _with_new_sha256(text)
    dataset = build_dataset(posters, tmp_path, small, NullReporter())
    assert set(dataset.broken) == {"3", "59"}
    assert len(dataset.images) == len(dataset.labels) == len(dataset.ids) == 58
    assert dataset.broken["59"] == "This is not a JPEG, PNG, WebP, AVIF or GIF image."
    row = dataset.ids.index("58")
    assert np.array_equal(dataset.images[row], decode(posters[58].file.read_bytes(), 32))


def test_dataset_has_posters_whose_format_is_read_only_now(
    tmp_path: Path, make: Make, small: PreprocessConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    posters = make(tmp_path / "posters", 60)
    Image.open(posters[5].file).save(posters[5].file, "TIFF")
    posters[5] = _with_new_sha256(posters[5])
    with monkeypatch.context() as patch:
        patch.setattr("ml.data.decoding.in_served_format", lambda data: data)
        patch.setattr("ml.data.decoding.READABLE_FORMATS", "JPEG PNG")
        assert set(build_dataset(posters, tmp_path, small, NullReporter()).broken) == {"5"}
    dataset = build_dataset(posters, tmp_path, small, NullReporter())
    assert dataset.broken == {} and "5" in dataset.ids
    assert build_dataset(posters, tmp_path, small, NullReporter()).broken == {}


def test_dataset_is_not_built_from_a_file_with_another_hash(
    tmp_path: Path, make: Make, small: PreprocessConfig
) -> None:
    """Otherwise a dataset without the poster would have the same key."""
    posters = make(tmp_path / "posters", 60)
    whole = posters[10].file.read_bytes()
    posters[10].file.write_bytes(posters[11].file.read_bytes())
    with pytest.raises(DatasetError, match=r"10\.jpg does not have the recorded sha256: download it again"):
        build_dataset(posters, tmp_path, small, NullReporter())
    posters[10].file.unlink()
    with pytest.raises(DatasetError, match=r"10\.jpg cannot be read \(No such file or directory\): download it again"):
        build_dataset(posters, tmp_path, small, NullReporter())
    posters[10].file.write_bytes(whole)
    assert len(build_dataset(posters, tmp_path, small, NullReporter()).ids) == 60


def test_dataset_omits_titles_without_genres(tmp_path: Path, make: Make, small: PreprocessConfig) -> None:
    posters = make(tmp_path / "posters", 60)
    posters[5] = replace(posters[5], genres=())
    assert "5" not in build_dataset(posters, tmp_path, small, NullReporter()).ids


def test_dataset_is_not_left_behind_by_an_interrupted_build(
    tmp_path: Path, make: Make, small: PreprocessConfig
) -> None:
    class Killed(NullReporter):
        def progress(self, done: int, total: int, what: str, unit: str = "") -> None:
            if done >= 30:
                raise KeyboardInterrupt

    posters = make(tmp_path / "posters", 60)
    with pytest.raises(KeyboardInterrupt):
        build_dataset(posters, tmp_path, small, Killed())
    assert not (tmp_path / "datasets").exists()
    assert len(build_dataset(posters, tmp_path, small, NullReporter()).ids) == 60
    assert [path.name for path in (tmp_path / "datasets").glob("[!.]*")] == [dataset_key(posters, small)]


def test_dataset_that_two_processes_build_at_the_same_time_is_right(tmp_path: Path, small: PreprocessConfig) -> None:
    code = """if True:
        import sys, time
        from pathlib import Path
        from ml.configuration import PreprocessConfig
        from ml.data.dataset import build_dataset
        from ml.reporting import NullReporter
        from tests.ml.conftest import make_posters

        class Slow(NullReporter):
            def progress(self, done: int, total: int, what: str, unit: str = "") -> None:
                time.sleep(0.1)

        posters = make_posters(Path(sys.argv[2]), 60)
        config = PreprocessConfig(image_size=32, min_posters=10, min_posters_per_part=2)
        (Path(sys.argv[2]) / "ready").touch()
        while len(list(Path(sys.argv[1]).glob("*/ready"))) < 2:
            time.sleep(0.001)
        dataset = build_dataset(posters, Path(sys.argv[1]), config, Slow())
        print(dataset.images[:].astype(int).sum(), dataset.labels.sum())
    """
    command = [sys.executable, "-c", code, str(tmp_path)]
    running = [
        subprocess.Popen([*command, str(tmp_path / name)], stdout=subprocess.PIPE, text=True) for name in ("one", "two")
    ]
    outputs = {process.communicate(timeout=60)[0] for process in running}
    assert [process.returncode for process in running] == [0, 0]
    (folder,) = (tmp_path / "datasets").glob("[!.]*")
    dataset = Dataset.load(folder)
    assert outputs == {f"{dataset.images[:].astype(int).sum()} {dataset.labels.sum()}\n"}


@pytest.mark.parametrize("name", ["labels.npy", "rows.csv", "manifest.json"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_dataset_that_is_damaged_is_rebuilt_and_named_once(
    name: str,
    damage: Callable[[Path], None],
    tmp_path: Path,
    make: Make,
    small: PreprocessConfig,
    caplog: pytest.LogCaptureFixture,
) -> None:
    posters = make(tmp_path / "posters", 60)
    before = build_dataset(posters, tmp_path, small, NullReporter())
    contents = {file.name: file.read_bytes() for file in before.folder.iterdir()}
    damage(before.folder / name)
    with pytest.raises(DatasetError, match="not a complete dataset"):
        Dataset.load(before.folder)
    caplog.clear()
    build_dataset(posters, tmp_path, small, NullReporter())
    (message,) = [message for message in project_messages(caplog) if "genre" not in message]
    assert re.fullmatch(rf"The dataset in {before.folder} is damaged and is rebuilt \(.+\)\.", message)
    assert {file.name: file.read_bytes() for file in before.folder.iterdir()} == contents


def test_dataset_decodes_damaged_pixels_again(
    tmp_path: Path, make: Make, small: PreprocessConfig, caplog: pytest.LogCaptureFixture
) -> None:
    posters = make(tmp_path / "posters", 60)
    dataset = build_dataset(posters, tmp_path, small, NullReporter())
    expected = dataset.images[:]
    (file,) = (tmp_path / "pixels" / "32-v1").glob("*.npy")
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    assert np.array_equal(build_dataset(posters, tmp_path, small, NullReporter()).images[:], expected)
    assert "is damaged: its checksum is wrong. It is deleted and its rows are rebuilt." in caplog.text
    assert "is damaged and is rebuilt (pixels of 60 posters are missing)." in caplog.text


def test_dataset_decodes_only_posters_that_are_new_to_the_workspace(
    tmp_path: Path, make: Make, small: PreprocessConfig
) -> None:
    totals: list[int] = []

    class Counting(NullReporter):
        def progress(self, done: int, total: int, what: str, unit: str = "") -> None:
            totals.append(total)

    posters = make(tmp_path / "posters", 70)
    build_dataset(posters[:60], tmp_path, small, NullReporter())
    gone = [replace(poster, file=Path("nowhere.jpg")) for poster in posters[:60]]
    second = build_dataset(gone + posters[60:], tmp_path, small, Counting())
    assert set(totals) == {10}
    for poster in posters:
        row = second.ids.index(poster.id)
        assert np.array_equal(second.images[row], decode(poster.file.read_bytes(), 32))


def test_dataset_counts_posters_that_look_alike(tmp_path: Path, make: Make, small: PreprocessConfig) -> None:
    posters = make(tmp_path / "posters", 60)
    for copy, other in ((7, 3), (9, 3), (21, 20)):
        posters[copy].file.write_bytes(posters[other].file.read_bytes())
        posters[copy] = _with_new_sha256(posters[copy])
    summary = build_dataset(posters, tmp_path, small, NullReporter()).summary()
    assert summary["posters_alike"] == {"groups": 2, "posters": 5}


def test_dataset_with_too_few_posters_is_refused_before_decoding(tmp_path: Path, posters: list[Poster]) -> None:
    gone = [replace(poster, file=Path("nowhere.jpg")) for poster in posters]
    with pytest.raises(DatasetError, match="Of the genres of 120 posters, 0 can be learned"):
        build_dataset(gone, tmp_path, PreprocessConfig(min_posters=500), NullReporter())
    assert not list(tmp_path.iterdir())


def _with_new_sha256(poster: Poster) -> Poster:
    return replace(poster, sha256=sha256_of_file(poster.file))
