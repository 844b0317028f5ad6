"""Whole files only."""

import os
from pathlib import Path

import pytest

from codecswap.files import atomic_write


@pytest.mark.parametrize("name", ["a.png", "x" * 251 + ".png", "清" * 83 + ".png"])
def test_files_are_written_atomically_whatever_the_name(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    with atomic_write(path) as beside:
        beside.write_bytes(b"new")
        assert not path.exists() and beside.parent == tmp_path
    assert path.read_bytes() == b"new" and os.listdir(tmp_path) == [name]
    with pytest.raises(ValueError, match="stopped"), atomic_write(path) as beside:
        beside.write_bytes(b"half")
        raise ValueError("stopped")
    assert path.read_bytes() == b"new" and os.listdir(tmp_path) == [name]
