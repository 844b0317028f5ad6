"""Every form of GDN: what it costs before and after a budget of training, in multiply-adds, and in 8 bits.

    python -m benchmarks.gdn                                   # embedded data, half a minute for each form that trains
    python -m benchmarks.gdn --teacher small.pth --images DIR --held_out DIR --minutes 3
    python -m benchmarks.gdn --part encoder                    # the same for the encoder: symbols, bits and PSNR

The minutes are processor time of one thread; two thirds distill, one third fine-tunes (`codecswap.stages`). All
figures are of pictures that nothing was fitted to or trained on. Decoders' latents are the teacher's: equal bits.
"""

import argparse
import math
import tempfile
import time
from importlib.resources import files
from pathlib import Path

import torch
from torch import Tensor

from codecswap.advice.advise import multiply_adds
from codecswap.codecs.protocol import Codec, encode
from codecswap.codecs.source import load_codec
from codecswap.codecs.torch_codec import TorchCodec
from codecswap.console import say, show_table
from codecswap.data.discovery import list_pictures
from codecswap.data.transforms import first_readable
from codecswap.export.codec import quantize
from codecswap.inference.runtime import OnnxCodec
from codecswap.metrics import psnr, to_8_bits
from codecswap.swaps import GDN_SWAPS, UNCHANGED
from codecswap.swaps.apply import PARTS, swap, swap_gdn
from codecswap.swaps.calibrate import calibrate
from codecswap.swaps.closed_form import Loss, measure, swap_and_fit
from codecswap.training.loop import CLIP, RATE_GAIN, RATE_START
from codecswap.training.losses import reconstruction_loss
from codecswap.training.rotated_adam import RotatedAdam, brightness_directions
from codecswap.training.student import LatentCost, TeacherStudent

MARKS = (1 / 3, 2 / 3, 1.0)
"""Shares of the budget after which the curve has a point; distillation ends at two thirds."""


def start(teacher: Codec, name: str, part: str, crops: Tensor, tolerance: float) -> tuple[Codec, str]:
    """A decoder of subpixel convolutions (a teacher's own, for an encoder) with a form of GDN, fitted in closed form."""
    pieces = None
    if name != UNCHANGED and GDN_SWAPS[name].sizes:
        _, _, pieces = swap_and_fit(teacher, name, part, crops[:32], tolerance=tolerance)
    student, _ = swap_gdn(swap(teacher, "subpixel")[0], name, part, pieces=pieces)
    inputs = {"g_a": crops, "g_s": torch.cat([encode(teacher, some) for some in crops.split(8)])}
    for transform in PARTS[part]:
        calibrate(teacher, student, inputs[transform], transform=transform)
    return student, name if pieces is None else f"{name}, {pieces} pieces"


class Trainer:
    """Distils, then fine-tunes, within a budget of processor time."""

    def __init__(
        self, teacher: Codec, student: Codec, part: str, crops: Tensor, seconds: float, options: argparse.Namespace
    ):
        self.pair = TeacherStudent(teacher, student, whole_decoder=True, part=part)
        if self.pair.trains_encoder:
            self.pair.latent_cost = LatentCost(teacher, crops[:16])
        self.crops, self.seconds, self.batch = crops, seconds, options.batch_size
        self.rates = {True: options.lr, False: options.lr / 2}
        trained = {name: p for name, p in student.named_parameters() if p.requires_grad}
        self.trained = list(trained.values())
        directions = brightness_directions(student, crops[:8], encode(teacher, crops[:8]))
        self.optimizer = RotatedAdam([{"params": self.trained}], {trained[k]: v for k, v in directions.items()})
        self.spent, self.steps, self.rate_weight = 0.0, 0, RATE_START
        self.order: list[int] = []

    def until(self, share: float, distill: bool) -> None:
        """Train until this share of the budget is spent."""
        while self.spent < share * self.seconds:
            began = time.process_time()
            if len(self.order) < self.batch:
                self.order = torch.randperm(len(self.crops)).tolist()
            chosen, self.order = self.order[: self.batch], self.order[self.batch :]
            decoded = self.pair(self.crops[chosen], distill=distill)
            loss = reconstruction_loss(decoded.student, decoded.target)
            if decoded.latents is not None:
                loss = loss + decoded.latents
            if decoded.bpp is not None and decoded.teacher_bpp is not None:
                loss = loss + self.rate_weight * decoded.bpp
                self.rate_weight *= math.exp(
                    RATE_GAIN * max(-1, min(1, (decoded.bpp / decoded.teacher_bpp - 1).item()))
                )
            rise = min(1.0, (self.steps + 1) / 20)
            for group in self.optimizer.param_groups:
                group["lr"] = (
                    self.rates[distill] * rise * 0.5 * (1 + math.cos(math.pi * min(1, self.spent / self.seconds)))
                )
            self.optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.trained, CLIP)
            self.optimizer.step()
            self.steps += 1
            self.spent += time.process_time() - began


