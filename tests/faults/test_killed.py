"""Killed anywhere, resumed with the very same command: nothing of the result differs."""

import random
import time
from pathlib import Path

import ground
import pytest

COMMAND = [
    *("--teacher", "tiny", "--batch_size", "2", "--epochs", "3", "--recon_every", "1", "--recon_count", "2"),
    *("--num_workers", "1", "--accelerator", "cpu", "--lr", "3e-4", "--warmup_steps", "2", "--save_every_steps", "1"),
]
WRITES = 50
"""Most of what the undisturbed run opens for writing or renames."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "seed", "kills", "options"),
    [
        ("distill", 1, 20, ["--init", "weights", "--resume", "auto"]),
        ("distill", 2, 5, ["--init", "weights", "--resume", "auto", "--unfreeze_all", "--optimizer", "soap"]),
        ("finetune", 3, 5, ["--resume_ft", "auto"]),
    ],
)
def test_killed_at_random_moments(
    pictures: Path, tmp_path: Path, command: str, seed: int, kills: int, options: list[str]
) -> None:
    ground.finish(ground.start(command, tmp_path / "warm", ["--help"]))
    argv = ["--coco_dir", str(pictures), *COMMAND, *options]
    if command == "finetune":
        zero = ["--coco_dir", str(pictures), *COMMAND, "--epochs", "0", "--init", "weights"]
        assert ground.finish(ground.start("distill", tmp_path / "student", zero)) == 0
        argv += ["--resume_student", str(tmp_path / "student" / "last.pt")]
    began = time.monotonic()  # the server's own start is over
    assert ground.finish(ground.start(command, tmp_path / "undisturbed", argv)) == 0
    seconds = time.monotonic() - began
    files = ["last.pt", "best_msssim.pt"] if command == "distill" else ["ft_last.pt", "ft_best.pt"]
    rng, killed, run = random.Random(seed), 0, 0
    while killed < kills:
        folder, code = tmp_path / f"run{run}", -9
        while code == -9 and killed < kills:
            code = ground.Plan(rng, seconds, WRITES).carry_out(command, folder, argv)
            killed += code == -9
        if code == -9:
            code = ground.finish(ground.start(command, folder, argv))
        assert code == 0, ground.said(folder)[-2000:]
        ground.assert_same(folder, tmp_path / "undisturbed", files)
        run += 1
    print(f"{killed} kills in {run} runs, seed {seed}")
