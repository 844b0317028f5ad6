"""The whole recipe on the codec and photographs inside the package, and an exported decoder."""

from collections.abc import Iterator
from importlib.resources import as_file, files
from pathlib import Path
from shlex import quote
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from codecswap.codecs.protocol import Codec
from codecswap.codecs.source import EMBEDDED, load_codec
from codecswap.coding.files import decode_file, encode_file
from codecswap.config import DemoOptions, DistillOptions, FinetuneOptions
from codecswap.console import say, show_table
from codecswap.data.discovery import scan
from codecswap.data.pictures import to_picture
from codecswap.data.transforms import whole_picture
from codecswap.errors import UserError
from codecswap.evaluation.measure import code, show
from codecswap.inference.runtime import OnnxCodec
from codecswap.metrics import ms_ssim, psnr
from codecswap.report.contact_sheet import contact_sheet
from codecswap.report.writing import write_report
from codecswap.students.checkpoint import read_student
from codecswap.swaps import SWAPS
from codecswap.swaps.apply import swap
from codecswap.training.run import train

TILE = 256
"""Side of the tiles that training pictures are cut into; training crops 224 from them."""
LEARNING_RATE = 2e-4
"""Learning rate of distillation, higher than the default because the demo is short. Fine-tuning uses its default."""
GRID = (3, 2)
"""Tiles along a photograph's long and short side."""


def main(options: DemoOptions) -> int:
    """``codecswap demo``: about five minutes on two cores, without a network."""
    folder = Path(options.output)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output {folder} cannot be written to ({error.strerror}): name another folder.") from error
    with as_file(files("codecswap") / "assets" / "photos") as photos:
        say("1/7  Cut the embedded photographs into training tiles.")
        pictures = folder / "pictures"
        for side in ("train", "val"):
            cut_tiles(photos / side, pictures / side)
        common: dict[str, Any] = {
            "teacher": EMBEDDED,
            "coco_dir": str(pictures),
            "batch_size": 6,
            "recon_count": 8,
            "recon_every": 4,
            "num_workers": 1,
            "warmup_steps": 13,
        }
        say("\n2/7  Swap: the student before any training.")
        begin = DistillOptions(**common, save_dir=str(folder / "start"), epochs=0, train_igdn=True, lr=LEARNING_RATE)
        train(begin)
        say("\n3/7  Distill: the student learns its teacher's reconstructions.")
        distill = begin.replace(
            resume=str(folder / "start" / "last.pt"),
            save_dir=str(folder / "checkpoints"),
            epochs=options.distil_epochs,
        )
        train(distill)
        say("\n4/7  Fine-tune: the student learns the pictures themselves.")
        tune = FinetuneOptions(
            **common,
            save_dir=str(folder / "checkpoints_ft"),
            epochs=options.finetune_epochs,
            resume_student=str(folder / "checkpoints" / "best_msssim.pt"),
        )
        train(tune)
        say("\n5/7  Compare on photographs that training never saw.")
        teacher = load_codec(EMBEDDED)
        before = read_student(folder / "start" / "last.pt").student
        students = {
            "upsample, before training": before,
            "upsample, distilled": read_student(folder / "checkpoints" / "best_msssim.pt").student,
            "upsample, fine-tuned": read_student(folder / "checkpoints_ft" / "ft_best.pt").student,
        } | {f"{s.name}, no training": swap(teacher, s.name)[0] for s in SWAPS.values() if s.exact}
        compare(teacher, students, [whole_picture(path) for path in scan(photos / "val")], folder / "contact_sheet.png")
    say("\n6/7  Write the report.")
    page = folder / "report.html"
    for line in write_report([str(folder / "checkpoints"), str(folder / "checkpoints_ft")], page):
        say(line)
    say("\n7/7  Export the decoder to ship: exact, nothing to train, no ConvTranspose.")
    ship(folder)
    say(f"Open {page} in a browser: the verdict, and the student's way towards it.")
    say(f"Look at {folder / 'contact_sheet.png'}: the original, the teacher, and the student's way towards it.")
    return 0