def in_8_bits(codec: Codec, calibration: Tensor, held_out: Tensor) -> float:
    """PSNR of a codec whose decoder is INT8, mean over pictures."""
    with tempfile.TemporaryDirectory() as folder:
        quantize(codec, folder, calibration_images=[x.numpy() for x in calibration])
        exact, plain = OnnxCodec(Path(folder), reference=True), TorchCodec(codec)
        scores = []
        for x in held_out:
            shown = exact.synthesize(plain.tables.to_symbols(plain.analyze(x.numpy())))
            scores.append(psnr(to_8_bits(torch.from_numpy(shown))[None], x[None]).item())
    return sum(scores) / len(scores)


def cells(found: Loss, part: str) -> str:
    """A measurement in few characters."""
    if part == "decoder":
        return f"{found.psnr:.3f}"
    return f"{found.psnr:.3f}, {found.percent:+.2f} % bits, {found.symbols:.2%} symbols"


def main() -> None:
    """Take the forms one after the other, then print."""
    photos = Path(str(files("codecswap") / "assets" / "photos"))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--teacher", default="tiny")
    parser.add_argument("--images", default=photos / "train")
    parser.add_argument("--held_out", default=photos / "val")
    parser.add_argument("--part", choices=("decoder", "encoder"), default="decoder")
    parser.add_argument(
        "--forms", default=",".join([UNCHANGED, *GDN_SWAPS]), help="names of --gdn, separated by commas"
    )
    parser.add_argument("--minutes", type=float, default=0.5, help="processor time for each form that trains")
    parser.add_argument("--count", type=int, default=256, help="pictures to fit to and to train on, at most")
    parser.add_argument("--measured", type=int, default=32, help="pictures to measure on, at most")
    parser.add_argument("--tolerance", type=float, default=0.01)
    parser.add_argument("--batch_size", type=int, default=4)
    parser.add_argument("--lr", type=float, default=1e-4, help="of distillation; fine-tuning has half of it")
    options = parser.parse_args()
    torch.set_num_threads(1)
    teacher = load_codec(options.teacher)
    crops, _ = first_readable(list_pictures(options.images, "--images"), options.count)
    held_out, _ = first_readable(list_pictures(options.held_out, "--held_out"), options.measured)
    int8 = options.part == "decoder"
    pictures, part, rows = held_out.split(4), options.part, []
    for name in options.forms.split(","):
        torch.manual_seed(0)
        student, label = start(teacher, name, part, crops, options.tolerance)
        transform = student.g_a if part == "encoder" else student.g_s
        like = held_out[:1] if part == "encoder" else encode(teacher, held_out[:1])
        curve = [cells(measure(teacher, student, pictures), part)]
        steps = 0
        if name != UNCHANGED and GDN_SWAPS[name].trained and options.minutes:
            trainer = Trainer(teacher, student, part, crops, 60 * options.minutes, options)
            for mark in MARKS:
                trainer.until(mark, distill=mark < 0.9)
                curve.append(cells(measure(teacher, student, pictures), part))
            steps = trainer.steps
            student.requires_grad_(False)
        costs = multiply_adds(transform, like) / (teacher.factor**2 if part == "encoder" else 1)
        row = [label, f"{costs / 1e3:.1f}", curve[0], " ".join(curve[1:]) or "-", str(steps or "-")]
        if int8:
            found = in_8_bits(student, crops[:16], held_out[:8])
            row.append(f"{measure(teacher, student, held_out[:8].split(4)).psnr - found:.3f}")
        rows.append(row)
        say(" | ".join(row))
    known = measure(teacher, teacher, pictures).psnr
    title = f"{options.teacher}, {part}: teacher {known:.3f} dB on {len(held_out)} pictures, {options.minutes} minutes a form"
    shares = ", ".join(f"{mark:.0%}" for mark in MARKS)
    columns = ["--gdn", "10^3 multiply-adds/pixel", "start, dB", f"after {shares}", "steps"]
    show_table(title, columns + (["lost in INT8, dB"] if int8 else []), rows)


if __name__ == "__main__":
    main()
