"""Whole files only."""

import os
from pathlib import Path

import pytest

from codecswap.errors import UserError
from codecswap.files import atomic_write, ignores_case, one_name


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


def test_only_a_file_is_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "folder"):
        with pytest.raises(UserError, match=f"{name} is no file"), atomic_write(tmp_path / name):
            raise AssertionError("not reached")
    assert (tmp_path / "pipe").is_fifo() and sorted(os.listdir(tmp_path)) == ["folder", "pipe"]


def test_the_case_of_names_is_tried_where_files_are_written(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    assert ignores_case(tmp_path / "not" / "yet") == (tmp_path / "A").exists()
    assert os.listdir(tmp_path) == ["a"]
    assert one_name(Path("\u00e9/A.JPG")) == one_name(Path("e\u0301/a.jpg")) != one_name(Path("e/a.jpg"))
