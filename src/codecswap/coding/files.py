"""Encode and decode many files, in one process or several."""

import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from PIL.PngImagePlugin import PngInfo

from codecswap.coding.source import Source
from codecswap.data.discovery import ENDINGS, scan
from codecswap.data.pictures import UNREADABLE, load_picture
from codecswap.entropy import bitstream
from codecswap.errors import UserError
from codecswap.files import atomic_write, ignores_case, one_name
from codecswap.identify import describe, no_file, refusal

SUFFIX = ".csw"
MOST_BYTES = 1 << 29
"""Largest size of a .csw file that is read; no picture takes more."""
MARK = ("Software", "codecswap")
"""Mark in the PNG files written here, which a later run may overwrite."""

Work = Callable[[bitstream.Codec, Path, Path], str]
"""Processes one file; returns a message about it."""


@dataclass(frozen=True)
class Rate:
    """How many bits files of a codec with variable rate take; at most one is set."""

    gain: float | None = None
    bpp: float | None = None
    """Bits per pixel that are not exceeded."""
    size: int | None = None
    """Bytes that are not exceeded."""

    def most_bytes(self, pixels: int) -> int | None:
        """Largest size of the file of a picture."""
        return self.size if self.bpp is None else int(self.bpp * pixels / 8)


def encode_file(codec: bitstream.Codec, source: Path, target: Path, rate: Rate = Rate()) -> str:
    """Encode the picture ``source``; returns its size as text.

    Raises:
        UserError: it cannot be read, the codec cannot take its size, or has no such rate.
    """
    try:
        picture = load_picture(source)
    except FileNotFoundError:
        raise UserError(f"There is no picture {source}: check the path.") from None
    except UNREADABLE as error:
        if "picture, which `codecswap encode`" not in describe(source):
            raise refusal(source, "a picture", "name a PNG, JPEG, WebP, BMP or TIFF file") from None
        raise UserError(f"{source} cannot be read as a picture ({error}): name a PNG, JPEG or WebP file.") from None
    most = rate.most_bytes(picture.width * picture.height)
    data = bitstream.encode(codec, picture, gain=rate.gain, most_bytes=most)
    target.parent.mkdir(parents=True, exist_ok=True)  # now, when there is something to write
    with atomic_write(target) as path:
        path.write_bytes(data)
    bpp = 8 * len(data) / (picture.width * picture.height)
    return f"{picture.width}x{picture.height}, {len(data):,} bytes, {bpp:.3f} bits per pixel"


def decode_file(codec: bitstream.Codec, source: Path, target: Path, region: bitstream.Box | None = None) -> str:
    """Decode the file ``source``, or a ``region`` of it, to a PNG; returns its size as text.

    Raises:
        UserError: it is not a .csw file, damaged, of another codec or of a newer version, or smaller than the region; no
            picture is written.
    """
    if not source.is_file():
        raise no_file(source, f"{SUFFIX} file", "check the path")
    if source.stat().st_size > MOST_BYTES:
        raise UserError(f"{source} is too large to be a coded picture: name a {SUFFIX} file.")
    data = source.read_bytes()
    if not data.startswith(bitstream.MAGIC):
        raise refusal(source, "a picture that codecswap encoded", f"name a {SUFFIX} file")
    try:
        picture = bitstream.decode(codec, data, region)
    except bitstream.BadFile as error:
        raise UserError(f"{source} {error}.") from None
    mark = PngInfo()
    mark.add_text(*MARK)
    target.parent.mkdir(parents=True, exist_ok=True)  # now, when there is something to write
    with atomic_write(target) as path:
        picture.save(path, "PNG", pnginfo=mark)
    return f"{picture.width}x{picture.height}"


def pairs(inputs: Sequence[Path], output: Path, suffix: str) -> list[tuple[Path, Path]]:
    """Pairs of input and output file; sub-folders are kept.

    Args:
        inputs: files and folders; of a folder all pictures, or all .csw files if ``suffix`` is .png.
        output: a folder that exists or, for one file, the file to write; for several files or a folder, a folder.
        suffix: suffix of the output files.

    Raises:
        UserError: a folder has no such files, two outputs would have one name, or an output folder is needed.
    """
    into_folder = len(inputs) > 1 or inputs[0].is_dir() or output.is_dir()
    if into_folder and (output.is_file() or (output.suffix.lower() == suffix and not output.is_dir())):
        raise UserError(f"--output {output} is no folder, which several files need: name one.")
    sources: dict[Path, Path] = {}
    taken: dict[str, Path] = {}
    for given in inputs:
        if given.is_dir() and not (found := scan(given, ENDINGS if suffix == SUFFIX else (SUFFIX,))):
            raise UserError(f"The folder {given} holds nothing to do: name another with --input.")
        for path in found if given.is_dir() else [given]:
            place = path.relative_to(given) if given.is_dir() else Path(path.name)
            target = (output / place).with_suffix(suffix) if into_folder else output
            if target in sources:
                raise UserError(f"{sources[target]} and {path} would both become {target}: rename one of them.")
            other = taken.setdefault(one_name(target), target)
            if other != target and ignores_case(output):
                raise UserError(
                    f"{sources[other]} and {path} would both become {target}, since names that differ only in case are one "
                    f"file in {output}: rename one of them, or name a folder on another disk."
                )
            sources[target] = path
    return [(path, target) for target, path in sources.items()]


def check_replaceable(target: Path) -> None:
    """Refuse to overwrite a file that codecswap did not write.

    Raises:
        UserError: ``target`` exists, and is neither a .csw file nor a PNG with `MARK`.
    """
    if not target.exists():
        return
    if not target.is_file():
        raise UserError(f"{target} is no file, but {describe(target)}: name a file to write.")
    with target.open("rb") as file:
        start = file.read(1024)
    if not start.startswith(bitstream.MAGIC) and b"tEXt" + "\0".join(MARK).encode() not in start:
        raise UserError(f"{target} is there and was not written by codecswap: name another file, or add --force.")


def run(
    source: Source, work: Work, pairs: Sequence[tuple[Path, Path]], jobs: int, *, force: bool = False
) -> Iterator[tuple[bool, str]]:
    """Process all files in order; a file that fails does not stop the others.

    Args:
        source: the codec.
        work: `encode_file` or `decode_file`.
        pairs: input and output files.
        jobs: number of processes.
        force: overwrite files that codecswap did not write.

    Yields:
        Whether each file succeeded, and a message about it.
    """
    if jobs == 1:
        _open(source)
        for pair in pairs:
            yield _one(work, *pair, force)
        return
    source.open()  # an error of the codec is reported once
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(jobs, len(pairs)), context, _open, (source,)) as pool:
        yield from pool.map(_one, [work] * len(pairs), *zip(*pairs, strict=True), [force] * len(pairs))


_codec: bitstream.Codec
"""The codec of this process."""


def _open(source: Source) -> None:
    global _codec
    if multiprocessing.parent_process():
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process handles Ctrl-C
    _codec = source.open()


def _one(work: Work, source: Path, target: Path, force: bool) -> tuple[bool, str]:
    try:
        if not force:
            check_replaceable(target)
        return True, work(_codec, source, target)
    except UserError as error:
        return False, str(error)
    except OSError as error:
        return False, f"{error.filename or target}: {error.strerror or error}."
