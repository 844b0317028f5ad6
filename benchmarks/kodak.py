"""Figures on Kodak's 24 pictures: teachers, students, decoders in float and in integers; JPEG, WebP and AVIF at equal bits.

python -m benchmarks.kodak --pictures DIR [--teachers tiny small.pth] [--checkpoints demo_run/start/last.pt] [--ablations]
python -m benchmarks.kodak --pictures DIR [--teachers tiny small.pth] --encoders    # instead: encoders in fewer bits

Prints the Markdown tables of README.md, docs/quantization.md and docs/benchmarks.md. Real bytes, means over pictures;
calibration as `codecswap quantize` has it by default, on the photographs inside the package. With four teachers or more:
BD-rate against float.
"""

import argparse
import math
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from codecswap.codecs.protocol import Codec
from codecswap.codecs.source import EMBEDDED, EMBEDDED_HYPERPRIOR, Teacher, fingerprint
from codecswap.codecs.torch_codec import TorchCodec
from codecswap.console import say, track
from codecswap.data.discovery import list_pictures
from codecswap.data.transforms import whole_picture
from codecswap.evaluation.evaluate import evaluate, measure_all
from codecswap.evaluation.measure import Exported, TeacherAndStudents
from codecswap.evaluation.rate_distortion import bd_rate
from codecswap.evaluation.result import CodecResult
from codecswap.export.codec import export, quantize
from codecswap.inference.folder import read_folder, write_folder
from codecswap.inference.runtime import OnnxCodec
from codecswap.processes import cores
from codecswap.students.checkpoint import read_student
from codecswap.swaps.apply import swap

QUALITIES = (5, 10, 20, 30, 45, 60, 75, 85, 95)
"""Qualities of JPEG, WebP and AVIF; between them PSNR is interpolated over the logarithm of the rate, for each picture."""
FIXED = 512
"""Side of a folder of fixed size: Kodak's pictures, upright and not, are computed in two tiles of it."""
FLOAT = "`subpixel`, float32"
INTEGERS: dict[str, dict[str, Any]] = {
    "INT8": {},
    "INT8, `--weight_bits 7`": {"weight_bits": 7},
    "`--precision mixed`": {"precision": "mixed"},
    "`--precision w8a16`": {"precision": "w8a16"},
}
ABLATIONS: dict[str, dict[str, Any]] = {
    "INT8 without `--refit`": {"refit": False},
    "INT8 without `--refit` and `--equalize`": {"refit": False, "equalize": False},
    "INT8, `--replacement none`": {"replacement": "none"},
    f"INT8, `--replacement masked --height {FIXED} --width {FIXED}`": {
        "replacement": "masked",
        "height": FIXED,
        "width": FIXED,
    },
}
ENCODERS: dict[str, dict[str, Any]] = {
    "float32": {"fp16": False},
    "float16": {"fp16": True},
    "`w8a16`": {"precision": "w8a16"},
    "`mixed`": {"precision": "mixed"},
    "`w8a8`": {},
    "`w8a8 --weight_bits 7`": {"weight_bits": 7},
}
Pictures = Sequence[tuple[str, Tensor]]


