"""Make one shard: read ahead, compute the transforms, and code while the next pictures are computed."""

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from itertools import chain, groupby

import numpy as np
from PIL import Image, UnidentifiedImageError

from codecswap.archives.ahead import ahead
from codecswap.archives.folder import Archive, Attempt, MadeElsewhere
from codecswap.archives.index import Row, Summary, checksum
from codecswap.archives.shards import Shard
from codecswap.coding.files import Rate
from codecswap.data.discovery import ENDINGS
from codecswap.data.pictures import UNREADABLE, load_picture, pad, to_array
from codecswap.data.sources import Content, Item, contents, read_file
from codecswap.entropy import bitstream
from codecswap.errors import UserError

CODED = ".csw"
LARGEST_RATE = Rate()
READERS, READ_AHEAD = 2, 4
"""Threads that read and decode the source's files, and how many files they are ahead."""
WINDOW_PIXELS = 1 << 24
"""Pixels of the pictures that may wait to be computed together."""
PNG_LEVEL = 1
"""Compression of decoded pictures: a quarter of the time of Pillow's default, which takes longer than a small codec's g_s,
for 3 to 12 % more bytes."""

Job = Callable[[bitstream.Codec, Archive, Shard], Summary]
"""`encode_shard` or `decode_shard`."""


@dataclass
class Picture:
    """A file of the source on its way through the stages."""

    row: Row
    data: bytes = b""
    """What is to be written: the file itself where it is no picture."""
    picture: Image.Image | None = None
    latents: np.ndarray | None = None

    def refuse(self, error: object) -> None:
        """Give it up; ``error`` is a sentence, or a clause about the file."""
        text = str(error)
        self.row.error = text if text.endswith(".") else f"{self.row.key} {text}."
        self.picture = self.latents = None


def encode_shard(
    codec: bitstream.Codec, archive: Archive, shard: Shard, *, rate: Rate = LARGEST_RATE, batch: int = 1
) -> Summary:
    """Encode the pictures of a shard; other members of a tar file (labels) are copied.

    Args:
        rate: how many bits the files of a codec with variable rate take.
        batch: pictures of one padded size that are computed at once. One is fastest on a CPU.

    Raises:
        RunFailure: the source is gone, or the archive cannot be written.
    """

    def encoded(pictures: Iterator[Picture], coder: ThreadPoolExecutor) -> Iterator[Picture]:
        windows = (_analyze(codec, window, batch) for window in _windows(pictures, batch))
        finish = partial(_entropy_code, codec, rate=rate, psnr=archive.recipe.psnr)
        return chain.from_iterable(ahead(finish, windows, coder, 1))

    return _make(archive, shard, _load, encoded, ENDINGS, CODED)


def decode_shard(
    codec: bitstream.Codec, archive: Archive, shard: Shard, *, region: bitstream.Box | None = None
) -> Summary:
    """Decode the coded pictures of a shard, or a ``region`` of each, to PNG; the rest as in `encode_shard`."""

    def decoded(pictures: Iterator[Picture], coder: ThreadPoolExecutor) -> Iterator[Picture]:
        return ahead(_save, (_decode(codec, picture, region) for picture in pictures), coder, 1)

    return _make(archive, shard, _take, decoded, frozenset({CODED}), ".png")


def _make(
    archive: Archive,
    shard: Shard,
    load: Callable[[Content], Picture],
    process: Callable[[Iterator[Picture], ThreadPoolExecutor], Iterator[Picture]],
    endings: frozenset[str],
    suffix: str,
) -> Summary:
    """Make a shard of the files with one of the ``endings``; their names get the ``suffix`` instead."""
    rows: list[Row] = []
    summary: Summary | None
    try:
        # pools are closed before the attempt's folder is removed
        with archive.attempt(shard) as attempt, ThreadPoolExecutor(READERS) as readers, ThreadPoolExecutor(1) as coder:
            loaded = ahead(partial(_read, load, endings), _files(shard), readers, READ_AHEAD)
            for picture in process(loaded, coder):
                if row := _write(attempt, picture, endings, suffix):
                    row.shard = shard.name
                    rows.append(row)
            summary = attempt.finish(rows)
    except MadeElsewhere:
        summary = archive.done(shard)
    archive.clean(shard)
    assert summary
    return summary


def _files(shard: Shard) -> Iterator[Item | Content]:
    """Members of a tar file, whose bytes come in order, or files, which any thread may read."""
    for item in shard.items:
        if item.is_tar:
            yield from contents(item)
        else:
            yield item


def _read(load: Callable[[Content], Picture], endings: frozenset[str], file: Item | Content) -> Picture:
    content = read_file(file) if isinstance(file, Item) else file
    picture = Picture(Row(None, content.name), content.data)
    if content.error:
        picture.refuse(content.error)
        return picture
    return load(content) if _ending(content.name) in endings else picture


