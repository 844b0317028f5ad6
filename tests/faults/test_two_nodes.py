"""Training on several machines with torchrun: two of its agents on this one, over loopback with gloo."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import ground
import pytest

KILLED_AT = """
import os, signal, sys
from torch.optim.optimizer import register_optimizer_step_post_hook
left = int(os.environ["KILL_AT"]) if os.environ["RANK"] == "1" else 0
def hook(*_):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
register_optimizer_step_post_hook(hook)
from codecswap.cli import main
sys.exit(main(sys.argv[1:]))
"""
"""Runs a command, and kills the second machine's process after the optimizer's n-th step; 0: never."""


def run(script: Path, folder: Path, pictures: Path, *, kill_at: int = 0) -> tuple[list[int], list[str]]:
    """The same command on both machines: exit codes, and what they said."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["--teacher", "tiny", "--coco_dir", pictures, "--save_dir", folder, "--resume", "auto", "--init", "weights"]
    words += [
        "--batch_size",
        4,
        "--epochs",
        3,
        "--recon_every",
        1,
        "--recon_count",
        1,
        "--num_workers",
        0,
        "--lr",
        3e-4,
    ]
    words += ["--save_every_steps", 1, "--accelerator", "cpu", "--devices", 1, "--num_nodes", 2]
    launch = ["-m", "torch.distributed.run", "--nnodes", 2, "--nproc_per_node", 1]
    launch += ["--master_addr", "127.0.0.1", "--master_port", port]
    agents = [
        subprocess.Popen(
            [sys.executable, *map(str, [*launch, "--node_rank", node, script, "distill", *words])],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | {"KILL_AT": str(kill_at), "OMP_NUM_THREADS": "1"},
        )
        for node in range(2)
    ]
    said = [agent.communicate(timeout=120)[0] for agent in agents]
    return [agent.returncode for agent in agents], said


@pytest.mark.slow
def test_a_killed_machine_ends_the_other_with_a_sentence_and_both_go_on_exactly(pictures: Path, tmp_path: Path) -> None:
    script = tmp_path / "killed_at.py"
    script.write_text(KILLED_AT)
    codes, said = run(script, tmp_path / "undisturbed", pictures)
    assert (tmp_path / "undisturbed" / "last.pt").is_file(), said
    codes, said = run(script, tmp_path / "killed", pictures, kill_at=3)
    assert all(codes), said
    assert "Another process of this run is gone" in said[0] and "with --resume auto on all machines" in said[0]
    assert "[rank0]" not in said[0], "a stack trace"
    run(script, tmp_path / "killed", pictures)
    ground.assert_same(tmp_path / "killed", tmp_path / "undisturbed", ["last.pt", "best_msssim.pt"])
