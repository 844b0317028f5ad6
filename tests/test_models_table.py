"""The table of docs/models.md is what each stage does with a small codec of each architecture."""

from pathlib import Path

import pytest
from scripts.models_table import BEGIN, CELLS, END, FILE, make_pictures, row

from codecswap.codecs.architectures import ARCHITECTURES


@pytest.fixture(scope="module")
def table() -> list[str]:
    _, _, rest = FILE.read_text("utf-8").partition(BEGIN)
    return rest.partition(END)[0].splitlines()


@pytest.fixture(scope="module")
def small_pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_pictures(tmp_path_factory.mktemp("table"))


def test_it_has_every_architecture_and_every_stage(table: list[str]) -> None:
    assert table[0] == f"| | {' | '.join(CELLS)} |"
    assert [line.split("`")[1] for line in table[2:]] == list(ARCHITECTURES)


@pytest.mark.slow
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_cell_is_what_happens(name: str, table: list[str], small_pictures: Path, tmp_path: Path) -> None:
    assert row(name, small_pictures, tmp_path / name) in table, "run `python -m scripts.models_table`"
