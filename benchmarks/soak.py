"""A long run in fast-forward: does training leak memory, file handles or processes?

    python -m benchmarks.soak --steps 10000

Distillation, one picture a step, with everything that a real run does besides: epochs with validation, checkpoints within and
between them, reconstructions, worker processes. At every hundredth step the resident memory of the process and its workers is
read, with the number of open files and of processes. Prints the slopes over the last four fifths, and the counts.
"""

import argparse
import json
import tempfile
from importlib.resources import files
from pathlib import Path

import lightning.pytorch as L
import numpy as np
import psutil
import torch
from PIL import Image
from safetensors.torch import save_file

from codecswap.cli import run
from codecswap.codecs.factorized import FactorizedPrior
from codecswap.data.discovery import scan
from codecswap.training import loop as training

EVERY = 100
"""Steps between two readings."""
PICTURES = 200
"""Steps in an epoch."""


class Meter(L.Callback):
    """Reads what the process holds while it trains."""

    def __init__(self) -> None:
        self.process = psutil.Process()
        self.readings: list[tuple[int, float, int, int]] = []

    def on_train_batch_end(self, trainer: L.Trainer, *args: object) -> None:
        """Step, MB resident in all processes, open files, processes."""
        if trainer.global_step % EVERY:
            return
        family = [self.process, *self.process.children(recursive=True)]
        memory = sum(member.memory_info().rss for member in family) / 2**20
        self.readings.append((trainer.global_step, memory, self.process.num_fds(), len(family)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--small", action="store_true", help="a codec of 8 channels instead of the embedded one")
    options = parser.parse_args()
    torch.set_num_threads(1)
    meter = Meter()
    make = training._trainer
    training._trainer = lambda o, e, f, callbacks, w: make(o, e, f, [*callbacks, meter], w)  # type: ignore[assignment]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_pictures(folder / "pictures")
        teacher = "tiny"
        if options.small:
            torch.manual_seed(0)
            codec = FactorizedPrior(8, 8)
            codec.update()
            teacher = str(folder / "small.safetensors")
            save_file(codec.state_dict(), teacher)
        arguments = {
            "teacher": teacher,
            "coco_dir": folder / "pictures",
            "save_dir": folder / "run",
            "epochs": -(-options.steps // PICTURES),
            "batch_size": 1,
            "init": "weights",
            "save_every_steps": 50,
            "recon_every": 5,
            "recon_count": 4,
            "num_workers": 2,
            "accelerator": "cpu",
            "train_igdn": "true",
        }
        code = run("distill", [f"--{key}={value}" for key, value in arguments.items()])
    if code:
        raise SystemExit(code)
    print(json.dumps(summarize(meter.readings), indent=2))


def write_pictures(folder: Path) -> None:
    """Crops of 224x224 from the embedded photographs: as many for training as an epoch has steps, and four."""
    photos = scan(Path(str(files("codecswap") / "assets" / "photos" / "train")))
    for side, count in (("train", PICTURES), ("val", 4)):
        (folder / side).mkdir(parents=True)
        for index in range(count):
            with Image.open(photos[index % len(photos)]) as photo:
                left, top = (37 * index) % (photo.width - 224), (53 * index) % (photo.height - 224)
                photo.crop((left, top, left + 224, top + 224)).save(folder / side / f"{index}.jpg", quality=90)


def summarize(readings: list[tuple[int, float, int, int]]) -> dict[str, float]:
    """Slopes per 1,000 steps after the first fifth, and the extremes."""
    steps, memory, handles, processes = np.array(readings[len(readings) // 5 :], float).T
    return {
        "steps": int(readings[-1][0]),
        "memory_mb_at_the_end": round(float(memory[-1]), 1),
        "memory_mb_per_1000_steps": round(float(np.polyfit(steps, memory, 1)[0] * 1000), 3),
        "open_files": [int(handles.min()), int(handles.max())],
        "processes": [int(processes.min()), int(processes.max())],
        "children_left": len(psutil.Process().children(recursive=True)),
    }


if __name__ == "__main__":
    main()