def cut_tiles(source: Path, target: Path) -> None:
    """Cut each photograph into 3x2 square tiles that cover it."""
    target.mkdir(parents=True, exist_ok=True)
    for path in scan(source):
        with Image.open(path) as photo:
            for index, box in enumerate(_boxes(*photo.size)):
                photo.crop(box).save(target / f"{path.stem}_{index}.png")


def _boxes(width: int, height: int) -> Iterator[tuple[int, int, int, int]]:
    across, down = GRID if width >= height else GRID[::-1]
    for row in range(down):
        for column in range(across):
            left = (width - TILE) * column // (across - 1)
            top = (height - TILE) * row // (down - 1)
            yield left, top, left + TILE, top + TILE


def ship(folder: Path) -> None:
    """Export the embedded codec with its exact ``subpixel`` decoder, send a photograph through it, and say how to use it."""
    codec = folder / "codec"
    try:
        from codecswap.export.codec import export
    except ModuleNotFoundError as error:
        say(f"This needs {error.name}: pip install 'codecswap[deploy]', then run the command that the report names.")
        return
    export(swap(load_codec(EMBEDDED), "subpixel")[0], codec, name=EMBEDDED)
    say(f"Written: {codec}.")
    coded, decoded = folder / "picture.csw", folder / "picture.png"
    with as_file(files("codecswap") / "assets" / "photos" / "val") as photos:
        source = scan(photos)[0]
        runtime = OnnxCodec(codec)
        size = encode_file(runtime, source, coded)
        decode_file(runtime, coded, decoded)
        decibels = psnr(whole_picture(decoded)[None], whole_picture(source)[None]).item()
    say(f"{coded}: {size}.")
    say(
        f"{decoded}: decoded from these bytes with ONNX Runtime, {decibels:.2f} dB. Your own pictures (no PyTorch needed):"
    )
    say(f"  codecswap encode --codec {quote(str(codec))} picture.png -o picture.csw")
    say(f"  codecswap decode --codec {quote(str(codec))} picture.csw -o picture.png")


@torch.no_grad()
def compare(teacher: Codec, students: dict[str, Codec], pictures: list[Tensor], sheet: Path) -> None:
    """Print teacher and students (sharing its latents) against whole pictures, and draw the contact sheet."""
    scores: dict[str, list[tuple[float, float]]] = {name: [] for name in ("teacher", *students)}
    rates, rows = [], []
    for picture in pictures:
        x = picture[None]
        bpp, latents = code(teacher, x)
        rates.append(bpp)
        decoded = {"teacher": show(teacher, latents, x)} | {
            name: show(codec, latents, x) for name, codec in students.items()
        }
        for name, y in decoded.items():
            scores[name].append((psnr(y, x).item(), ms_ssim(y, x).item()))
        drawn = [name for name in decoded if "no training" not in name]
        rows.append([(_cell(x), "")] + [(_cell(decoded[name]), f"{scores[name][-1][0]:.2f} dB") for name in drawn])
    bpp = sum(rates) / len(rates)
    table = []
    for name, values in scores.items():
        decibels, similarity = (sum(column) / len(values) for column in zip(*values, strict=True))
        table.append([name, f"{decibels:.2f}", f"{similarity:.4f}", f"{bpp:.3f}"])
    show_table(f"{len(pictures)} photographs of 768x512", ["decoder", "PSNR, dB", "MS-SSIM", "bits per pixel"], table)
    titles = ["original", "teacher", "student before training", "distilled", "fine-tuned"]
    contact_sheet(sheet, titles, rows)


def _cell(x: Tensor) -> Image.Image:
    """The middle of a picture, small enough to set several side by side."""
    side = 288
    top, left = (x.shape[-2] - side) // 2, (x.shape[-1] - side) // 2
    return to_picture(x[0, :, top : top + side, left : left + side].cpu().numpy(), (side, side))
