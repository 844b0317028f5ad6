import csv
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest

from codecswap import cli

NOTEBOOK = Path(__file__).parents[2] / "fine_tune_bmshj2018_coco_colab.ipynb"
PROJECT = tomllib.loads((NOTEBOOK.parent / "pyproject.toml").read_text("utf-8"))["project"]
COMPRESSAI = next(
    line.split(";")[0].strip() for line in PROJECT["optional-dependencies"]["train"] if line.startswith("compressai")
)
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


def test_the_address_is_one_setting_and_empty():
    """Nothing is fetched from an address that may not exist."""
    sources = {cell.id: cell.source for cell in read().cells}
    assert sources["settings"].startswith('REPOSITORY = ""')
    assert not [name for name, source in sources.items() if "github.com" in source or "git+" in source]


def run_cells(*names, **given):
    """Run code cells that need no notebook; returns their variables."""
    sources = {cell.id: cell.source for cell in read().cells}
    variables = {"Path": Path, "sys": sys, "REPOSITORY": "", **given}
    for name in names:
        exec(compile(sources[name], name, "exec"), variables)
    return variables


def pack(folder, kind, name="codecswap"):
    """An archive of a repository called ``name``, as a user would upload it."""
    checkout = folder / "made" / f"{name}-main"
    checkout.mkdir(parents=True)
    (checkout / "pyproject.toml").write_text(f'[project]\nname = "{name}"\n', "utf-8")
    return shutil.make_archive(str(folder / "uploads" / "codecswap-main"), kind, checkout.parent)


@pytest.fixture
def places(tmp_path, monkeypatch):
    """An empty current folder, and a folder of uploads instead of Colab's."""
    for name in ("here", "uploads"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return [Path(), tmp_path / "uploads", tmp_path / "none"]


@pytest.mark.parametrize("kind", ["zip", "gztar"])
def test_it_starts_from_an_uploaded_archive(places, tmp_path, kind):
    pack(tmp_path, kind)
    cells = run_cells("source", "fetch")
    cells["PLACES"] = places
    assert cells["find_source"]() is None
    assert cells["fetch_source"]() == tmp_path / "here" / "codecswap_source" / "codecswap-main"
    assert cells["fetch_source"]() == cells["find_source"](), "a second run takes what is there"


def test_it_starts_from_a_folder_and_from_inside_it(places, tmp_path, monkeypatch):
    pack(tmp_path, "zip")
    cells = run_cells("source", "fetch")
    cells["PLACES"] = [*places, tmp_path / "made"]
    assert cells["fetch_source"]() == tmp_path / "made" / "codecswap-main"
    assert not (tmp_path / "here" / "codecswap_source").exists(), "a folder needs no unpacking"
    monkeypatch.chdir(NOTEBOOK.parent)
    cells["PLACES"] = places
    assert cells["fetch_source"]() == NOTEBOOK.parent


def test_it_clones_the_address_in_the_settings(places, tmp_path):
    pack(tmp_path, "zip", name="another")
    made = tmp_path / "made" / "another-main"
    (made / "pyproject.toml").write_text('[project]\nname = "codecswap"\n', "utf-8")
    git = ["git", "-C", str(made), "-c", "user.name=a", "-c", "user.email=a@b.c"]
    for words in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "--message", "a"]):
        subprocess.run([*git, *words], check=True)
    cells = run_cells("source", "fetch", REPOSITORY=f"file://{made}")
    cells["PLACES"] = places
    assert cells["fetch_source"]() == tmp_path / "here" / "codecswap_source"
    cells = run_cells("source", "fetch", REPOSITORY=f"file://{tmp_path}/none")
    cells.update(PLACES=places, UNPACKED=tmp_path / "new")
    with pytest.raises(SystemExit, match=r"could not clone .*check REPOSITORY"):
        cells["fetch_source"]()


def test_nothing_uploaded_and_another_project_are_one_sentence(places, tmp_path):
    cells = run_cells("source", "fetch")
    cells["PLACES"] = places
    for uploaded in (False, True):
        if uploaded:
            pack(tmp_path, "zip", name="another")
        with pytest.raises(SystemExit, match=r"^codecswap is in none of .*uploads.*: upload its folder or archive"):
            cells["fetch_source"]()


@pytest.mark.parametrize("version", [(3, 12), (3, 13)])
def test_what_is_installed(places, tmp_path, monkeypatch, version):
    """The extras of the folder found; CompressAI by itself where pip cannot resolve it; PyTorch is left to its lower bound."""
    pack(tmp_path, "zip")
    asked = []

    def pip(command, **_):
        asked.append(command[command.index("install") + 1 :])
        return subprocess.CompletedProcess(command, len(asked) > 2)

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(subprocess, "run", pip)
    stand_in = SimpleNamespace(version_info=(*version, 0), executable=sys.executable, modules={})
    cells = run_cells("source", "fetch", sys=stand_in)
    cells["PLACES"] = places
    setup = next(cell.source for cell in read().cells if cell.id == "setup")
    exec(setup, cells)
    source = tmp_path / "here" / "codecswap_source" / "codecswap-main"
    assert asked[0] == ["--quiet", f"{source}[deploy,wandb]"]
    assert asked[1:] == ([["--quiet", "--no-deps", COMPRESSAI]] if version == (3, 13) else [])
    asked += [None, None]
    with pytest.raises(SystemExit, match="pip could not install"):
        exec(setup, cells)


def fake(folder, name, text, code=0):
    """A program that prints ``text`` and ends with ``code``."""
    program = folder / name
    program.write_text(f"#!/bin/sh\necho '{text}'\necho '{text}' >&2\nexit {code}\n")
    program.chmod(0o755)
    return str(program)


@pytest.mark.parametrize(
    ("listing", "probe", "amp"),
    [
        (("GPU 0: Tesla T4", 0), "Tesla T4|7|5", "16-mixed"),
        (("GPU 0: NVIDIA L4", 0), "NVIDIA L4|8|9", "bf16-mixed"),
        (("NVIDIA-SMI has failed", 9), "", "32"),
    ],
)
def test_the_device_is_named(tmp_path, monkeypatch, capsys, listing, probe, amp):
    fake(tmp_path, "nvidia-smi", *listing)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    stand_in = SimpleNamespace(executable=fake(tmp_path, "python", probe))
    cells = run_cells("device", sys=stand_in, subprocess=subprocess, shutil=shutil)
    assert cells["AMP"] == amp
    assert capsys.readouterr().out.startswith(f"Device: {probe.split('|')[0] or 'the CPU (choose a GPU'}")


def test_a_gpu_that_pytorch_cannot_use_stops_the_notebook(tmp_path, monkeypatch):
    """The probe itself runs, on a PyTorch that is told that it has no GPU."""
    fake(tmp_path, "nvidia-smi", "GPU 0: Tesla T4")
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(SystemExit, match=r"^PyTorch cannot use GPU 0: Tesla T4 \(.+\): restart the runtime") as stopped:
        run_cells("device", subprocess=subprocess, shutil=shutil)
    assert "\n" not in str(stopped.value)


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
    execute(tmp_path, distil_epochs=2, last="distill")  # the same cell goes on where it stopped
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
