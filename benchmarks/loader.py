"""Training pictures per second by source and number of worker processes, and what reduced decoding changes.

    python -m benchmarks.loader [--images DIR] [--count 256] [--workers 0 1 2] [--rounds 3]

Sources are made from the photographs of DIR (default: the package's own): JPEGs of COCO's size (640x480), mosaics of a camera's
(4000x3000), prepared crops in both formats, and a prototype of a cache: the crops decoded once into one memory-mapped file.
Sources take turns. Processor time is that of one picture in this process, without workers; the decibels compare crops of
pictures that were decoded at reduced size with those of the same pictures at full size.
"""

import argparse
import contextlib
import io
import statistics
import time
from collections.abc import Iterator
from functools import partial
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest import mock

import numpy as np
import torch
from benchmarks.prepare import make_pictures
from PIL import Image, ImageOps
from torch.utils.data import DataLoader

from codecswap.config import DistillOptions, PrepareOptions
from codecswap.console import show_table
from codecswap.data import transforms
from codecswap.data.datasets import Sample, TrainingPictures
from codecswap.data.discovery import Pictures, scan
from codecswap.data.loaders import PictureLoaders
from codecswap.data.pictures import load_picture
from codecswap.data.prepare.crop_folder import crop_folder

CAMERA = (4000, 3000)
MOST_FROM_CAMERA = 16
"""Pictures of `CAMERA` that are made; they are read several times over."""


class Cached(TrainingPictures):
    """The prototype: prepared crops from one memory-mapped file, ``(pictures, 224, 224, 3)``."""

    file: Path

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        index = key[1]
        pixels = np.load(self.file, mmap_mode="r")[index].astype(np.float32)
        image = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1) / np.float32(255)))
        return Sample(image, self.paths[index], [])


def make_sources(photographs: list[Path], root: Path, count: int) -> dict[str, Pictures]:
    """The sources' pictures, by name."""
    raw, camera = root / "raw", root / "camera"
    for folder in (raw, camera):
        folder.mkdir()
    make_pictures(photographs, raw, count)
    for index in range(MOST_FROM_CAMERA):
        mosaic = Image.new("RGB", CAMERA)
        for cell in range(36):  # detail as fine as that of small pictures: harder than a camera's
            photograph = load_picture(photographs[(index + cell) % len(photographs)])
            tile = ImageOps.fit(photograph, (CAMERA[0] // 6 + 1, CAMERA[1] // 6))
            mosaic.paste(tile, (cell % 6 * tile.width, cell // 6 * tile.height))
        mosaic.save(camera / f"{index}.jpg", quality=90)
    sources = {"raw, 640x480": raw, f"raw, {CAMERA[0]}x{CAMERA[1]}": camera}
    found = {
        name: Pictures("folder", scan(folder) * (count // len(scan(folder))), []) for name, folder in sources.items()
    }
    for form in ("jpg", "png"):
        options = PrepareOptions(images=str(raw), out_dir=str(root / form), format=form)
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            crop_folder(raw, "raw", options)
        found[f"prepared, {form}"] = Pictures("prepared", scan(root / form / "train"), [])
    crops = [np.asarray(load_picture(path)) for path in found["prepared, jpg"].train]
    np.save(root / "cache.npy", np.stack(crops))
    Cached.file = root / "cache.npy"
    found["prepared, one memory-mapped file"] = found["prepared, jpg"]
    return found


def loader(name: str, pictures: Pictures, workers: int) -> DataLoader:
    """The data loader of a run."""
    with mock.patch("codecswap.data.loaders.TrainingPictures", Cached if "mapped" in name else TrainingPictures):
        return PictureLoaders(pictures, DistillOptions(num_workers=workers)).train()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", default=str(files("codecswap") / "assets" / "photos"))
    parser.add_argument("--count", type=int, default=256)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with TemporaryDirectory() as folder:
        sources = make_sources(scan(options.images), Path(folder), options.count)
        spent: dict[str, list[float]] = {name: [] for name in sources}
        speeds: dict[tuple[str, int], list[float]] = {}
        loaders = {(name, n): loader(name, found, n) for name, found in sources.items() for n in options.workers}
        for _ in range(options.rounds):
            for (name, workers), batches in loaders.items():
                used, (count, seconds) = time.process_time(), read(batches)
                speeds.setdefault((name, workers), []).append(count / seconds)
                if not workers:
                    spent[name].append(1000 * (time.process_time() - used) / len(batches) / 16)
        rows = []
        for name in sources:
            cost = f"{statistics.median(spent[name]):.2f}" if spent[name] else ""
            rows.append([name, cost, *(f"{statistics.median(speeds[name, n]):.0f}" for n in options.workers)])
        columns = ["source", "processor ms a picture", *(f"pictures/s, {n} workers" for n in options.workers)]
        show_table(f"batches of 16, median of {options.rounds} rounds", columns, rows)
        camera = sources[f"raw, {CAMERA[0]}x{CAMERA[1]}"].train[:MOST_FROM_CAMERA]
        values = list(closeness(camera))
        print(f"crops of reduced decoding against full: {min(values):.1f} to {max(values):.1f} dB")


def read(batches: DataLoader) -> tuple[int, float]:
    """Pictures of an epoch after its first batch, and their seconds: workers start and fill their queues before."""
    iterator = iter(batches)
    next(iterator)
    start, count = time.perf_counter(), 0
    for batch in iterator:
        count += len(batch.images)
    return count, time.perf_counter() - start


def closeness(paths: list[Path]) -> Iterator[float]:
    """PSNR between crops of pictures decoded at reduced and at full size."""
    for path in paths:
        for crop in (transforms.validation_crop, partial(transforms.training_crop, seed=0, epoch=0)):
            reduced = crop(path)
            with mock.patch.object(transforms, "AT_LEAST", None):
                full = crop(path)
            yield float(-10 * (reduced - full).square().mean().log10())


if __name__ == "__main__":
    main()