def _ending(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _load(content: Content) -> Picture:
    began, loaded = time.perf_counter(), Picture(Row(None, content.name))
    try:
        loaded.picture = load_picture(content.data)
        loaded.row.width, loaded.row.height = loaded.picture.size
    except UNREADABLE as error:
        words = "no format that is read" if isinstance(error, UnidentifiedImageError) else str(error)
        loaded.refuse(f"cannot be read as a picture ({words})")
    loaded.row.seconds = time.perf_counter() - began
    return loaded


def _windows(pictures: Iterator[Picture], batch: int) -> Iterator[list[Picture]]:
    """Consecutive pictures that are computed together; how many depends on nothing but the pictures."""
    window: list[Picture] = []
    pixels = 0
    for each in pictures:
        window.append(each)
        pixels += (each.row.width or 0) * (each.row.height or 0)
        if len(window) >= (4 * batch if batch > 1 else 1) or pixels >= WINDOW_PIXELS:
            yield window
            window, pixels = [], 0
    if window:
        yield window


def _analyze(codec: bitstream.Codec, window: list[Picture], batch: int) -> list[Picture]:
    """Compute the latents of pictures, in batches of one padded size."""
    multiple = codec.factor * codec.entropy.factor

    def size(each: Picture) -> tuple[int, int]:
        assert each.picture
        return -(-each.picture.height // multiple), -(-each.picture.width // multiple)

    waiting = sorted((each for each in window if each.picture), key=size)
    for sides, same in groupby(waiting, size):
        group = list(same)
        for start in range(0, len(group), batch):
            _analyze_batch(codec, group[start : start + batch], sides, multiple)
    return window


def _analyze_batch(codec: bitstream.Codec, group: list[Picture], size: tuple[int, int], multiple: int) -> None:
    began = time.perf_counter()
    try:
        height, width = (multiple * side for side in size)
        bitstream.check_pixels(height, width, multiple)
        padded = [pad(to_array(each.picture), multiple) for each in group if each.picture]
        latents = codec.analyze(padded[0])[None] if len(padded) == 1 else codec.analyze(np.stack(padded))
        for each, one in zip(group, latents, strict=True):
            each.latents = one
    except UserError as error:
        for each in group:
            each.refuse(error)
    for each in group:
        each.row.seconds += (time.perf_counter() - began) / len(group)


def _entropy_code(codec: bitstream.Codec, window: list[Picture], *, rate: Rate, psnr: bool) -> list[Picture]:
    for each in window:
        if each.picture is None or each.latents is None:
            continue
        began, row = time.perf_counter(), each.row
        try:
            size = each.picture.height, each.picture.width
            most = rate.most_bytes(size[0] * size[1])
            each.data = bitstream.encode_latents(codec, each.latents, size, gain=rate.gain, most_bytes=most)
            row.bpp = 8 * len(each.data) / (size[0] * size[1])
            if psnr:
                row.psnr = _psnr(bitstream.decode(codec, each.data), each.picture)
        except UserError as error:
            each.refuse(error)
        each.latents = None
        row.seconds += time.perf_counter() - began
    return window


def _psnr(decoded: Image.Image, original: Image.Image) -> float:
    error = np.asarray(decoded, np.float32) - np.asarray(original, np.float32)
    return float(10 * np.log10(255**2 / max(np.square(error, dtype=np.float64).mean(), 1e-10)))


def _take(content: Content) -> Picture:
    return Picture(Row(None, content.name), content.data)


def _decode(codec: bitstream.Codec, each: Picture, region: bitstream.Box | None) -> Picture:
    if each.row.error or _ending(each.row.key) != CODED:
        return each
    began, row = time.perf_counter(), each.row
    try:
        each.picture = bitstream.decode(codec, each.data, region)
        row.width, row.height = each.picture.size
        row.bpp = None if region else 8 * len(each.data) / (row.width * row.height)
    except (bitstream.BadFile, UserError) as error:
        each.refuse(error)
    row.seconds += time.perf_counter() - began
    return each


def _save(each: Picture) -> Picture:
    if each.picture:
        buffer = BytesIO()
        each.picture.save(buffer, "PNG", compress_level=PNG_LEVEL)
        each.data = buffer.getvalue()
    return each


def _write(attempt: Attempt, each: Picture, endings: frozenset[str], suffix: str) -> Row | None:
    """Write a file to the shard; returns its row, None for files that are neither pictures nor refused."""
    row = each.row
    is_picture = _ending(row.key) in endings
    if not row.error:
        try:
            name = attempt.name_for(os.path.splitext(row.key)[0] + suffix if is_picture else row.key)
            attempt.add(name, each.data)
            if is_picture:
                row.name, row.checksum, row.bytes = name, checksum(each.data), len(each.data)
        except ValueError as error:  # from `name_for`
            each.refuse(error)
            row.bpp = row.psnr = None
    return row if is_picture or row.error else None
