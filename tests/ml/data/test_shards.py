import json
import os
import re
from pathlib import Path

import numpy as np
import pytest

from ml.data.shards import ROWS_PER_SHARD, Shards

SHAPE = (2, 3)


def opened(folder: Path, **options: object) -> Shards:
    return Shards(folder, SHAPE, np.float32, **options)


def row(sha256: str) -> np.ndarray:
    return np.full(SHAPE, int(sha256, 16), np.float32)


def add(shards: Shards, hashes: list[str]) -> None:
    with shards.write(hashes) as shard:
        for place, sha256 in enumerate(hashes):
            shard.put(place, row(sha256)[None])
            shard.note(place, {"about": f"row {sha256}"})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two shards, of the rows a, b, c and d, e."""
    add(opened(tmp_path / "kept"), ["a", "b", "c"])
    add(opened(tmp_path / "kept"), ["d", "e"])
    return tmp_path / "kept"


def test_rows_are_gathered_from_several_shards_in_any_order_and_often(folder: Path) -> None:
    rows = opened(folder).rows(["e", "a", "d", "a", "c"])
    assert (len(rows), rows.shape, rows.dtype) == (5, (5, 2, 3), np.float32)
    assert np.array_equal(rows[:], np.stack([row(each) for each in "eadac"]))
    assert np.array_equal(rows[1:4:2], np.stack([row("a"), row("a")]))
    assert np.array_equal(rows[np.array([4, -5])], np.stack([row("c"), row("e")]))
    assert np.array_equal(rows[np.array([False] * 4 + [True])], row("c")[None])
    assert np.array_equal(rows[0], row("e"))
    assert np.array_equal(rows[np.int64(-1)], row("c"))
    assert rows[:0].shape == (0, 2, 3)
    assert len(list(rows)) == 5
    with pytest.raises(IndexError):
        rows[5]
    assert opened(folder).rows([])[:].shape == (0, 2, 3)


def test_what_is_gathered_is_a_copy(folder: Path) -> None:
    rows = opened(folder).rows(["a"])
    rows[:][:] = 0
    rows[0][:] = 0
    assert np.array_equal(rows[0], row("a"))


def test_what_is_missing_and_what_is_known_of_rows_is_told(folder: Path) -> None:
    shards = opened(folder)
    assert shards.missing(["f", "a", "0", "f", "e"]) == ["0", "f"]
    assert "a" in shards and "f" not in shards
    assert shards.extras("db") == [{"about": "row d"}, {"about": "row b"}]
    assert len(shards.names("ab")) == 1 and len(shards.names("ae")) == 2
    with pytest.raises(KeyError):
        shards.rows(["f"])


def test_the_same_rows_make_the_same_shard_on_any_machine(folder: Path, tmp_path: Path) -> None:
    add(opened(tmp_path / "other" / "kept"), ["d", "e"])
    (name,) = opened(tmp_path / "other" / "kept").names("de")
    for ending in (".npy", ".json"):
        there, here = tmp_path / "other" / "kept" / f"{name}{ending}", folder / f"{name}{ending}"
        assert there.read_bytes() == here.read_bytes()
    add(opened(tmp_path / "another-version"), ["d", "e"])
    assert opened(tmp_path / "another-version").names("de") != [name]


def test_the_array_of_a_shard_is_a_plain_npy_file(folder: Path) -> None:
    shards = opened(folder)
    (name,) = shards.names("a")
    assert np.array_equal(np.load(shards.file(name)), np.stack([row(each) for each in "abc"]))


@pytest.mark.parametrize("killed", ["while rows are written", "before the index"])
def test_a_shard_that_was_not_finished_does_not_count_and_is_written_again(folder: Path, killed: str) -> None:
    shards = opened(folder)
    with pytest.raises(KeyboardInterrupt), shards.write(["f"]) as shard:
        shard.put(0, row("f")[None])
        raise KeyboardInterrupt
    if killed == "before the index":
        add(shards, ["f"])
        shards.file(*shards.names("f"), ".json").unlink()
    assert "f" not in opened(folder)
    add(opened(folder), ["f"])
    assert np.array_equal(opened(folder).rows("f")[0], row("f"))
    assert len(list(folder.iterdir())) == 9


def test_what_killed_builds_left_is_removed_after_a_while(folder: Path) -> None:
    old, young, orphan = folder / ".old.part", folder / ".young.part", folder / "orphan.npy"
    for file in (old, young, orphan):
        file.touch()
    for file in (old, orphan):
        os.utime(file, (1, 1))
    add(opened(folder), ["f"])
    assert [file.exists() for file in (old, young, orphan)] == [False, True, False]


def test_a_shard_lacking_a_row_or_with_rows_of_another_kind_is_refused(tmp_path: Path) -> None:
    shards = opened(tmp_path)
    with pytest.raises(ValueError, match="The row of b was not written"), shards.write(["a", "b"]) as shard:
        shard.put(0, row("a")[None])
    with pytest.raises(ValueError, match="not float64"), shards.write(["a"]) as shard:
        shard.put(0, np.zeros((1, *SHAPE)))
    with pytest.raises(ValueError, match="1 to 2048 rows"), shards.write([str(n) for n in range(ROWS_PER_SHARD + 1)]):
        pass
    assert list(tmp_path.iterdir()) == []


def damage_content(array: Path) -> None:
    array.write_bytes(array.read_bytes()[:-1] + b"?")


def shorten(array: Path) -> None:
    array.write_bytes(array.read_bytes()[:-4])


def damage_header(array: Path) -> None:
    array.write_bytes(b"?" + array.read_bytes()[1:])


def change_shape(array: Path) -> None:
    np.save(array, np.zeros((3, 3, 2), np.float32))


def empty_index(array: Path) -> None:
    array.with_suffix(".json").write_text("")


def other_index(array: Path) -> None:
    array.with_suffix(".json").write_text(json.dumps({"sha256": ["a", "b"], "crc32": [1], "extras": [{}]}))


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (damage_content, "its checksum is another one than when it was written"),
        (shorten, "mmap length is greater than file size"),
        (damage_header, ""),
        (change_shape, r"it holds float32 \(3, 3, 2\), not float32 \(3, 2, 3\)"),
        (Path.unlink, "its file is missing"),
        (empty_index, "Expecting value"),
        (other_index, "its index is damaged"),
    ],
)
def test_a_damaged_shard_is_dropped_with_a_warning_and_its_rows_are_written_anew(
    folder: Path, harm, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    array = opened(folder).file(*opened(folder).names("abc"))
    harm(array)
    shards = opened(folder)
    (said,) = caplog.messages
    assert f"{array} is dropped, and its rows are made anew: " in said
    assert re.search(reason, said)
    caplog.records.clear()
    assert shards.missing("abcde") == ["a", "b", "c"]
    assert [file.name for file in folder.glob(f"{array.stem}*")] == []
    add(shards, ["a", "b", "c"])
    assert np.array_equal(opened(folder).rows("cd")[:], np.stack([row("c"), row("d")]))
    assert caplog.messages == []


def test_the_checksum_is_read_only_where_size_or_time_of_the_file_changed(folder: Path) -> None:
    array = opened(folder).file(*opened(folder).names("abc"))
    before = array.stat()
    damage_content(array)
    os.utime(array, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert "a" in opened(folder)
    os.utime(array, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert "a" not in opened(folder)


def test_a_whole_shard_from_another_machine_is_checked_once(folder: Path) -> None:
    checked = opened(folder).file(*opened(folder).names("abc"), ".checked")
    checked.unlink()
    assert "a" in opened(folder)
    assert checked.exists()


def test_shards_that_are_elsewhere_are_known_by_their_index(folder: Path, tmp_path: Path) -> None:
    shards = opened(folder)
    (name,) = shards.names("abc")
    away = shards.file(name).rename(tmp_path / "away.npy")
    shards = opened(folder, elsewhere={name})
    assert shards.missing("ad") == [] and shards.extras("a") == [{"about": "row a"}]
    assert shards.absent("abc") == shards.absent("ad") == [name]
    assert shards.absent("d") == []
    away.rename(shards.file(name))
    assert shards.absent("abc") == []
    assert np.array_equal(shards.rows("a")[0], row("a"))


def test_only_some_shards_can_be_opened(folder: Path) -> None:
    (name,) = opened(folder).names("abc")
    assert opened(folder, only=[name]).missing("abcde") == ["d", "e"]


def test_a_row_in_two_shards_is_read_from_one(folder: Path) -> None:
    add(opened(folder), ["a", "f"])
    assert np.array_equal(opened(folder).rows("af")[:], np.stack([row("a"), row("f")]))
