"""Runs in processes of their own that can be killed, starved of disk or stripped of rights, without importing PyTorch anew."""

import csv
import ctypes
import multiprocessing
import os
import random
import resource
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import torch

CLOCKS = {"seconds", "pictures_per_second"}
CONTEXT = multiprocessing.get_context("forkserver")  # a clean process that has imported, and never used, PyTorch
CONTEXT.set_forkserver_preload(["codecswap.training.run", "codecswap.report", "pytorch_optimizer"])

Breakage = Callable[[Path], None]
"""Called in the new process with the run's folder, before the command."""


def start(command: str, folder: Path, argv: Sequence[str], breakage: Breakage | None = None) -> ForkServerProcess:
    """Run ``codecswap COMMAND ... --save_dir FOLDER`` in a process; what it says goes to ``said(folder)``."""
    process = CONTEXT.Process(target=_child, args=(command, folder, list(argv), breakage))
    process.start()
    return process


def finish(process: ForkServerProcess) -> int:
    """Wait for a process; returns its exit code, -n for signal n."""
    process.join(300)
    assert process.exitcode is not None, "it hangs"
    return process.exitcode


def said(folder: Path) -> str:
    """All that the runs in a folder have printed."""
    return folder.with_name(f"{folder.name}.txt").read_text()


def _child(command: str, folder: Path, argv: list[str], breakage: Breakage | None) -> None:
    output = os.open(folder.with_name(f"{folder.name}.txt"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    torch.set_num_threads(1)
    multiprocessing.set_start_method(
        "fork", force=True
    )  # as in a user's process: else the pictures' readers get a server too
    for signum in (signal.SIGINT, signal.SIGTERM):  # as a shell starts it
        signal.signal(signum, signal.default_int_handler if signum == signal.SIGINT else signal.SIG_DFL)
    from codecswap.cli import run

    if breakage:
        breakage(folder)
    code = run(command, [*argv, "--save_dir", str(folder)])
    sys.stdout.flush()
    sys.exit(code)


class KillAtWrite:
    """SIGKILL itself at the n-th time that a file of the run is opened for writing or renamed, or just after."""

    def __init__(self, number: int, delay: float) -> None:
        self.number, self.delay = number, delay

    def __call__(self, folder: Path) -> None:
        def hook(event: str, arguments: tuple[Any, ...]) -> None:
            writes = (event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR)) or event == "os.rename"
            if not writes or not str(arguments[0]).startswith(str(folder)):
                return
            self.number -= 1
            if self.number == 0:
                threading.Timer(self.delay, os.kill, (os.getpid(), signal.SIGKILL)).start()

        sys.addaudithook(hook)


class DiskFull:
    """No file may be longer than so many bytes: what a full disk does to a checkpoint, and not to a row of figures."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, folder: Path) -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (self.size, self.size))


class Nobody:
    """Root without its rights: permissions hold for it as for anybody."""

    def __call__(self, folder: Path) -> None:
        header = (ctypes.c_uint32 * 2)(0x20080522, 0)
        rights = (ctypes.c_uint32 * 6)()
        assert ctypes.CDLL(None, use_errno=True).capset(header, rights) == 0


class Plan:
    """How a run is to be killed: at a random moment, or at a random write."""

    def __init__(self, rng: random.Random, seconds: float, writes: int) -> None:
        self.after = rng.uniform(0.2, 0.7 * seconds) if rng.random() < 0.5 else None
        self.breakage = None if self.after else KillAtWrite(rng.randint(1, writes), rng.uniform(0, 0.01))

    def carry_out(self, command: str, folder: Path, argv: Sequence[str]) -> int:
        process = start(command, folder, argv, self.breakage)
        if self.after:
            process.join(self.after)
            process.kill()
        return finish(process)


def rows(folder: Path) -> list[dict[str, str]]:
    """metrics.csv without its clocks."""
    with (folder / "metrics.csv").open() as file:
        return [{key: value for key, value in row.items() if key not in CLOCKS} for row in csv.DictReader(file)]


def reconstructions(folder: Path) -> dict[str, bytes]:
    """All reconstructions but those that a resumed run draws of its start."""
    paths = [path for path in folder.rglob("*.png") if not path.parent.name.startswith("pre_")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def assert_same(mine: Path, undisturbed: Path, files: Sequence[str]) -> None:
    """Two runs ended alike: weights, optimizer, metrics and pictures."""
    for name in files:
        one, other = (torch.load(folder / name, weights_only=True) for folder in (mine, undisturbed))
        for key in ("epoch", "batch", "global_step", "best", "student_sha256", "lr_schedulers", "rate_weight"):
            assert one[key] == other[key], f"{name}: {key}"
        for a, b in zip(_tensors(one["optimizer_states"]), _tensors(other["optimizer_states"]), strict=True):
            assert torch.equal(a, b), f"{name}: the optimizer's state"
    assert rows(mine) == rows(undisturbed)
    assert reconstructions(mine) == reconstructions(undisturbed)
    assert not [path for path in mine.rglob("*") if path.name.endswith((".part", ".tmp"))], "half a file is left"


def _tensors(state: Any) -> list[torch.Tensor]:
    if isinstance(state, torch.Tensor):
        return [state]
    inner = state.values() if isinstance(state, dict) else state if isinstance(state, list | tuple) else ()
    return [tensor for value in inner for tensor in _tensors(value)]
