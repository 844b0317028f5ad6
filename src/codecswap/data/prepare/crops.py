"""Cropping pictures: the center square, resampled once, in one process per core."""

import math
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from codecswap.data.pictures import UNREADABLE, load_picture
from codecswap.data.sources import Item, contents
from codecswap.errors import UserError
from codecswap.files import atomic_write
from codecswap.processes import cores, follow_parent

SAVE: dict[str, dict[str, Any]] = {
    # 4:4:4: 2.6 dB more than 4:2:0 for a quarter more bytes
    "jpg": {"format": "JPEG", "quality": 95, "subsampling": 0},
    "png": {"format": "PNG", "compress_level": 1},  # level 6 takes three times as long
}
"""Pillow's options for each format."""
BYTES_PER_PIXEL = {"jpg": 0.65, "png": 2.1}
"""Size of a crop on disk, rounded up, for photographs."""
CHUNK = 32
"""Pictures given to a process at once; Ctrl-C waits until these are done."""

Job = tuple[Item, dict[str, Path]]
"""A file of the source or one of its tars, and the crop to write of each picture in it, by the name that `contents` gives."""


def crop_picture(source: Path | bytes, target: Path, *, size: int, format: str) -> str | None:
    """Write the center square of a picture as ``size`` x ``size`` pixels, 8-bit RGB, upright.

    A JPEG whose shorter side is at least twice ``size`` is decoded at 1/2, 1/4 or 1/8 scale (never below ``size``); the
    one resampling (Lanczos) follows. Smaller pictures are enlarged.

    Args:
        source: the picture's file, or its bytes.
        target: the file to write; its folder exists.

    Returns: why the picture could not be read, or None.

    Raises:
        OSError: the crop cannot be written.
    """
    try:
        picture = load_picture(source, at_least=size)
        side = min(picture.size)
        left, top = ((length - side) // 2 for length in picture.size)
        crop = picture.resize((size, size), Image.Resampling.LANCZOS, box=(left, top, left + side, top + side))
    except UnidentifiedImageError:
        return "not a picture format that is read"
    except UNREADABLE as error:
        return getattr(error, "strerror", None) or str(error) or type(error).__name__
    with atomic_write(target) as beside:
        crop.save(beside, **SAVE[format])
    return None


def crop_all(
    jobs: Sequence[Job], *, size: int, format: str, workers: int | None, advance: Callable[[int], None]
) -> dict[Path, str]:
    """Make all crops, in several processes.

    Args:
        jobs: pictures and the crops to write; the folders exist.
        size: side of the crops, in pixels.
        format: ``jpg`` or ``png``.
        workers: processes; None: one for each core.
        advance: called with the number of pictures of each chunk done.

    Returns: why pictures could not be read, by the crops that there are none of.

    Raises:
        OSError: a crop cannot be written (the disk is full, say).
        RunFailure: the source is gone.
        UserError: a process was killed.
    """
    workers = workers or cores()
    chunks = list(_chunks(jobs, workers))
    unread: dict[Path, str] = {}
    with _mapped(partial(_crop_chunk, size=size, format=format), chunks, min(workers, len(chunks))) as results:
        for done, reasons in results:
            unread |= reasons
            advance(done)
    return unread


def _chunks(jobs: Sequence[Job], workers: int) -> Iterator[list[Job]]:
    """Files in chunks of one size; each tar in at most one part per process, since each part reads all of it."""
    size = max(1, min(CHUNK, math.ceil(sum(len(crops) for _, crops in jobs) / (4 * workers))))
    files = [job for job in jobs if not job[0].is_tar]
    yield from (files[start : start + size] for start in range(0, len(files), size))
    for item, crops in (job for job in jobs if job[0].is_tar):
        part = max(size, math.ceil(len(crops) / workers))
        names = list(crops)
        for start in range(0, len(names), part):
            yield [(item, {name: crops[name] for name in names[start : start + part]})]


def _crop_chunk(jobs: Sequence[Job], *, size: int, format: str) -> tuple[int, dict[Path, str]]:
    reasons: dict[Path, str] = {}
    for item, crops in jobs:
        missing, last = dict(crops), "is no longer in the source"
        for content in contents(item) if missing else ():
            last = content.error or last
            if (target := missing.pop(content.name, None)) is None:
                continue
            why = content.error or crop_picture(content.data, target, size=size, format=format)
            if why is not None:
                reasons[target] = why
            if not missing:
                break
        reasons |= dict.fromkeys(missing.values(), last)
    return sum(len(crops) for _, crops in jobs), reasons


@contextmanager
def _mapped(work: Callable[[Any], Any], items: Sequence[Any], workers: int) -> Iterator[Iterator[Any]]:
    """Results of ``work`` in the order of completion; after an error or Ctrl-C, items not yet started are dropped."""
    if workers <= 1:
        yield map(work, items)
        return
    # spawned, not forked: forking a process that has threads (a progress bar) may hang
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=follow_parent)
    try:
        futures = [pool.submit(work, item) for item in items]
        yield (future.result() for future in as_completed(futures))
    except BrokenProcessPool:
        raise UserError(
            "A process that cropped pictures was killed, perhaps for lack of memory: "
            "run the same command again with fewer --workers."
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
