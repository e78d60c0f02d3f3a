"""Atomic writes and content hashes."""

from pathlib import Path

import pytest

from serving.bundle.files import atomic_write, sha256_of, sha256_of_file


def test_atomic_write_creates_the_file_after_the_block(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "folder" / "file") as temporary:
        temporary.write_bytes(b"content")
        assert not (tmp_path / "folder" / "file").exists()
    assert (tmp_path / "folder" / "file").read_bytes() == b"content"


def test_atomic_write_keeps_the_old_file_if_the_block_raises(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"old")
    with pytest.raises(OSError, match="full"), atomic_write(tmp_path / "file") as temporary:
        temporary.write_bytes(b"new")
        raise OSError("full")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"file": b"old"}


def test_sha256_of_file_equals_sha256_of_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    assert sha256_of_file(tmp_path / "file") == sha256_of(b"content")
