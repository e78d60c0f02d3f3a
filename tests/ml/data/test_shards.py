import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest

from ml.data.shards import ROWS_PER_SHARD, Shards
from tests.messages import project_messages

SHAPE = (2, 3)


def opened(folder: Path) -> Shards:
    return Shards(folder, SHAPE, np.float32)


def row(sha256: str) -> np.ndarray:
    return np.full(SHAPE, int(sha256, 16), np.float32)


def add(shards: Shards, hashes: list[str]) -> Path:
    """Add a shard; gives the file of its array."""
    before = set(shards.folder.glob("*.npy"))
    with shards.write(hashes) as shard:
        for place, sha256 in enumerate(hashes):
            shard.put(place, row(sha256)[None])
            shard.note(place, {"about": f"row {sha256}"})
    (array,) = set(shards.folder.glob("*.npy")) - before
    return array


@pytest.fixture
def array(tmp_path: Path) -> Path:
    """The array of the rows a, b and c; another shard of the folder has d and e."""
    add(opened(tmp_path / "kept"), ["d", "e"])
    return add(opened(tmp_path / "kept"), ["a", "b", "c"])


@pytest.fixture
def folder(array: Path) -> Path:
    return array.parent


def test_shard_rows_are_read_from_several_shards_in_any_order(folder: Path) -> None:
    rows = opened(folder).rows(["e", "a", "d", "a", "c"])
    assert (len(rows), rows.shape, rows.dtype) == (5, (5, 2, 3), np.float32)
    assert np.array_equal(rows[:], np.stack([row(each) for each in "eadac"]))
    assert np.array_equal(rows[1:4:2], np.stack([row("a"), row("a")]))
    assert np.array_equal(rows[np.array([4, -5])], np.stack([row("c"), row("e")]))
    assert np.array_equal(rows[np.array([False] * 4 + [True])], row("c")[None])
    assert np.array_equal(rows[np.int64(-1)], row("c"))
    assert rows[:0].shape == (0, 2, 3)
    with pytest.raises(IndexError):
        rows[5]
    assert opened(folder).rows([])[:].shape == (0, 2, 3)


def test_shard_rows_are_returned_as_copies(folder: Path) -> None:
    rows = opened(folder).rows(["a"])
    rows[:][:] = 0
    rows[0][:] = 0
    assert np.array_equal(rows[0], row("a"))


def test_shards_know_missing_rows_and_notes(folder: Path) -> None:
    shards = opened(folder)
    assert shards.missing(["f", "a", "0", "f", "e"]) == ["0", "f"]
    assert shards.notes("db") == [{"about": "row d"}, {"about": "row b"}]
    with pytest.raises(KeyError):
        shards.rows(["f"])


def test_shard_is_a_plain_npy_file(array: Path) -> None:
    assert np.array_equal(np.load(array), np.stack([row(each) for each in "abc"]))


@pytest.mark.parametrize("killed", ["while rows are written", "before the index"])
def test_shard_that_is_unfinished_is_ignored_and_rewritten(folder: Path, killed: str) -> None:
    if killed == "while rows are written":
        with pytest.raises(KeyboardInterrupt), opened(folder).write(["f"]) as shard:
            shard.put(0, row("f")[None])
            raise KeyboardInterrupt
    else:
        add(opened(folder), ["f"]).with_suffix(".json").unlink()
    assert opened(folder).missing(["f"]) == ["f"]
    with opened(folder).write(["f"]) as shard:
        shard.put(0, row("f")[None])
    assert np.array_equal(opened(folder).rows("f")[0], row("f"))
    assert len(list(folder.glob("[!.]*"))) == 6


def test_shard_files_of_killed_processes_are_removed_after_an_hour(folder: Path) -> None:
    old, young, orphan = folder / ".old.part", folder / ".young.part", folder / "orphan.npy"
    for file in (old, young, orphan):
        file.touch()
    for file in (old, orphan):
        os.utime(file, (1, 1))
    with opened(folder).write(["f"]) as shard:
        shard.put(0, row("f")[None])
    assert [file.exists() for file in (old, young, orphan)] == [False, True, False]


def test_shard_with_missing_or_mismatched_rows_is_refused(tmp_path: Path) -> None:
    shards = opened(tmp_path)
    with pytest.raises(ValueError, match="The row of b was not written"), shards.write(["a", "b"]) as shard:
        shard.put(0, row("a")[None])
    with pytest.raises(ValueError, match="not float64"), shards.write(["a"]) as shard:
        shard.put(0, np.zeros((1, *SHAPE)))
    with pytest.raises(ValueError, match="1 to 2048 rows"), shards.write([str(n) for n in range(ROWS_PER_SHARD + 1)]):
        pass
    assert list(tmp_path.iterdir()) == []


