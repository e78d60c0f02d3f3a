"""Datasets in the bucket and in a workspace, with the real client and a local emulator, without Prefect."""

import hashlib
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from infra.store import Store
from ml.configuration import PreprocessConfig
from ml.data.dataset import Dataset
from ml.data.decoding import open_pixels
from ml.data.splits import PARTS, SUSPECT
from ml.data.user_table import draw_parts, read_table
from ml.reporting import NullReporter
from serving.bundle.image import decode
from tasks.catalogue.catalogue_table import catalogue_of
from tasks.catalogue.titles import Title
from tasks.crawl.mirror import poster_key
from tasks.errors import StalePosterError
from tasks.myanimelist.source import MyAnimeList
from tasks.preprocess import fetch_dataset, make_dataset, strong_relations
from tasks.table.source import Table
from tests.damage import DAMAGES, flip_bit
from tests.messages import project_messages
from tests.storage import damage, delete, new_bucket, storage_emulator

pytestmark = pytest.mark.stack

CONFIG = PreprocessConfig(image_size=32, min_posters=6, min_posters_per_part=1)
TITLES = 36


def drawn(number: int) -> bytes:
    coarse = np.random.default_rng(number).integers(0, 256, (9, 7, 3)).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(coarse).resize((70, 100), Image.Resampling.BICUBIC).save(stream, "JPEG", quality=90)
    return stream.getvalue()


