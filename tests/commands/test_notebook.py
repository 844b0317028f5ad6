import csv
import os
import re
import sys
from pathlib import Path

import pytest

from codecswap import cli

NOTEBOOK = Path(__file__).parents[2] / "fine_tune_bmshj2018_coco_colab.ipynb"
PHOTOS = Path(cli.__file__).parent / "assets" / "photos"
nbformat = pytest.importorskip("nbformat")


def read():
    return nbformat.read(NOTEBOOK, as_version=4)


def test_outputs_are_stripped():
    for cell in read().cells:
        if cell.cell_type == "code":
            assert cell.outputs == [] and cell.execution_count is None


def test_cells_are_short_and_both_languages_are_there():
    notebook = read()
    nbformat.validate(notebook)
    for cell in notebook.cells:
        assert len(cell.source.splitlines()) <= 15
        if cell.cell_type == "markdown" and cell.id not in ("title",):
            assert "**English.**" in cell.source and "**日本語。**" in cell.source
    assert "colab-badge.svg" in notebook.cells[0].source


def test_only_options_that_exist():
    for cell in read().cells:
        text = cell.source if cell.cell_type == "code" else ""
        for command in re.findall(r"!codecswap (\w+)", text):
            known = set(cli.COMMANDS[command].options.__dataclass_fields__)
            assert set(re.findall(r"--(\w+)", text)) <= known, command


@pytest.mark.slow
def test_whole_notebook(tmp_path, monkeypatch):
    """Offline, on the embedded teacher and photographs."""
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("WANDB_MODE", "disabled")
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "codecswap_run" / "q8"
    outputs = execute(tmp_path, distil_epochs=1)
    assert epochs(run / "checkpoints") == [-1, 0] and epochs(run / "checkpoints_ft") == [-1, 0]
    for cell in ("curves", "look"):
        assert any("image/png" in output.get("data", {}) for output in outputs[cell])
    assert (
        any("student" in output.get("text", "") for output in outputs["evaluate"])
        and (run / "evaluation" / "summary.json").exists()
    )
    assert {path.name for path in (run / "checkpoints" / "recon").iterdir()} == {"pre_e000", "e000"}
    first = (run / "checkpoints" / "metrics.csv").read_text().splitlines()
    execute(tmp_path, distil_epochs=2, last="distil")  # the same cell goes on where it stopped
    assert epochs(run / "checkpoints") == [-1, 0, 1]
    assert (run / "checkpoints" / "metrics.csv").read_text().splitlines()[:3] == first


def execute(folder, *, distil_epochs, last="end"):
    """Run the cells up to ``last`` with small settings; returns their outputs by the cells' names."""
    from nbclient import NotebookClient

    notebook = read()
    names = [cell.id for cell in notebook.cells]
    settings = (
        f"TEACHER, IMAGES = 'tiny', {str(PHOTOS)!r}\nVAL_RATIO, MAX_IMAGES, BATCH_SIZE = 0.2, None, 3\n"
        f"DISTIL_EPOCHS, FINETUNE_EPOCHS = {distil_epochs}, 1"
    )
    del notebook.cells[names.index(last) + 1 :]
    notebook.cells.insert(names.index("settings") + 1, nbformat.v4.new_code_cell(settings))
    NotebookClient(notebook, timeout=150, resources={"metadata": {"path": str(folder)}}).execute()
    return {cell.id: cell.outputs for cell in notebook.cells if cell.cell_type == "code"}


def epochs(folder):
    with open(folder / "metrics.csv", newline="") as file:
        return [int(row["epoch"]) for row in csv.DictReader(file)]
