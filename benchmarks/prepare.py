"""Pictures per second of `codecswap prepare` against the plain loop of one process.

    python -m benchmarks.prepare [--images DIR] [--count 1000] [--rounds 5]

640x480 JPEGs are made from the photographs of DIR (default: the package's own); then the ways take turns, so that
whatever else the machine does falls on all of them. Each round of `codecswap prepare` starts from an empty folder and
includes everything: finding pictures, starting processes, writing crops and manifest.
"""

import argparse
import contextlib
import io
import random
import resource
import statistics
import time
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image, ImageOps
from rich.console import Console
from rich.table import Table

from codecswap.config import PrepareOptions
from codecswap.data.discovery import scan
from codecswap.data.pictures import load_picture
from codecswap.data.prepare.crop_folder import crop_folder
from codecswap.processes import cores


def make_pictures(photographs, folder, count):
    """Windows of the photographs as 640x480 JPEGs of quality 90, in turn."""
    photographs = [load_picture(path) for path in photographs]
    for index in range(count):
        photograph = photographs[index % len(photographs)]
        width, height = photograph.size
        scale = random.Random(index).uniform(0.7, 1.0)
        window = photograph.crop((0, 0, round(width * scale), round(height * scale)))
        picture = ImageOps.fit(window, (640, 480), Image.Resampling.LANCZOS, centering=(0.5, 0.5))
        picture.save(folder / f"{index:012}.jpg", quality=90)


def plain(source, target):
    """The loop that everybody writes."""
    for path in scan(source):
        with Image.open(path) as picture:
            picture = picture.convert("RGB")
            side = min(picture.size)
            left, top = (picture.width - side) // 2, (picture.height - side) // 2
            picture = picture.crop((left, top, left + side, top + side))
            picture.resize((224, 224), Image.Resampling.LANCZOS).save(target / path.name, quality=95)


def prepare(workers):
    """The command, without its lines."""

    def run(source, target):
        options = PrepareOptions(images=str(source), out_dir=str(target), workers=workers)
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            crop_folder(source, str(source), options)

    return run


def processor_time():
    """Seconds that this process and its finished children have used: what other programs do matters less to it."""
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, default=Path(str(files("codecswap") / "assets" / "photos")))
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    ways = {"plain loop, 1 process": plain}
    for workers in sorted({1, 2, 4, 8, 16, 32, cores()}):
        if workers <= cores():
            ways[f"prepare, {workers} process{'es' if workers > 1 else ''}"] = prepare(workers)
    speeds, costs = {way: [] for way in ways}, {way: [] for way in ways}
    with TemporaryDirectory() as folder:
        source = Path(folder, "pictures")
        source.mkdir()
        make_pictures(scan(options.images), source, options.count)
        for _ in range(options.rounds):
            for way, run in ways.items():
                with TemporaryDirectory(dir=folder) as target:
                    start, used = time.perf_counter(), processor_time()
                    run(source, Path(target))
                    speeds[way].append(options.count / (time.perf_counter() - start))
                    costs[way].append(1000 * (processor_time() - used) / options.count)
    table = Table(title=f"{options.count} JPEGs of 640x480, median of {options.rounds} rounds, {cores()} cores")
    for column in ("way", "pictures/s", "slowest to fastest", "speed-up", "CPU ms per picture"):
        table.add_column(column, justify="left" if column == "way" else "right")
    first = next(iter(speeds.values()))
    for way, values in speeds.items():
        ratio = statistics.median(mine / theirs for mine, theirs in zip(values, first, strict=True))
        spread = f"{min(values):.0f} to {max(values):.0f}"
        table.add_row(
            way, f"{statistics.median(values):.0f}", spread, f"{ratio:.2f}", f"{statistics.median(costs[way]):.2f}"
        )
    Console().print(table)


if __name__ == "__main__":
    main()