class Bucket:
    """A bucket with titles and their posters."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.titles: list[Title] = []
        self.sha256: dict[str, str] = {}

    def add(self, number: int, poster: bytes) -> None:
        genre, genre_id = [("Action", 1), ("Comedy", 4)][number % 2]
        # Numbers in names would make all titles one franchise.
        name = f"{'abcdefghi'[number // 9]}{'abcdefghi'[number % 9]} tale"
        self.titles.append(Title(str(number), name, genres=[genre], genre_ids=[genre_id]))
        self.replace(str(number), poster)

    def replace(self, id: str, poster: bytes) -> None:
        self.store.write(poster_key(id), poster)
        self.sha256[id] = hashlib.sha256(poster).hexdigest()

    def dataset(self, workspace: Path) -> tuple[Dataset, bool]:
        return self.dataset_with_notices(workspace)[:2]

    def dataset_with_notices(self, workspace: Path) -> tuple[Dataset, bool, list[str]]:
        catalogue = catalogue_of(self.titles)
        titles = catalogue.assign(sha256=catalogue["id"].map(self.sha256))
        return make_dataset(
            self.store, workspace, titles, strong_relations(catalogue, MyAnimeList()), MyAnimeList(), CONFIG
        )


@pytest.fixture(scope="module")
def storage_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with storage_emulator(tmp_path_factory.mktemp("storage"), "shared") as url:
        yield url


@pytest.fixture
def bucket(storage_url: str, tmp_path: Path) -> Bucket:
    """A new bucket with the posters of 36 titles, each in its own franchise."""
    bucket = Bucket(new_bucket(storage_url, tmp_path))
    for number in range(TITLES):
        bucket.add(number + 1, drawn(number))
    return bucket


def posters_in(workspace: Path) -> set[str]:
    return {file.name for file in (workspace / "posters").glob("*")}


def test_dataset_is_built_once_and_has_the_pixels_of_its_posters(bucket: Bucket, tmp_path: Path) -> None:
    dataset, is_new = bucket.dataset(tmp_path)
    assert is_new
    assert len(dataset.ids) == TITLES
    for row in (0, 20, TITLES - 1):
        poster = bucket.store.read(poster_key(dataset.ids[row]))
        assert np.array_equal(dataset.images[row], decode(poster, 32))
    again, is_new = bucket.dataset(tmp_path)
    assert not is_new and again.key == dataset.key
    assert bucket.store.keys("pixels/") == []


def test_dataset_is_decoded_from_the_posters_on_an_empty_worker(bucket: Bucket, tmp_path: Path) -> None:
    dataset, _ = bucket.dataset(tmp_path / "first")
    bucket.add(TITLES + 1, drawn(TITLES))
    bucket.dataset(tmp_path / "first")
    fetched = fetch_dataset(bucket.store, tmp_path / "second", dataset.key)
    assert np.array_equal(fetched.images[:], dataset.images[:])
    assert posters_in(tmp_path / "second") == {f"{number}.jpg" for number in range(1, TITLES + 1)}


def test_dataset_of_an_earlier_version_is_decoded_from_the_posters(bucket: Bucket, tmp_path: Path) -> None:
    """Its manifest names shards of pixels and has no checksum."""
    dataset, _ = bucket.dataset(tmp_path / "first")
    key = f"datasets/{dataset.key}/manifest.json"
    manifest = json.loads(bucket.store.read(key)) | {"shards": ["0123abcd"]}
    del manifest["content_sha256"]
    bucket.store.write(key, json.dumps(manifest).encode())
    fetched = fetch_dataset(bucket.store, tmp_path / "second", dataset.key)
    assert np.array_equal(fetched.images[:], dataset.images[:])


def test_dataset_decodes_only_new_and_changed_posters(bucket: Bucket, tmp_path: Path) -> None:
    bucket.dataset(tmp_path)
    for poster in (tmp_path / "posters").iterdir():
        poster.unlink()
    bucket.add(TITLES + 1, drawn(TITLES))
    bucket.replace("5", drawn(500))
    dataset, is_new = bucket.dataset(tmp_path)
    assert is_new and len(dataset.ids) == TITLES + 1
    assert posters_in(tmp_path) == {f"{TITLES + 1}.jpg", "5.jpg"}
    assert np.array_equal(dataset.images[dataset.ids.index("5")], decode(drawn(500), 32))


@pytest.mark.parametrize("how", [*DAMAGES, None])
def test_objects_of_a_dataset_and_its_parts_are_made_again(
    how: Callable[[Path], None] | None, bucket: Bucket, tmp_path: Path
) -> None:
    dataset, _ = bucket.dataset(tmp_path / "first")
    keys = bucket.store.keys("datasets/") + ["parts-2.csv"] * (how is not flip_bit)  # nobody misses one bit of a name
    for name in ("labels.npy", "manifest.json", "rows.csv", "parts-2.csv"):
        for key in [each for each in keys if each.endswith(name)]:
            before = {each: bucket.store.read(each) for each in keys}
            if how is None:
                delete(bucket.store, key)
            else:
                damage(bucket.store, key, how)
            for workspace in ("first", "second"):
                again, is_new = bucket.dataset(tmp_path / workspace)
                assert (again.key, is_new) == (dataset.key, False)
            assert {each: bucket.store.read(each) for each in keys} == before


@pytest.mark.parametrize("how", DAMAGES)
def test_dataset_files_that_are_damaged_are_downloaded_again_and_named_once(
    how: Callable[[Path], None], bucket: Bucket, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dataset, _ = bucket.dataset(tmp_path)
    before = {file: file.read_bytes() for file in dataset.folder.iterdir()}
    for file in before:
        how(file)
    caplog.clear()
    for _ in range(2):
        assert fetch_dataset(bucket.store, tmp_path, dataset.key).titles == dataset.titles
    assert {file: file.read_bytes() for file in dataset.folder.iterdir()} == before
    messages = sorted(message.partition(" again from")[0] for message in project_messages(caplog))
    assert messages == sorted(f"The file {file} is damaged and is downloaded" for file in before)


def test_pixels_that_are_damaged_are_decoded_again(
    bucket: Bucket, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dataset, _ = bucket.dataset(tmp_path)
    expected = dataset.images[:]
    (shard,) = (tmp_path / "pixels" / "32-v1").glob("*.npy")
    shard.write_bytes(b"damaged")
    assert np.array_equal(fetch_dataset(bucket.store, tmp_path, dataset.key).images[:], expected)
    assert "It is deleted and its rows are rebuilt" in caplog.text


def test_titles_with_posters_that_look_alike_are_in_one_part(bucket: Bucket, tmp_path: Path) -> None:
    first, _ = bucket.dataset(tmp_path / "first")
    old = first.ids[first.rows("test")[0]]
    other = Image.open(io.BytesIO(bucket.store.read(poster_key(old)))).resize((140, 200))
    stream = io.BytesIO()
    other.save(stream, "JPEG", quality=60)
    for number in range(TITLES + 1, TITLES + 9):
        bucket.add(number, stream.getvalue() + bytes(number))
    dataset, _ = bucket.dataset(tmp_path / "first")
    assert {part for id, part in zip(dataset.ids, dataset.parts, strict=True) if int(id) > TITLES} == {"test"}
    assert dataset.summary()["posters_alike"] == {"groups": 1, "posters": 9}


def test_parts_of_an_earlier_version_are_drawn_again_once_and_the_notice_says_so(
    bucket: Bucket, tmp_path: Path
) -> None:
    """Titles "Orion Rising" and "Orion Falls" were two franchises of different parts."""
    bucket.titles[0] = replace(bucket.titles[0], title="Orion Rising")
    bucket.titles[1] = replace(bucket.titles[1], title="Orion Falls")
    drawn_before = ["test", "train", *(("train", "validation", "test")[number % 3] for number in range(2, TITLES))]
    rows = [f"{number + 1},franchise {number},{part}" for number, part in enumerate(drawn_before)]
    old = "\n".join(["id,franchise,part", *rows, ""]).encode()
    bucket.store.write("parts.csv", old)
    dataset, is_new, notices = bucket.dataset_with_notices(tmp_path)
    part = dict(zip(dataset.ids, dataset.parts.tolist(), strict=True))
    assert is_new
    assert part["1"] == part["2"]
    assert [part[str(number + 1)] for number in range(2, TITLES)] == drawn_before[2:]
    assert notices[0].startswith("The parts were drawn again, once, because")
    assert f"1 of {TITLES} titles moved" in notices[0]
    assert bucket.store.read("parts.csv") == old
    again, is_new, notices = bucket.dataset_with_notices(tmp_path)
    assert (again.key, is_new) == (dataset.key, False)
    assert not any("drawn again" in notice for notice in notices)


def test_possible_siblings_are_left_out_of_the_test_part_until_their_page_is_known(
    bucket: Bucket, tmp_path: Path
) -> None:
    first, _ = bucket.dataset(tmp_path)
    test, train = (bucket.titles[int(first.ids[first.rows(part)[0]]) - 1] for part in ("test", "train"))
    bucket.titles[int(test.id) - 1] = replace(test, title=f"{test.title} Zephyrus")
    bucket.titles[int(train.id) - 1] = replace(train, title=f"{train.title} of Zephyrus")
    dataset, _, notices = bucket.dataset_with_notices(tmp_path)
    assert set(first.ids) - set(dataset.ids) == {test.id}
    assert dataset.suspects == dataset.summary()["suspects_left_out"] == 1
    assert notices[-1] == dataset.suspects_notice()
    assert notices[-1].startswith("1 title is left out of the test part: a rare word of each")
    tests = len(dataset.rows("test"))
    assert notices[0].startswith(f"The relations of {tests} of {tests} test titles are unknown")
    bucket.titles[int(test.id) - 1] = replace(test, title=f"{test.title} Zephyrus", own_page=True)
    assert bucket.dataset(tmp_path)[0].key == first.key


def test_table_has_the_same_franchises_and_parts_in_train_and_retrain(bucket: Bucket, tmp_path: Path) -> None:
    """It names the franchise of half of the rows; others are siblings by title, or share a rare word with them."""
    files = tmp_path / "files"
    files.mkdir()
    rows = []
    for n, title in enumerate(bucket.titles):
        (files / f"{title.id}.jpg").write_bytes(bucket.store.read(poster_key(title.id)))
        word = f" Zephyr{'abcdefgh'[n % 8]}" if n < 24 else ""
        name = f"{rows[-1]['title']} returns" if n % 6 == 3 else title.title.replace("tale", "city") + word
        franchise = f"Set {n // 6}" if n % 6 in (1, 2) else f"Set of row {n}" if n % 6 == 0 else ""
        rows.append({"id": title.id, "title": name, "genres": title.genres[0], "franchise": franchise})
    text = pd.DataFrame(rows).to_csv(index=False)
    (tmp_path / "films.csv").write_text(text)
    posters = draw_parts(read_table(tmp_path / "films.csv", files), open_pixels(tmp_path, 32), NullReporter())
    trained = {poster.id: (poster.franchise, poster.part) for poster in posters if poster.part != SUSPECT}

    table = Table("gs://bucket/films.csv")
    (page,) = table.pages("films.csv", 0)
    catalogue = catalogue_of(table.parse_page(page, text.encode()))
    titles = catalogue.assign(sha256=catalogue["id"].map(bucket.sha256))
    config = replace(CONFIG, min_posters_per_part=0)
    dataset, _, _ = make_dataset(
        bucket.store, tmp_path / "worker", titles, strong_relations(titles, table), table, config
    )
    parts = zip(dataset.franchises.tolist(), dataset.parts.tolist(), strict=True)
    assert trained == dict(zip(dataset.ids, parts, strict=True))
    assert {part for _, part in trained.values()} == set(PARTS) and dataset.suspects == TITLES - len(trained) > 3


def test_poster_replaced_in_the_meantime_stops_the_run(bucket: Bucket, tmp_path: Path) -> None:
    bucket.store.write(poster_key("7"), drawn(700))
    with pytest.raises(StalePosterError, match=r"posters/7\.jpg"):
        bucket.dataset(tmp_path)
