"""The recipe's commands, typed as its users type them, from a checkout."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def type_(command: str, cwd: Path = ROOT) -> subprocess.CompletedProcess:
    """Run a command line of the README; `python` is this one."""
    words = [sys.executable if word == "python" else word for word in command.split()]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": ""}
    return subprocess.run(words, cwd=cwd, capture_output=True, text=True, env=environment)


@pytest.mark.slow
def test_distil_finetune_evaluate_verbatim(pictures: Path, tmp_path: Path) -> None:
    common = f"--coco_dir {pictures} --num_workers 0 --batch_size 4 --epochs 1"
    first = type_(f"python src/train_distill.py {common} --teacher tiny --use_prepared false --save_dir {tmp_path}/d")
    assert first.returncode == 0, first.stderr
    second = type_(
        f"python finetune_after_distill.py {common} --resume_student {tmp_path}/d/best_msssim.pt --save_dir {tmp_path}/f"
    )
    assert second.returncode == 0, second.stderr
    assert "epoch 1/1: loss" in second.stdout
    third = type_(
        f"python -m src.eval --coco_dir {pictures} --checkpoint {tmp_path}/f/ft_best.pt --output {tmp_path}/e"
    )
    assert third.returncode == 0, third.stderr
    assert (tmp_path / "e" / "summary.json").exists() and "student against the picture" in third.stdout


def test_launchers_refuse_in_one_sentence(tmp_path: Path) -> None:
    for command in ("python src/train_distill.py", "python finetune_after_distill.py", "python -m src.eval"):
        done = type_(f"{command} --coco_dir {tmp_path}/none --nonsense 1")
        assert done.returncode == 2 and done.stderr.count("\n") == 1 and "nonsense" in done.stderr


@pytest.mark.slow
def test_demo_ends_with_table_and_contact_sheet(tmp_path: Path) -> None:
    done = type_(f"python -m codecswap demo --output {tmp_path}/demo --distil_epochs 1 --finetune_epochs 1")
    assert done.returncode == 0, done.stderr
    assert (
        "5 photographs of 768x512" in done.stdout and (tmp_path / "demo" / "contact_sheet.png").stat().st_size > 100_000
    )
    (table,) = re.findall(r"5 photographs of 768x512.*?└", done.stdout, re.DOTALL)
    rows = [line.split("│") for line in table.splitlines() if line.startswith("│")]
    figures = {row[1].strip(): float(row[2]) for row in rows}
    assert figures["teacher"] == figures["subpixel, no training"] == figures["masked, no training"]
    assert figures["upsample, before training"] < figures["upsample, fine-tuned"] < figures["teacher"]
    page = (tmp_path / "demo" / "report.html").read_text("utf-8")
    command = "codecswap export --teacher tiny --replacement subpixel --output codec"
    assert command in page and command in done.stdout, "the same advice"
    shipped = tmp_path / "demo" / "codec"
    last = done.stdout.splitlines()[-6:]
    assert any(f"codecswap decode --codec {shipped}" in line for line in last)
    assert "ConvTranspose" not in done.stdout.split("Export the decoder to ship")[1].split("\n", 1)[1]
    again = type_(f"python -m codecswap decode --codec {shipped} {tmp_path}/demo/picture.csw -o {tmp_path}/again.png")
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "again.png").read_bytes() == (tmp_path / "demo" / "picture.png").read_bytes()
