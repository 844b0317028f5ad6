"""Asked to stop, starved of disk, stripped of rights: one sentence, the right exit code, and the last checkpoint whole."""

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import ground
import pytest
import torch

from codecswap.students.checkpoint import read_student

COMMAND = [
    *("--teacher", "tiny", "--batch_size", "2", "--epochs", "40", "--recon_every", "5", "--recon_count", "2"),
    *("--num_workers", "1", "--accelerator", "cpu", "--lr", "3e-4", "--init", "weights", "--resume", "auto"),
]


def wait_for(condition, what: str) -> None:
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end, f"waited in vain for {what}"
        time.sleep(0.05)


def last_words(folder: Path) -> str:
    return ground.said(folder).strip().splitlines()[-1]


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_lets_the_step_finish_and_saves(pictures: Path, tmp_path: Path, signum: signal.Signals) -> None:
    folder = tmp_path / "run"
    argv = ["--coco_dir", str(pictures), *COMMAND]
    process = ground.start("distill", folder, argv)
    wait_for((folder / "last.pt").exists, "the first epoch")
    time.sleep(0.1)
    assert process.pid is not None
    os.kill(process.pid, signum)
    assert ground.finish(process) == 128 + signum
    words = last_words(folder)
    assert (
        f"stopped by {signum.name}" in words
        and "--resume auto goes on" in words
        and "Traceback" not in ground.said(folder)
    )
    loaded = read_student(folder / "last.pt")
    epochs, batches = loaded.progress
    assert loaded.content["global_step"] == 4 * epochs + batches
    assert f"after {epochs} epoch" in words
    assert ground.finish(ground.start("distill", folder, [*argv, "--epochs", str(epochs + 1)])) == 0
    assert read_student(folder / "last.pt").progress == (epochs + 1, 0)


def test_a_full_disk_leaves_the_last_checkpoint_whole(pictures: Path, tmp_path: Path) -> None:
    """The optimizer's moments make every later checkpoint larger than the start's: between the two the disk is full."""
    argv = ["--coco_dir", str(pictures), *COMMAND]
    assert ground.finish(ground.start("distill", tmp_path / "probe", [*argv, "--epochs", "0"])) == 0
    size = (tmp_path / "probe" / "last.pt").stat().st_size
    folder = tmp_path / "run"
    assert ground.finish(ground.start("distill", folder, argv, ground.DiskFull(size + 100_000))) == 1
    words = last_words(folder)
    assert "could not be written" in words and "File too large" in words and "best_msssim.pt, after 0 epochs" in words
    assert "Traceback" not in ground.said(folder)
    assert read_student(folder / "best_msssim.pt").progress == (0, 0)
    assert {path.name for path in folder.iterdir()} == {
        "best_msssim.pt",
        "metrics.csv",
        "config.yaml",
        "run.json",
        "recon",
    }
    assert ground.finish(ground.start("distill", folder, [*argv, "--epochs", "1"])) == 0, "with room again it goes on"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, of 16 MB: room for the checkpoints and one in the making."""
    folder = tmp_path / "run"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(folder)], capture_output=True)
    if done.returncode:
        pytest.skip("mounting needs root; the test above and the one below cover the rest")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_file_system(pictures: Path, small_disk: Path) -> None:
    folder = small_disk
    argv = ["--coco_dir", str(pictures), *COMMAND]
    process = ground.start("distill", folder, argv)
    wait_for(lambda: (folder / "last.pt").exists() or process.exitcode is not None, "the first epoch")
    free = os.statvfs(small_disk)
    (small_disk / "ballast").write_bytes(bytes(max(0, free.f_bavail * free.f_frsize - 300_000)))
    assert ground.finish(process) == 1
    (small_disk / "ballast").unlink()
    assert "No space left on device" in ground.said(folder)
    read_student(folder / "last.pt")
    assert not list(folder.glob(".*")), "half a file is left"
    done = read_student(folder / "last.pt").progress[0]
    assert ground.finish(ground.start("distill", folder, [*argv, "--epochs", str(done + 1)])) == 0


@pytest.mark.parametrize("how", ["read-only", "permission"])
def test_a_folder_that_can_no_longer_be_written(pictures: Path, tmp_path: Path, how: str, request) -> None:
    folder = request.getfixturevalue("small_disk") if how == "read-only" else tmp_path / "run"
    argv = ["--coco_dir", str(pictures), *COMMAND]
    process = ground.start(
        "distill", folder, argv, ground.Nobody() if os.geteuid() == 0 and how == "permission" else None
    )
    wait_for((folder / "last.pt").exists, "the first epoch")
    try:
        if how == "read-only":
            # a file system with files open for writing cannot be made read-only: try until it is between two of them
            wait_for(
                lambda: not subprocess.run(["mount", "-o", "remount,ro", str(folder)], capture_output=True).returncode,
                "ro",
            )
        else:
            folder.chmod(0o500)
        assert ground.finish(process) == 1
    finally:
        if how == "permission":
            folder.chmod(0o700)
        else:
            subprocess.run(["mount", "-o", "remount,rw", str(folder)], check=True)
    reason = "Read-only file system" if how == "read-only" else "Permission denied"
    assert reason in last_words(folder) and "Traceback" not in ground.said(folder)
    assert read_student(folder / "last.pt").progress[0] >= 1


def test_divergence_stops_the_run_and_names_the_last_good_checkpoint(pictures: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    argv = ["--coco_dir", str(pictures), *COMMAND, "--lr", "1e30", "--warmup_steps", "0", "--save_every_steps", "1"]
    assert ground.finish(ground.start("distill", folder, argv)) == 1
    words = last_words(folder)
    named = re.search(r"last good checkpoint is (\S+), after", words)
    assert "diverged: 20 steps in a row" in words and named
    good = read_student(named[1]).student
    assert all(parameter.isfinite().all() for parameter in good.parameters())
    with torch.no_grad():
        assert good.g_s(torch.zeros(1, good.M, 4, 4)).abs().max() < 10, "it is from before the divergence"
