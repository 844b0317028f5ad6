"""``codecswap encode`` and ``codecswap decode``: files and whole folders; PyTorch only where the codec is not exported."""

import multiprocessing
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from codecswap.config import CodingOptions
from codecswap.console import say, warn
from codecswap.data.discovery import scan
from codecswap.data.pictures import UNREADABLE, load_picture
from codecswap.entropy import bitstream
from codecswap.errors import UserError, how_to_install
from codecswap.files import atomic_write
from codecswap.inference.runtime import OnnxCodec
from codecswap.processes import cores

SUFFIX = ".csw"
MOST_BYTES = 1 << 29
"""Of a file; no picture that may be encoded takes so many."""

Work = Callable[[bitstream.Codec, Path, Path], str]
"""Does one file; returns what is said of it."""


@dataclass(frozen=True)
class Source:
    """Which codec to open; a process opens its own."""

    path: str | None
    """An exported folder, a teacher or a student; None: the zoo's."""
    model: str
    quality: int
    metric: str
    threads: int
    runtime: str
    """Of an exported folder."""

    def open(self) -> bitstream.Codec:
        """Load the codec.

        Raises:
            UserError: there is none, or it is damaged.
        """
        if self.path and Path(self.path).is_dir():
            return OnnxCodec(Path(self.path), self.threads, runtime=self.runtime)
        if self.runtime != "onnxruntime":
            raise UserError(
                f"--runtime {self.runtime} is for exported folders: name one with --codec (`codecswap export` makes it)."
            )
        try:
            import torch

            from codecswap.codecs.safe_load import read_state
            from codecswap.codecs.source import Teacher
            from codecswap.codecs.torch_codec import TorchCodec
            from codecswap.students.checkpoint import read_student
        except ModuleNotFoundError as error:
            raise UserError(
                f"--codec {self.path or 'from the zoo'} needs {error.name}, which is not installed: name an exported folder, "
                f"or {how_to_install('train')}."
            ) from None
        torch.set_num_threads(self.threads)
        if self.path and Path(self.path).is_file() and "student_state" in read_state(Path(self.path)):
            return TorchCodec(read_student(self.path).student.requires_grad_(False))
        return TorchCodec(Teacher(self.path, self.quality, self.metric, self.model).load())


def encode(options: CodingOptions) -> int:
    """``codecswap encode``."""
    return _all(options, encode_file, scan, SUFFIX)


def decode(options: CodingOptions) -> int:
    """``codecswap decode``."""

    def coded(folder: Path) -> list[Path]:
        return sorted(folder.rglob(f"*{SUFFIX}"))

    return _all(options, decode_file, coded, ".png")


def encode_file(codec: bitstream.Codec, source: Path, target: Path) -> str:
    """Code the picture ``source``; returns its size in words.

    Raises:
        UserError: it cannot be read, or the codec cannot take its size.
    """
    try:
        picture = load_picture(source)
    except FileNotFoundError:
        raise UserError(f"There is no picture {source}: check the path.") from None
    except UNREADABLE as error:
        raise UserError(f"{source} cannot be read as a picture ({error}): name a PNG, JPEG or WebP file.") from None
    data = bitstream.encode(codec, picture)
    with atomic_write(target) as path:
        path.write_bytes(data)
    bpp = 8 * len(data) / (picture.width * picture.height)
    return f"{picture.width}x{picture.height}, {len(data):,} bytes, {bpp:.3f} bits per pixel"


def decode_file(codec: bitstream.Codec, source: Path, target: Path) -> str:
    """Decode the file ``source`` to a PNG; returns its size in words.

    Raises:
        UserError: it is no such file, damaged, of another codec or a newer version. No picture is written then.
    """
    if not source.is_file():
        raise UserError(f"There is no file {source}: check the path.")
    if source.stat().st_size > MOST_BYTES:
        raise UserError(f"{source} is too large to be a coded picture: name a {SUFFIX} file.")
    try:
        picture = bitstream.decode(codec, source.read_bytes())
    except bitstream.BadFile as error:
        raise UserError(f"{source} {error}.") from None
    with atomic_write(target) as path:
        picture.save(path, "PNG")
    return f"{picture.width}x{picture.height}"


def _all(options: CodingOptions, work: Work, find: Callable[[Path], list[Path]], suffix: str) -> int:
    if options.input is None or options.output is None:
        raise UserError("Name what to read with --input and what to write with --output: two files, or two folders.")
    if options.jobs < 1:
        raise UserError(f"--jobs is at least 1, not {options.jobs}.")
    jobs = options.jobs if options.input.is_dir() else 1
    threads = options.threads or max(1, cores() // jobs)
    source = Source(options.codec, options.model, options.quality, options.metric, threads, options.runtime)
    if not options.input.is_dir():
        codec = source.open()
        options.output.parent.mkdir(parents=True, exist_ok=True)
        say(f"{options.output}: {work(codec, options.input, options.output)}.")
        return 0
    pairs = _pairs(options.input, options.output, find(options.input), suffix)
    failed = 0
    for (path, _), (done, words) in zip(pairs, _run(source, work, pairs, jobs), strict=True):
        say(f"{path}: {words}.") if done else warn(words)
        failed += not done
    if failed:
        raise UserError(
            f"{failed} of {len(pairs)} files could not be done; the others were written to {options.output}."
        )
    say(f"{len(pairs)} files written to {options.output}.")
    return 0


def _pairs(root: Path, output: Path, paths: list[Path], suffix: str) -> list[tuple[Path, Path]]:
    """Each file of a folder and what it becomes, the sub-folders kept."""
    if not paths:
        raise UserError(f"The folder {root} holds nothing to do: name another with --input.")
    made: dict[Path, Path] = {}
    for path in paths:
        target = (output / path.relative_to(root)).with_suffix(suffix)
        if target in made:
            raise UserError(f"{made[target]} and {path} would both become {target}: rename one of them.")
        made[target] = path
    for target in made:
        target.parent.mkdir(parents=True, exist_ok=True)
    return [(path, target) for target, path in made.items()]


def _run(source: Source, work: Work, pairs: list[tuple[Path, Path]], jobs: int) -> Iterator[tuple[bool, str]]:
    """Do all files, in order; one that cannot be done does not stop the others."""
    if jobs == 1:
        _open(source)
        for pair in pairs:
            yield _one(work, *pair)
        return
    source.open()  # what is wrong with the codec is said once
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(jobs, len(pairs)), context, _open, (source,)) as pool:
        yield from pool.map(_one, [work] * len(pairs), *zip(*pairs, strict=True))


_codec: bitstream.Codec
"""Each process's own."""


def _open(source: Source) -> None:
    global _codec
    if multiprocessing.parent_process():
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the main process's to answer
    _codec = source.open()


def _one(work: Work, source: Path, target: Path) -> tuple[bool, str]:
    try:
        return True, work(_codec, source, target)
    except UserError as error:
        return False, str(error)
