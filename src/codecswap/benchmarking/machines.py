"""Where the runner runs, and what machine that is."""

import os
import platform
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from codecswap.benchmarking import runner

Ask = Callable[[bytes, int], tuple[bytes, str]]
"""Sends a request to a new runner with a number of threads; returns its answer, and why there is none."""


def ask_here(request: bytes, threads: int) -> tuple[bytes, str]:
    """Run the runner in a process of its own on this machine."""
    limits = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
    command = [sys.executable, str(Path(runner.__file__))]
    done = subprocess.run(command, input=request, capture_output=True, env=os.environ | limits)
    return done.stdout, ended(done.returncode, done.stderr)


def ended(code: int, errors: bytes) -> str:
    """How a process ended that gave no answer, as a clause."""
    if code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        return f"its process was ended by {name}" + (" (too little memory?)" if name == "SIGKILL" else "")
    last = errors.decode("utf-8", "replace").strip().splitlines()[-1:]
    return f"its process ended with code {code}" + "".join(f" ({line[:200]})" for line in last)


def describe_machine() -> str:
    """Processor, cores and system, without the machine's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        lines = []
    model = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())
    return f"{model}, {os.cpu_count()} cores, {platform.system()}"