def main() -> None:
    """Make, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=Path, required=True, help="folder of Kodak's pictures")
    parser.add_argument(
        "--teachers", nargs="+", default=["tiny"], help="codec files, tiny or tiny_hyper (codecs of one rate)"
    )
    parser.add_argument("--checkpoints", nargs="*", default=[], help="students of these teachers")
    parser.add_argument("--ablations", action="store_true", help="quantize the first teacher in other ways too")
    parser.add_argument("--encoders", action="store_true", help="measure quantized encoders instead, all else in float")
    parser.add_argument("--threads", type=int, default=cores())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    paths = list_pictures(str(options.pictures), "--pictures")
    pictures = [(path.name, whole_picture(path)) for path in paths]
    if options.encoders:
        return show_encoders(options.teachers, pictures, options.threads)
    students = {"/".join(Path(path).parts[-2:]): read_student(path) for path in options.checkpoints}
    found: dict[str, list[CodecResult]] = {}
    sizes: dict[str, list[float]] = {}
    for index, path in enumerate(options.teachers):
        codec = Teacher(path).load()
        name = name_of(path, codec)
        mine = {k: s.student for k, s in students.items() if s.record and s.record.teacher_sha256 == fingerprint(codec)}
        with tempfile.TemporaryDirectory() as scratch:
            settings = INTEGERS | (ABLATIONS if options.ablations and not index else {})
            hyper = codec.predicts_means  # its entropy model is measured by benchmarks/models.py
            folders = {} if hyper else dict(write(codec, path, settings, Path(scratch), options.threads))
            exported = [Exported(label, folder, TorchCodec(codec)) for label, folder in folders.items()]
            measured = TeacherAndStudents(codec, mine, exported=exported)
            list(measure_all([measured], track(f"Measure {path}", pictures, unit="pictures")))
            found[name] = measured.results
            sizes[name] = [(folder.folder / "decoder.onnx").stat().st_size / 1e6 for folder in folders.values()]
    say(f"\n{len(pictures)} pictures of {options.pictures.name}\n")
    show_decoders(found, sizes)
    show_curves(found)
    tracked = track("Measure JPEG, WebP and AVIF", pictures, unit="pictures")
    show_codecs(found, evaluate(tracked, anchors=QUALITIES))


def name_of(path: str, codec: Codec) -> str:
    """As tables have it."""
    return f"`{path}`" if path in (EMBEDDED, EMBEDDED_HYPERPRIOR) else f"`{Path(path).stem}` (N={codec.N}, M={codec.M})"


def show_encoders(teachers: Sequence[str], pictures: Pictures, threads: int) -> None:
    """What an encoder in fewer bits costs, decoded in float: PSNR, bits, and symbols that are not the teacher's."""
    rows = []
    for path in teachers:
        codec = Teacher(path).load().requires_grad_(False)
        plain = TorchCodec(codec)
        with tempfile.TemporaryDirectory() as scratch:
            made = [Exported(label, folder, folder) for label, folder in encoders(codec, path, Path(scratch), threads)]
            measured = TeacherAndStudents(codec, {}, exported=made)
            list(measure_all([measured], track(f"Measure {path}", pictures, unit="pictures")))
            inputs = [picture.numpy() for _, picture in pictures]
            theirs = [plain.tables.to_symbols(plain.analyze(x)) for x in inputs]
            changed = [
                np.mean(
                    [
                        np.mean(plain.tables.to_symbols(one.codec.analyze(x)) != y)
                        for x, y in zip(inputs, theirs, strict=True)
                    ]
                )
                for one in track(f"Compare symbols, {path}", made, unit="encoders")
            ]
        results = [result.mean() for result in measured.results if result.kind == "exported"]
        for one, mean, share in zip(made, results, changed, strict=True):
            lost, more = mean["psnr"] - results[0]["psnr"], mean["bpp"] / results[0]["bpp"] - 1
            quality = [
                f"{mean['psnr']:.3f} ({lost:+.3f})",
                f"{mean['ms_ssim']:.5f}",
                f"{mean['bpp']:.4f} ({more:+.2%})",
            ]
            rows.append([f"{name_of(path, codec)}, {one.name}", *quality, f"{share:.2%}"])
    say(f"\n{len(pictures)} pictures\n")
    show_markdown(["encoder", "PSNR, dB", "MS-SSIM", "bits per pixel", "symbols changed"], rows)


def encoders(codec: Codec, name: str, folder: Path, threads: int) -> Iterator[tuple[str, OnnxCodec]]:
    """Write and open a teacher's encoders, each with the decoder in float."""
    for index, (label, setting) in enumerate(ENCODERS.items()):
        whole, part = folder / str(index), folder / f"{index}.encoder"
        manifest, _ = export(codec, whole, part="decoder", name=name)
        make = export if "fp16" in setting else quantize
        make(codec, part, part="encoder", name=name, **setting)
        shutil.copy(part / "encoder.onnx", whole)
        write_folder(whole, replace(manifest, encoder=read_folder(part)[0].encoder), codec.entropy_tables())
        yield label, OnnxCodec(whole, threads)


