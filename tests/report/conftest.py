"""A distillation and a fine-tuning of a few steps, on pictures with names that try to be HTML, and their report."""

import shutil
from pathlib import Path

import pytest

from codecswap.cli import run

FAST = ["--teacher", "tiny", "--batch_size", "4", "--num_workers", "0", "--recon_count", "3", "--accelerator", "cpu"]
FAST += ["--warmup_steps", "0", "--recon_every", "1", "--wandb_project", "", "--lr", "3e-4"]


@pytest.fixture(scope="session")
def hostile(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small pictures, and one whose path holds a script element."""
    root = tmp_path_factory.mktemp("hostile") / "pictures"
    shutil.copytree(pictures, root)
    folder = root / "val" / "<script>alert(1)<"
    folder.mkdir()
    shutil.copy(next((root / "train").iterdir()), folder / "script>.png")
    shutil.move(min((root / "val").glob("*.png")), root / "val" / "<img src=x onerror=alert(1)>.png")
    return root


@pytest.fixture(scope="session")
def runs(hostile: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The folders of a distillation (2 epochs) and a fine-tuning (1 epoch)."""
    root = tmp_path_factory.mktemp("runs")
    distilled, tuned = root / "<b>distilled", root / "it's tuned"
    common = ["--coco_dir", str(hostile), *FAST]
    assert run("distill", [*common, "--save_dir", str(distilled), "--epochs", "2", "--init", "weights"]) == 0
    best = ["--resume_student", str(distilled / "best_msssim.pt")]
    assert run("finetune", [*common, "--save_dir", str(tuned), "--epochs", "1", *best]) == 0
    return distilled, tuned


@pytest.fixture(scope="session")
def report(runs: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of both."""
    path = tmp_path_factory.mktemp("report") / "report.html"
    assert run("report", [*map(str, runs), "-o", str(path)]) == 0
    return path


@pytest.fixture
def copy(runs: tuple[Path, Path], tmp_path: Path) -> tuple[Path, Path]:
    """Copies of both folders, to break."""
    copies = tmp_path / "distilled", tmp_path / "tuned"
    for source, target in zip(runs, copies, strict=True):
        shutil.copytree(source, target)
    return copies
