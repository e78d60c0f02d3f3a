"""Files are seen whole or not at all."""

from pathlib import Path

import pytest

from infra.errors import BusyError
from infra.files import exclusive_lock, moved_in, sha256_of, sha256_of_file, write_bytes


def test_a_file_appears_when_its_block_ends_well(tmp_path: Path) -> None:
    with moved_in(tmp_path / "folder" / "file") as beside:
        beside.write_bytes(b"half")
        assert not (tmp_path / "folder" / "file").exists()
    assert (tmp_path / "folder" / "file").read_bytes() == b"half"


def test_a_block_that_raises_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path) -> None:
    write_bytes(tmp_path / "file", b"old")
    with pytest.raises(OSError, match="full"), moved_in(tmp_path / "file") as beside:
        beside.write_bytes(b"new")
        raise OSError("full")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"file": b"old"}


def test_a_file_hashes_as_its_bytes_do(tmp_path: Path) -> None:
    write_bytes(tmp_path / "file", b"content")
    assert sha256_of_file(tmp_path / "file") == sha256_of(b"content")


def test_a_folder_is_held_by_one_at_a_time(tmp_path: Path) -> None:
    with exclusive_lock(tmp_path), pytest.raises(BusyError, match="Another run is working"), exclusive_lock(tmp_path):
        pass
    with exclusive_lock(tmp_path):
        pass