def change_content(array: Path) -> None:
    array.write_bytes(array.read_bytes()[:-1] + b"?")


def shorten(array: Path) -> None:
    array.write_bytes(array.read_bytes()[:-4])


def change_header(array: Path) -> None:
    array.write_bytes(b"?" + array.read_bytes()[1:])


def change_shape(array: Path) -> None:
    np.save(array, np.zeros((3, 3, 2), np.float32))


def empty_index(array: Path) -> None:
    array.with_suffix(".json").write_text("")


def change_index(array: Path) -> None:
    array.with_suffix(".json").write_text(json.dumps({"sha256": ["a", "b"], "crc32": [1], "extras": [{}]}))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (change_content, "its checksum is wrong"),
        (shorten, "mmap length is greater than file size"),
        (change_header, ""),
        (change_shape, r"it holds float32 \(3, 3, 2\), not float32 \(3, 2, 3\)"),
        (Path.unlink, "its file is missing"),
        (empty_index, "Expecting value"),
        (change_index, "its index is damaged"),
    ],
)
def test_shard_that_is_damaged_is_deleted_with_a_warning_and_rewritten(
    array: Path, damage: Callable[[Path], None], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    damage(array)
    shards = opened(array.parent)
    (message,) = project_messages(caplog)
    assert re.search(f"{array} is damaged: .*{reason}.* It is deleted and its rows are rebuilt", message)
    caplog.records.clear()
    assert shards.missing("abcde") == ["a", "b", "c"]
    assert list(array.parent.glob(f"{array.stem}*")) == []
    assert add(shards, ["a", "b", "c"]) == array
    assert np.array_equal(opened(array.parent).rows("cd")[:], np.stack([row("c"), row("d")]))
    assert project_messages(caplog) == []


@pytest.mark.parametrize("ending", [".npy", ".json"])
def test_shard_is_checked_although_its_size_and_time_did_not_change(array: Path, ending: str) -> None:
    file = array.with_suffix(ending)
    before = file.stat()
    content = bytearray(file.read_bytes())
    content[content.index(b"row b") if ending == ".json" else -1] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert opened(array.parent).missing("abcde") == ["a", "b", "c"]


def test_shards_of_two_processes_do_the_work_once_and_are_right(tmp_path: Path) -> None:
    code = """if True:
        import logging, os, sys, time
        from pathlib import Path
        import numpy as np
        from ml.data.shards import Shards

        logging.basicConfig(format="%(message)s", level=logging.INFO, stream=sys.stdout)
        hashes = [f"{n:02}" for n in range(40)]
        folder = Path(sys.argv[1])
        shards = Shards(folder, (2, 3), np.float32)
        (folder.parent / f"{os.getpid()}.begins").touch()
        with shards.adding(hashes) as missing:
            if missing:
                while len(list(folder.parent.glob("*.begins"))) < 2:  # so that the other one has to wait
                    time.sleep(0.01)
                with shards.write(missing) as shard:
                    for place, sha256 in enumerate(missing):
                        shard.put(place, np.full((1, 2, 3), int(sha256), np.float32))
                        time.sleep(0.02)
        assert np.array_equal(shards.rows(hashes)[:][:, 0, 0], np.arange(40))
        print("added", len(missing))
    """
    commands = [[sys.executable, "-c", code, str(tmp_path / "pixels")]] * 2
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for command in commands]
    one, two = sorted(process.communicate(timeout=60)[0] for process in processes)
    assert [process.returncode for process in processes] == [0, 0]
    pids = "|".join(str(process.pid) for process in processes)
    assert re.fullmatch(
        rf"Process ({pids}) adds rows to {tmp_path}/pixels\. This process waits for it\.\nadded 0\n", one
    )
    assert two == "added 40\n"
    assert opened(tmp_path / "pixels").missing([f"{n:02}" for n in range(40)]) == []


def test_shard_row_in_two_shards_is_read_from_one(folder: Path) -> None:
    add(opened(folder), ["a", "f"])
    assert np.array_equal(opened(folder).rows("af")[:], np.stack([row("a"), row("f")]))


def test_rows_of_many_shards_keep_few_files_open(tmp_path: Path) -> None:
    shards = Shards(tmp_path / "many", (2,), np.float32)
    hashes = [f"{number:064d}" for number in range(300)]
    for number, sha256 in enumerate(hashes):
        with shards.write([sha256]) as shard:
            shard.put(0, np.full((1, 2), number, np.float32))
    before = psutil.Process().num_fds()
    rows = shards.rows(hashes)
    for _ in range(2):
        assert rows[:][:, 0].tolist() == list(range(300))
    assert psutil.Process().num_fds() - before <= 128
