"""Every replacement before and after training: quality, multiply-adds and decoding time, side by side.

    python -m benchmarks.replacements                          # small: two minutes on embedded data
    python -m benchmarks.replacements --teacher tiny.pth --images DIR --held_out DIR --epochs 15 --finetune_epochs 10

Trains with the commands that users type, in a temporary folder; decodes one 768x512 picture in PyTorch and, exported, in
ONNX Runtime in every form, in turns within one run.
"""

import argparse
import csv
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import onnxruntime
import torch

from codecswap.advice.advise import multiply_adds
from codecswap.cli import run
from codecswap.codecs.factorized import FactorizedPrior
from codecswap.codecs.source import load_codec
from codecswap.console import show_table
from codecswap.data.discovery import list_pictures
from codecswap.data.transforms import whole_picture
from codecswap.evaluation.evaluate import evaluate
from codecswap.export.backends.onnx import export_decoder
from codecswap.students.checkpoint import read_student

HEIGHT, WIDTH = 512, 768
KINDS = {
    "subpixel": ["--replacement", "subpixel"],
    "masked": ["--replacement", "masked"],
    "upsample, 3x3": ["--kernel_size", "3"],
    "upsample, 5x5": ["--kernel_size", "5"],
    "upsample, 7x7": ["--kernel_size", "7"],
}


def train(kind: list[str], options: argparse.Namespace, folder: Path) -> dict[str, FactorizedPrior]:
    """The student of one kind at its start, distilled and fine-tuned."""
    common = [
        "--teacher",
        options.teacher,
        "--coco_dir",
        str(options.images),
        "--val_ratio",
        "0.1",
        "--num_workers",
        "0",
    ]
    common += ["--batch_size", str(options.batch_size), "--recon_every", "0", "--warmup_steps", "13"]
    stages = {
        "start": ("distill", [*kind, "--epochs", "0", "--train_igdn"], "last.pt"),
        "distilled": ("distill", [*kind, "--epochs", str(options.epochs), "--train_igdn"], "last.pt"),
        "fine-tuned": ("finetune", ["--epochs", str(options.finetune_epochs)], "ft_last.pt"),
    }
    students = {}
    for stage, (command, extra, name) in stages.items():
        target = folder / stage
        if stage == "fine-tuned":
            extra += ["--resume_student", str(folder / "distilled" / "last.pt")]
        assert run(command, [*common, *extra, "--save_dir", str(target)]) == 0
        students[stage] = read_student(target / name).student
    return students


def decoders(name: str, codec: FactorizedPrior, folder: Path) -> dict[str, Callable[[], object]]:
    """Ways to decode one picture with a codec: PyTorch, and ONNX Runtime in each form it has."""
    latents = torch.zeros(1, codec.M, HEIGHT // 16, WIDTH // 16)
    ways: dict[str, Callable[[], object]] = {"PyTorch": lambda: codec.g_s(latents)}
    session_options = onnxruntime.SessionOptions()
    session_options.intra_op_num_threads = torch.get_num_threads()
    forms = {"subpixel": ["native"], "transposed": ["native"]}.get(name, ["native", "subpixel"])
    for form in forms:
        path = folder / f"{name.replace(', ', '_')}_{form}.onnx"
        export_decoder(codec, path, height=HEIGHT, width=WIDTH, form=form)  # type: ignore[arg-type]
        session = onnxruntime.InferenceSession(path, session_options)
        feed = {session.get_inputs()[0].name: latents.numpy()}
        label = {"native": "ONNX", "subpixel": "ONNX, folded"}[form]
        ways[label] = lambda session=session, feed=feed: session.run(None, feed)
    return ways


@torch.inference_mode()
def measure_times(ways: dict[tuple[str, str], Callable[[], object]], rounds: int) -> dict[tuple[str, str], float]:
    """Median seconds of each way, all taking turns."""
    times: dict[tuple[str, str], list[float]] = {key: [] for key in ways}
    for turn in range(rounds + 1):
        for key, way in ways.items():
            began = time.perf_counter()
            way()
            if turn:  # the first one warms up
                times[key].append(time.perf_counter() - began)
    return {key: statistics.median(values) for key, values in times.items()}


def main() -> None:
    """Train, evaluate, time, print."""
    photos = Path(str(files("codecswap") / "assets" / "photos"))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--teacher", default="tiny")
    parser.add_argument("--images", type=Path, default=photos)
    parser.add_argument("--held_out", type=Path, default=photos / "val")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--finetune_epochs", type=int, default=1)
    parser.add_argument("--batch_size", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--output", type=Path, default=Path("replacements.csv"))
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    teacher = load_codec(options.teacher)
    pictures = [(path.name, whole_picture(path)) for path in list_pictures(options.held_out, "--held_out")]
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        ways = {("transposed", way): call for way, call in decoders("transposed", teacher, folder).items()}
        for kind, arguments in KINDS.items():
            students = train(arguments, options, folder / kind)
            results = evaluate(pictures, students, teacher=teacher)
            if not rows:
                mean = results[0].mean()
                rows.append(
                    ["transposed", "teacher", mean["psnr"], mean["ms_ssim"], "", "", multiply_adds(teacher.g_s)]
                )
            for (stage, student), result in zip(students.items(), results[1:], strict=True):
                mean, cost = result.mean(), multiply_adds(student.g_s)
                figures = [mean[key] for key in ("psnr", "ms_ssim", "psnr_to_teacher", "ms_ssim_to_teacher")]
                rows.append([kind, stage, *figures, cost])
            ways |= {(kind, way): call for way, call in decoders(kind, students["start"], folder).items()}
        times = measure_times(ways, options.rounds)
    table = [[row[0], row[1], *(f"{v:.2f}" if v != "" else "" for v in row[2:3])] for row in rows]
    for cells, row in zip(table, rows, strict=True):
        cells += [f"{row[3]:.4f}", f"{row[4]:.2f}" if row[4] != "" else "", f"{row[5]:.4f}" if row[5] != "" else ""]
        cells += [f"{row[6] / 1e3:.1f}"]
    columns = ["replacement", "stage", "PSNR, dB", "MS-SSIM", "to teacher, dB", "MS-SSIM", "10^3 multiply-adds/pixel"]
    show_table(f"{options.teacher}, {len(pictures)} held-out pictures", columns, table)
    reference = times["transposed", "PyTorch"], times["transposed", "ONNX"]
    lines = [
        [kind, way, f"{1e3 * seconds:.0f}", f"{seconds / reference[way != 'PyTorch']:.2f}"]
        for (kind, way), seconds in times.items()
    ]
    title = f"Decoding one {WIDTH}x{HEIGHT} picture, {torch.get_num_threads()} threads, median of {options.rounds}"
    show_table(title, ["decoder", "in", "ms", "of the teacher's time"], lines)
    with options.output.open("w", newline="") as file:
        csv.writer(file).writerows([columns, *rows, [], ["decoder", "in", "ms", "of the teacher's time"], *lines])


if __name__ == "__main__":
    main()
