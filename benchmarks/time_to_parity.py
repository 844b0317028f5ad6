"""How good the student is over time, from the moment of the swap: the recipe as usually written, and ours with each start.

    python -m benchmarks.time_to_parity                                        # small: two minutes on embedded data
    python -m benchmarks.time_to_parity --teacher tiny.pth --images DIR --held_out DIR --seconds 3600 --ours_seconds 600

Contenders take turns of a few seconds in one process, so the machine's noise falls on all alike. A contender's clock
counts its start (calibration included) and its steps; measuring is not counted. Writes OUTPUT.csv and OUTPUT.png.
"""

import argparse
import csv
import time
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from benchmarks.recipe import Recipe
from torch import Tensor

from codecswap.codecs.factorized import FactorizedPrior
from codecswap.codecs.protocol import encode
from codecswap.codecs.source import load_codec
from codecswap.console import show_table
from codecswap.data.datasets import EpochSampler, TrainingPictures
from codecswap.data.discovery import list_pictures
from codecswap.data.transforms import first_readable
from codecswap.metrics import psnr, to_8_bits
from codecswap.swaps.apply import swap
from codecswap.swaps.calibrate import calibrate
from codecswap.training.losses import reconstruction_loss
from codecswap.training.student import TeacherStudent


def batches(paths: list[Path], size: int) -> Iterator[Tensor]:
    """Random crops, for ever; the same ones for every contender."""
    dataset, sampler = TrainingPictures(paths, seed=0, prepared=False), EpochSampler(len(paths), size, seed=0)
    for epoch in range(1_000_000):
        sampler.set_epoch(epoch)
        keys = list(sampler)
        for start in range(0, len(keys), size):
            yield torch.stack([dataset[key].image for key in keys[start : start + size]])


class Ours:
    """Our step with a given start."""

    def __init__(self, teacher: FactorizedPrior, start: str, calibration: Tensor, lr: float, warmup: int) -> None:
        self.student, _ = swap(teacher, "upsample", init="random" if start == "random" else "weights")
        if start == "calibrated":
            with torch.no_grad():
                latents = torch.cat([encode(teacher, part) for part in calibration.split(8)])
            calibrate(teacher, self.student, latents)
        self.pair = TeacherStudent(teacher, self.student).to(memory_format=torch.channels_last)
        self.trained = [p for p in self.student.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(self.trained, lr=lr)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda s: min(1.0, (s + 1) / (warmup + 1)))

    def step(self, x: Tensor) -> None:
        """Train on one batch."""
        decoded = self.pair(x, distill=True)
        loss = reconstruction_loss(decoded.student, decoded.target)
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.trained, 1.0)
        self.optimizer.step()
        self.schedule.step()


class Exact:
    """The subpixel replacement: nothing to train."""

    def __init__(self, teacher: FactorizedPrior) -> None:
        self.student, _ = swap(teacher, "subpixel")


class Contender:
    """One way to train, with its own clock, pictures and curve."""

    def __init__(self, name: str, make, pictures: Iterator[Tensor], limit: float) -> None:
        began = time.perf_counter()
        self.runner = make()
        self.clock, self.steps = time.perf_counter() - began, 0
        self.name, self.pictures, self.limit = name, pictures, limit
        self.curve: list[tuple[float, int, float]] = []

    def turn(self, seconds: float) -> None:
        """Train for about so many seconds."""
        until = self.clock + seconds
        while self.clock < min(until, self.limit):
            x = next(self.pictures)
            began = time.perf_counter()
            self.runner.step(x)
            self.clock += time.perf_counter() - began
            self.steps += 1

    @torch.no_grad()
    def measure(self, latents: Tensor, wanted: Tensor) -> float:
        """PSNR against held-out pictures, mean in dB."""
        shown = torch.cat([self.runner.student.g_s(part) for part in latents.split(8)])
        score = psnr(to_8_bits(shown), wanted).mean().item()
        self.curve.append((self.clock, self.steps, score))
        return score


def main() -> None:
    """Let the contenders take turns, then print, write and draw."""
    photos = Path(str(files("codecswap") / "assets" / "photos"))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--teacher", default="tiny")
    parser.add_argument("--images", default=photos / "train")
    parser.add_argument("--held_out", default=photos / "val")
    parser.add_argument("--seconds", type=float, default=40, help="of the recipe")
    parser.add_argument("--ours_seconds", type=float, default=20, help="of each of ours")
    parser.add_argument("--turn", type=float, default=10)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--output", type=Path, default=Path("time_to_parity"))
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    teacher = load_codec(options.teacher)
    train = list_pictures(options.images, "--images")
    calibration, _ = first_readable(train, 256)
    wanted, _ = first_readable(list_pictures(options.held_out, "--held_out"), 32)
    with torch.no_grad():
        latents = encode(teacher, wanted)
        parity = psnr(to_8_bits(teacher.g_s(latents)), wanted).mean().item()

    def ours(start: str, lr: float = 1e-4, warmup: int = 0):
        return lambda: Ours(load_codec(options.teacher), start, calibration, lr, warmup)

    torch.manual_seed(0)
    makers = {
        "recipe (Kaiming, unfolded, both models whole)": lambda: Recipe(load_codec(options.teacher)),
        "ours, random start": ours("random"),
        "ours, weights": ours("weights", warmup=50),
        "ours, calibrated": ours("calibrated", warmup=50),
    }
    contenders = [
        Contender(
            name, make, batches(train, options.batch_size), options.ours_seconds if "ours" in name else options.seconds
        )
        for name, make in makers.items()
    ]
    exact = Contender("subpixel, no training", lambda: Exact(teacher), iter(()), 0)
    exact.measure(latents, wanted)
    for contender in contenders:
        contender.measure(latents, wanted)
    turn = options.turn
    while any(contender.clock < contender.limit for contender in contenders):
        for contender in contenders:
            if contender.clock < contender.limit:
                contender.turn(turn)
                contender.measure(latents, wanted)
        turn *= 1.15
        write(options.output, parity, [*contenders, exact])
    rows = [
        [
            c.name,
            f"{c.curve[0][2]:.2f}",
            f"{c.curve[0][0]:.1f}",
            f"{c.curve[-1][2]:.2f}",
            f"{c.clock:.0f}",
            str(c.steps),
        ]
        for c in [*contenders, exact]
    ]
    title = f"{options.teacher}: teacher {parity:.2f} dB on {len(wanted)} held-out pictures, {torch.get_num_threads()} threads"
    show_table(title, ["", "start, dB", "after, s", "end, dB", "after, s", "steps"], rows)
    best = max(score for _, _, score in contenders[0].curve)
    when = next(clock for clock, _, score in contenders[3].curve if score >= best)
    print(
        f"The recipe's best in {contenders[0].clock:.0f} s is {best:.2f} dB; the calibrated start has it after {when:.1f} s."
    )


def write(output: Path, parity: float, contenders: list[Contender]) -> None:
    """Curves as CSV and picture."""
    with output.with_suffix(".csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["contender", "seconds", "steps", "psnr"])
        writer.writerows([c.name, *point] for c in contenders for point in c.curve)
    figure, axis = plt.subplots(figsize=(8, 4.5))
    axis.axhline(parity, color="black", linestyle="--", label="teacher, and subpixel or masked at once")
    for contender in contenders[:-1]:
        axis.plot(
            [max(p[0], 0.1) for p in contender.curve], [p[2] for p in contender.curve], marker=".", label=contender.name
        )
    axis.set(xscale="log", xlabel="seconds from the swap", ylabel="PSNR against held-out pictures, dB")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(output.with_suffix(".png"), dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    main()
