"""Pictures that are measured on."""

from pathlib import Path

import pytest


@pytest.fixture
def photographs(tmp_path: Path, photos: list[Path]) -> str:
    """A folder of two photographs."""
    there = tmp_path / "photos"
    there.mkdir()
    for path in photos[:2]:
        (there / path.name).write_bytes(path.read_bytes())
    return str(there)
