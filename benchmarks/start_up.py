"""Seconds from the start of `codecswap distill` to an error, and to the first step.

    python -m benchmarks.start_up [--rounds 5]

Runs with a folder that is not there, and with the package's photographs and codec, by turns. The second is timed until its last
line before the training loop: PyTorch and Lightning are imported, teacher and student are built from the kernels (``--init
weights``: calibration on pictures is work, not start-up), and the first pictures are read. Then it is stopped.
"""

import argparse
import statistics
import subprocess
import sys
import time
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil

from codecswap.console import show_table

LAST = "Pictures:"
"""How the last line before the loop begins."""


def timed(folder: str, save: Path) -> tuple[float, float]:
    """Seconds by the clock and of processor time until the line, or until the end."""
    words = ["distill", "--teacher", "tiny", "--coco_dir", folder, "--save_dir", str(save), "--init", "weights"]
    start = time.perf_counter()
    run = subprocess.Popen(
        [sys.executable, "-u", "-m", "codecswap", *words, "--val_ratio", "0.5"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert run.stdout
    process, used = psutil.Process(run.pid), 0.0
    for line in run.stdout:
        seconds, used = time.perf_counter() - start, sum(process.cpu_times()[:2])
        if line.startswith(LAST):
            break
    run.kill()
    run.communicate()
    return seconds, used


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    starts = {
        "a folder that is not there": "/not there",
        "a good start": str(files("codecswap") / "assets" / "photos"),
    }
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in starts}
    with TemporaryDirectory() as save:
        for _ in range(options.rounds):
            for name, folder in starts.items():
                found[name].append(timed(folder, Path(save, "run")))
    rows = []
    for name, values in found.items():
        clock, used = zip(*values, strict=True)
        rows.append(
            [
                name,
                f"{statistics.median(clock):.2f} ({min(clock):.2f} to {max(clock):.2f})",
                f"{statistics.median(used):.2f}",
            ]
        )
    show_table(f"median of {options.rounds} rounds", ["start", "seconds (range)", "processor seconds"], rows)


if __name__ == "__main__":
    main()