def write(
    codec: Codec, name: str, settings: dict[str, dict[str, Any]], folder: Path, threads: int
) -> Iterator[tuple[str, OnnxCodec]]:
    """Write and open the decoders of a teacher: in float, and quantized with each of the settings."""
    float_codec = swap(codec, "subpixel")[0].requires_grad_(False)
    export(float_codec, folder / "float", part="decoder", name=name)
    yield FLOAT, OnnxCodec(folder / "float", threads)
    for index, (label, setting) in enumerate(settings.items()):
        how, output = dict(setting), folder / str(index)
        replacement = how.pop("replacement", "subpixel")
        swapped = codec if replacement == "none" else swap(codec, replacement)[0].requires_grad_(False)
        quantize(swapped, output, name=name, **how)
        yield label, OnnxCodec(output, threads)


def show_codecs(found: dict[str, list[CodecResult]], others: list[CodecResult]) -> None:
    """Teachers and students, and what the other formats have at the bits of each picture."""
    formats = list(dict.fromkeys(other.curve for other in others))
    rows = []
    for name, results in found.items():
        for result in results:
            if result.kind == "exported":
                continue
            mean = result.mean()
            label = name if result.kind == "teacher" else f"{name}, {result.name}"
            equal = [at_equal_bits(result, [other for other in others if other.curve == each]) for each in formats]
            rows.append([label, f"{mean['psnr']:.2f} dB", f"{mean['ms_ssim']:.4f}", f"{mean['bpp']:.3f}", *equal])
    show_markdown(["codec", "PSNR", "MS-SSIM", "bits per pixel", *(f"{each} at equal bits" for each in formats)], rows)


def at_equal_bits(result: CodecResult, others: list[CodecResult]) -> str:
    """Mean PSNR of a format at the rate that the codec takes for each picture; where it is not reached, how often."""
    values = []
    for index, mine in enumerate(result.coded):
        points = sorted((math.log(other.coded[index].bpp), other.coded[index].scores["psnr"]) for other in others)
        rates, decibels = zip(*points, strict=True)
        if rates[0] <= math.log(mine.bpp) <= rates[-1]:
            values.append(float(np.interp(math.log(mine.bpp), rates, decibels)))
    partly = "" if len(values) == len(result.coded) else f" ({len(values)} of {len(result.coded)})"
    return f"{sum(values) / len(values):.2f} dB{partly}" if values else "not reached"


def show_decoders(found: dict[str, list[CodecResult]], sizes: dict[str, list[float]]) -> None:
    """Every exported decoder: what it loses against float, and its file."""
    rows = []
    for name, results in found.items():
        exported = [result for result in results if result.kind == "exported"]
        for result, size in zip(exported, sizes[name], strict=True):
            mean, whole = result.mean(), exported[0].mean()
            lost = "" if result is exported[0] else f" ({mean['psnr'] - whole['psnr']:+.2f})"
            share = "" if result is exported[0] else f" ({size / sizes[name][0]:.0%})"
            figures = [f"{mean['psnr']:.3f}{lost}", f"{mean['ms_ssim']:.5f}", f"{mean['psnr_to_teacher']:.1f}"]
            rows.append([f"{name}, {result.name}", *figures, f"{size:.2f}{share}"])
    show_markdown(["decoder", "PSNR, dB", "MS-SSIM", "dB to the teacher", "file, MB"], rows)


def show_curves(found: dict[str, list[CodecResult]]) -> None:
    """BD-rate of each kind of decoder against float, where the teachers make a curve."""
    curves: dict[str, list[tuple[float, float]]] = {}
    for results in found.values():
        for result in results:
            if result.kind == "exported":
                curves.setdefault(result.name, []).append((result.mean()["bpp"], result.mean()["psnr"]))
    for label, points in curves.items():
        delta = bd_rate(curves[FLOAT], points)
        if label != FLOAT and delta.value is not None:
            say(f"{label} against float: BD-rate {delta.value:+.2f} %")


def show_markdown(columns: list[str], rows: list[list[str]]) -> None:
    """Print a table."""
    for cells in (columns, ["---"] * len(columns), *rows):
        say(f"| {' | '.join(cells)} |")
    say()


if __name__ == "__main__":
    main()
