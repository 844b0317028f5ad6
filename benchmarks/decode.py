"""How long a picture takes to decode: every replacement and form, float and INT8, PyTorch and ONNX Runtime.

python -m benchmarks.decode [--teacher tiny] [--height 512 --width 768] [--threads 1 2] [--repeats 5]

All that are compared take turns, so that whatever else the machine does falls on all of them alike; the median counts.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import torch
from torch import nn

from codecswap.codecs.source import load_codec
from codecswap.codecs.torch_codec import TorchCodec
from codecswap.config import ExportOptions, QuantizeOptions
from codecswap.console import say, show_table
from codecswap.data.samples import sample_pictures
from codecswap.entropy import rans
from codecswap.export import command as export
from codecswap.inference.runtime import OnnxCodec
from codecswap.quantize import command as quantize
from codecswap.swaps.apply import swap

CASES = [  # replacement, form
    ("none", "native"),
    ("subpixel", "native"),
    ("masked", "native"),
    ("upsample", "native"),
    ("upsample", "subpixel"),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", help="tiny, or a codec's file; default: the zoo's")
    parser.add_argument("--quality", type=int, default=8)
    parser.add_argument("--height", type=int, default=512)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    teacher = load_codec(options.teacher, options.quality)
    native = TorchCodec(teacher)
    size = (options.width, options.height)
    picture = next(sample_pictures(None, "", "val", size))
    symbols = native.tables.to_symbols(native.analyze(picture))
    with tempfile.TemporaryDirectory() as folder:
        works = {}
        for replacement, form in CASES:
            codec = teacher if replacement == "none" else swap(teacher, replacement)[0]
            name = {"none": "teacher"}.get(replacement, replacement) + (", folded" if form == "subpixel" else "")
            if form == "native":
                works |= {(name, "PyTorch", t): in_pytorch(codec, symbols, t) for t in options.threads}
            for kind in ("float32", "INT8"):
                path = Path(folder) / f"{replacement}-{form}-{kind}"
                write(codec, replacement, form, kind, path, size)
                for threads in options.threads:
                    works[name, f"ONNX {kind}", threads] = in_onnx(path, symbols, threads)
        times = interleaved(works, options.repeats)
    show(times, options, f"{options.teacher or f'quality {options.quality}'}, N={teacher.N}, M={teacher.M}")
    string = rans.encode(symbols, native.tables)
    coding = interleaved({"": lambda: rans.decode(string, symbols.shape[1:], native.tables)}, options.repeats)[""]
    least = min(value for (_, _, threads), value in times.items() if threads == 1)
    say(
        f"Entropy decoding, one thread: {coding:.1f} ms for {symbols.size:,} symbols ({len(string):,} bytes), "
        f"{coding / (coding + least):.0%} of the fastest decoder's time on one thread."
    )


def write(codec: nn.Module, replacement: str, form: str, kind: str, path: Path, size: tuple[int, int]) -> None:
    fixed = {"width": size[0], "height": size[1], "form": form, "part": "decoder", "output": path}
    if kind == "float32":
        export.write(codec, "", replacement, ExportOptions(**fixed))
        return
    samples = list(islice(sample_pictures(None, "", "train", size), 3))  # ranges do not change how long it takes
    settings = QuantizeOptions(**fixed, refit=False)
    quantize.quantize(codec, "", replacement, samples, settings, show=False)


def in_pytorch(codec: nn.Module, symbols: object, threads: int) -> Callable[[], object]:
    native = TorchCodec(codec)

    def work() -> object:
        torch.set_num_threads(threads)
        return native.synthesize(symbols)

    return work


def in_onnx(path: Path, symbols: object, threads: int) -> Callable[[], object]:
    exported = OnnxCodec(path, threads=threads)
    return lambda: exported.synthesize(symbols)


def interleaved(works: dict, repeats: int) -> dict:
    """Milliseconds of each, the median of ``repeats`` rounds after one that warms up."""
    times = {name: [] for name in works}
    for _ in range(repeats + 1):
        for name, work in works.items():
            began = time.perf_counter()
            work()
            times[name].append(1e3 * (time.perf_counter() - began))
    return {name: statistics.median(values[1:]) for name, values in times.items()}


def show(times: dict, options: argparse.Namespace, title: str) -> None:
    columns = [(engine, threads) for threads in options.threads for engine in ("PyTorch", "ONNX float32", "ONNX INT8")]
    base = times["teacher", "ONNX float32", options.threads[0]]
    rows = []
    for name in dict.fromkeys(name for name, _, _ in times):
        found = [times.get((name, *column)) for column in columns]
        rows.append([name, *("" if value is None else f"{value:.0f} ({base / value:.2f}x)" for value in found)])
    heads = [f"{engine}, {threads} thread{'s' * (threads > 1)}" for engine, threads in columns]
    heading = (
        f"Decoding {options.width}x{options.height}, {title}: ms (and how many times as fast as the first ONNX float32)"
    )
    show_table(heading, ["decoder", *heads], rows)


if __name__ == "__main__":
    main()
