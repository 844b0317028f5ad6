"""Pictures per second and processor time of archives, against a loop over CompressAI's own `compress()` and `decompress()`.

    python -m benchmarks.archive [--codec tiny|random|FILE] [--images DIR] [--count 24] [--jobs 1] [--rounds 3]
        [--runtime onnxruntime openvino]

640x480 JPEGs are made from the photographs of DIR (default: the package's own). Each way codes all of them in ``--jobs``
processes of one thread each, started from the command line, and the ways take turns. Each is run with one picture a process,
too, which is subtracted: start-up, the same for a million pictures, is not in the figures. Files are read and written: JPEG to
``.csw`` (CompressAI: its strings), and back to PNG. ``random`` has N=192, M=320 and random weights.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.prepare import make_pictures
from PIL import Image

from codecswap.console import show_table
from codecswap.data.discovery import scan

MEGAPIXELS = 640 * 480 / 1e6


@dataclass(frozen=True)
class Spent:
    """Seconds that a way took."""

    processor: float
    wall: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--codec", default="tiny")
    parser.add_argument("--images", default=str(files("codecswap") / "assets" / "photos"))
    parser.add_argument("--count", type=int, default=24)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--runtime", nargs="+", default=["onnxruntime"], help="of the archives")
    options = parser.parse_args()
    with TemporaryDirectory() as scratch:
        root = Path(scratch)
        write_codec(options.codec, root)
        sets = {count: root / f"{count} pictures" for count in (options.jobs, options.count + options.jobs)}
        for count, folder in sets.items():
            folder.mkdir()
            make_pictures(scan(options.images), folder, count)
        spent: dict[str, list[Spent]] = {}
        for _ in range(options.rounds):
            for name, run in ways(root, options.jobs, options.runtime).items():
                few, many = (timed(run, folder, root / "out" / f"{name} {count}") for count, folder in sets.items())
                difference = Spent(many.processor - few.processor, many.wall - few.wall)
                spent.setdefault(name, []).append(difference)
    show(spent, options)


def write_codec(name: str, root: Path) -> None:
    """The same weights as an exported folder, and as CompressAI's state dict."""
    import torch
    from compressai.models import FactorizedPrior

    from codecswap import export
    from codecswap.codecs.source import load_codec

    torch.manual_seed(0)
    state = FactorizedPrior(192, 320).state_dict() if name == "random" else load_codec(name).state_dict()
    model = FactorizedPrior.from_state_dict(state)
    model.update()
    torch.save(model.state_dict(), root / "state.pth")
    export(load_codec(str(root / "state.pth")), root / "codec")


def ways(root: Path, jobs: int, runtimes: list[str]) -> dict[str, Callable[[Path, Path], None]]:
    """What is compared: each takes a folder of pictures and one to write to."""
    ours = ["--codec", str(root / "codec"), "--jobs", str(jobs), "--threads", "1", "--archive", "tar"]

    def command(work: str, runtime: str) -> Callable[[Path, Path], None]:
        def run(source: Path, target: Path) -> None:
            given = source if work == "encode" else coded(target, f"archive, {runtime}: encode")
            words = ["-m", "codecswap", work, str(given), "-o", str(target), "--shard_size", "8", "--runtime", runtime]
            wait([start([*words, *ours])])

        return run

    def loop(work: str) -> Callable[[Path, Path], None]:
        def run(source: Path, target: Path) -> None:
            target.mkdir(parents=True)
            given = source if work == "encode" else coded(target, "CompressAI: encode")
            words = ["-m", "benchmarks.compressai_loop", work, str(root / "state.pth"), str(given), str(target)]
            wait([start([*words, str(index), str(jobs)]) for index in range(jobs)])

        return run

    def pillow(form: str, **settings: object) -> Callable[[Path, Path], None]:
        def run(source: Path, target: Path) -> None:
            target.mkdir(parents=True)
            for path in scan(source):
                with Image.open(path) as picture:
                    picture.convert("RGB").save(target / path.with_suffix(f".{form}").name, **settings)

        return run

    archives = [(work, runtime) for work in ("encode", "decode") for runtime in runtimes]
    return {
        "CompressAI: encode": loop("encode"),
        "CompressAI: decode": loop("decode"),
        **{f"archive, {runtime}: {work}": command(work, runtime) for work, runtime in archives},
        "JPEG, quality 75: encode": pillow("jpg", quality=75),
        "WebP, quality 75: encode": pillow("webp", quality=75),
    }


def coded(target: Path, way: str) -> Path:
    """What the encoder of a way wrote of the same pictures."""
    return target.with_name(f"{way} {target.name.rpartition(' ')[2]}")


def start(words: list[str]) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, *words], stdout=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )


def wait(processes: list[subprocess.Popen]) -> None:
    codes = [process.wait() for process in processes]
    if any(codes):
        sys.exit("A command failed.")


def timed(run: Callable[[Path, Path], None], source: Path, target: Path) -> Spent:
    """Seconds of this process and of those that it waited for."""
    shutil.rmtree(target, ignore_errors=True)
    before, began = os.times(), time.perf_counter()
    run(source, target)
    after, ended = os.times(), time.perf_counter()
    return Spent(sum(after[:4]) - sum(before[:4]), ended - began)


def show(spent: dict[str, list[Spent]], options: argparse.Namespace) -> None:
    rows = []
    for name, found in spent.items():
        kind, _, work = name.rpartition(": ")
        reference = spent[f"CompressAI: {work}"]
        processor = statistics.median(each.processor for each in found)
        wall = statistics.median(each.wall for each in found)
        pairs = zip(reference, found, strict=True) if kind.startswith("archive") else ()
        ratios = [theirs.processor / ours.processor for theirs, ours in pairs]
        rows.append(
            [
                f"{kind}, {work}",
                f"{processor / options.count / MEGAPIXELS:.3f}",
                f"{options.count / wall:.2f}",
                f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})" if ratios else "",
            ]
        )
    show_table(
        f"{options.codec}, {options.count} pictures of 640x480, {options.jobs} processes, {options.rounds} rounds",
        ["way", "core-seconds per megapixel", "pictures/s", "CompressAI's processor time over this"],
        rows,
    )


if __name__ == "__main__":
    main()
