"""Measure contenders: what they lose in dB, how long they take, and how much memory they need."""

import statistics
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import torch

from codecswap.benchmarking.contenders import Contender, Feeds, Size
from codecswap.benchmarking.files import Files, compare
from codecswap.benchmarking.machines import Ask
from codecswap.benchmarking.runtimes import RUNTIMES, own_python
from codecswap.codecs.protocol import Codec
from codecswap.codecs.torch_codec import TorchCodec
from codecswap.data.samples import held_out_pictures
from codecswap.entropy.bitstream import to_symbols
from codecswap.errors import RunFailure, UserError
from codecswap.metrics import psnr, to_8_bits
from codecswap.runner import messages

OK = "ok"
"""Status of a row that was measured."""
RUNS = 3
"""Timed runs of each size in one visit."""
HIGHEST = 150.0
"""Decibels that stand for equal results."""


@dataclass(frozen=True)
class Times:
    """Milliseconds of one run, over all rounds."""

    median: float
    lower: float
    """First quartile."""
    upper: float
    """Third quartile."""
    cpu: float
    """Median of the processor time, of all threads together; other programs do not count."""

    @classmethod
    def of(cls, ms: Sequence[float], cpu_ms: Sequence[float]) -> "Times":
        """Quartiles of at least two runs."""
        lower, median, upper = statistics.quantiles(ms, n=4, method="inclusive")
        return cls(median, lower, upper, statistics.median(cpu_ms))


@dataclass(frozen=True)
class Energy:
    """Joules for one picture, in the mean over a second or more."""

    joules: float
    """All that the sensor covers (`codecswap.runner.power.find`)."""
    above_idle: float
    """The same without what it uses in that time when nothing is computed."""


@dataclass(frozen=True)
class Row:
    """Result for one contender."""

    source: str
    form: str
    precision: str
    runtime: str
    status: str
    """``ok``, or why there are no figures, as a sentence."""
    version: str = ""
    """The runtime's version."""
    bytes: int | None = None
    """Size of the decoder's file, at its largest size of pictures."""
    lost: float | None = None
    """PSNR that is lost against the float teacher, in dB, in the mean over the held-out pictures; None without pictures."""
    to_reference: float | None = None
    """PSNR against the float reference's results, not rounded to 8 bits, in dB, at most `HIGHEST`."""
    to_here: float | None = None
    """PSNR of a board's results against those of the same file and runtime on the machine that asks, in dB, the least of all
    pictures; `HIGHEST`: they are equal, bit for bit; None: not compared."""
    times: dict[str, Times] = field(default_factory=dict)
    """By size, ``WIDTHxHEIGHT``."""
    energy: dict[str, Energy] = field(default_factory=dict)
    """By size; empty: the machine has no sensor of power."""
    files: Files | None = None
    """Real .csw files; None: none were decoded."""
    files_status: str = ""
    """Why there are none, as a sentence."""
    memory: int | None = None
    """Peak of the resident memory of a process that does nothing else, in bytes; with CUDA of the GPU's."""


@dataclass(frozen=True)
class Sample:
    """An input of the decoder, and what the reference makes of it."""

    coded: Any
    """What `Contender.feeds` takes."""
    decoded: np.ndarray
    """The float reference's result, not clamped."""
    peak: float = 1.0
    """The largest magnitude that results have."""
    picture: np.ndarray | None = None
    """The original, ``(3, H, W)``, float32 in [0, 1]; None: there is none."""
    psnr: float = 0.0
    """PSNR of the teacher's result in 8 bits against the picture, in dB."""
    latents: np.ndarray | None = None
    """Before rounding, where ``coded`` is of a picture."""


class Samples(Protocol):
    """Inputs that contenders are measured on."""

    def samples(self, size: Size) -> list[Sample]:
        """At least one, for pictures of a width and height.

        Raises:
            UserError: there are none of this size.
        """


class HeldOut:
    """Held-out pictures, cut to the sizes that are asked for.

    Args:
        teacher: the float codec that losses are measured against.
        codec: the codec whose decoder is measured: the teacher, or its student.
        folder: folder of pictures; None: the package's photographs that nothing is calibrated on.
    """

    def __init__(self, teacher: Codec, codec: Codec, folder: str | None = None) -> None:
        self._teacher, self._codec, self._folder = TorchCodec(teacher), TorchCodec(codec), folder
        self._samples: dict[Size, list[Sample]] = {}

    def check(self, sizes: Sequence[Size]) -> None:
        """Refuse sizes that the codec does not have.

        Raises:
            UserError: there is one.
        """
        multiple = self._codec.codec.multiple
        for size in sizes:
            if any(side % multiple for side in size):
                raise UserError(f"--sizes of this codec are multiples of {multiple}, not {text(size)}.")

    def samples(self, size: Size) -> list[Sample]:
        """All pictures, cut to a width and height."""
        if size not in self._samples:
            found = held_out_pictures(self._folder, size, self._codec.codec.multiple)
            self._samples[size] = [self._sample(picture) for picture in found]
        return self._samples[size]

    def _sample(self, picture: np.ndarray) -> Sample:
        latents = self._codec.analyze(picture)
        coded = self._codec.entropy.quantize(latents, self._codec.hyper_analyze)
        decoded = shown = self._codec.synthesize(coded.symbols, coded.means)
        if self._teacher.codec is not self._codec.codec:
            theirs = to_symbols(self._teacher, picture)
            shown = self._teacher.synthesize(theirs.symbols, theirs.means)
        return Sample(coded, decoded, picture=picture, psnr=_psnr_in_8_bits(shown, picture), latents=latents)


class Visit:
    """What one contender is asked to do, in each round.

    Raises:
        UserError: its file cannot be written.
    """

    def __init__(self, contender: Contender, sizes: Sequence[Size], held_out: Samples) -> None:
        self.contender = contender
        fixed = contender.size
        # the largest comes first: its file is open after the pictures
        self.sizes = sorted((size for size in sizes if fixed in (None, size)), key=lambda size: -size[0] * size[1])
        if not self.sizes:
            raise UserError(f"Its size is fixed: add --sizes {text(fixed or (0, 0))}.")
        self.largest = self.sizes[0]
        files = {size: contender.network(size) for size in self.sizes}
        self.bytes = len(files[self.largest])
        self._files = {size: contender.opened(content) for size, content in files.items()}
        self._samples = held_out.samples(self.largest)
        self._feeds = {size: self._fed(held_out.samples(size)[0]) for size in self.sizes}
        self.version, self.memory = "", 0
        self.lost, self.to_reference, self.to_here = list[float](), list[float](), list[float]()
        self.ms: dict[Size, tuple[list[float], list[float]]] = {size: ([], []) for size in self.sizes}
        self.energy: dict[Size, Energy] = {}
        self.files: Files | None = None
        self.files_status = ""

    def _fed(self, sample: Sample) -> Feeds:
        own = self.contender.coded
        return self.contender.feeds(own(sample.latents) if own and sample.latents is not None else sample.coded)

    def go(self, ask: Ask, threads: int, here: Ask | None = None, power: bool = False) -> None:
        """Ask a new process for times, in the first round also for pictures and energy; ``here`` and ``power`` as in `measure`.

        Raises:
            UserError: it gives no answer.
        """
        arrays: dict[str, np.ndarray] = {}
        tasks: list[dict[str, Any]] = []

        def task(size: Size, feeds: Feeds, repeats: int, keep: bool) -> None:
            name = text(size)
            arrays[name] = np.frombuffer(self._files[size], np.uint8)
            given = {key: f"{len(tasks)}/{key}" for key in feeds}
            arrays.update({given[key]: values for key, values in feeds.items()})
            tasks.append({"network": name, "feeds": given, "repeats": repeats, "keep": keep})

        shown = [] if self.to_reference else self._samples
        for sample in shown:
            task(self.largest, self._fed(sample), 0, True)
        for size in self.sizes:
            task(size, self._feeds[size], RUNS, False)
        known, python = RUNTIMES[self.contender.runtime], own_python(self.contender.runtime)
        facts = {"runtime": known.runner, "threads": threads, "config": self.contender.config, "tasks": tasks}
        facts["power"] = power and not self.energy
        try:
            answer, results = messages.answer(*ask(messages.pack(facts, arrays), threads, python))
        except messages.NoAnswer as error:
            needs = f" It needs {known.install}." if known.toolchain else ""
            raise UserError(f"Failed: {error}.{needs}") from None
        self.version, self.memory = answer["version"], max(self.memory, answer["peak_bytes"] or 0)
        for index, sample in enumerate(shown):
            result = results[str(index)][0]
            if not np.isfinite(result).all():
                raise UserError("Failed: it gives values that are no numbers.")
            if sample.picture is not None:
                self.lost.append(sample.psnr - _psnr_in_8_bits(result, sample.picture))
            self.to_reference.append(min(_psnr(result / sample.peak, sample.decoded / sample.peak), HIGHEST))
        if here and shown:
            facts["tasks"] = tasks[: len(shown)]
            with suppress(messages.NoAnswer):  # the runtime is not there
                _, wanted = messages.answer(*here(messages.pack(facts, arrays), threads, python))
                for index, sample in enumerate(shown):
                    pair = (results[str(index)] / sample.peak, wanted[str(index)] / sample.peak)
                    self.to_here.append(min(_psnr(*pair), HIGHEST))
        for size, done in zip(self.sizes, answer["tasks"][len(shown) :], strict=True):
            for found, more in zip(self.ms[size], (done["ms"], done["cpu_ms"]), strict=True):
                found += more
            if "joules" in done:
                self.energy[size] = Energy(done["joules"], done["joules"] - done["idle_joules"])

    def decode_files(self, ask: Ask, threads: int, library: bytes, here: Ask | None) -> None:
        """Ask a new process to decode a file of each picture; arguments as of `measure`."""
        try:
            if self.contender.file_codec:
                self.files = self._decoded(ask, threads, library, here)
        except RunFailure:
            raise
        except (messages.NoAnswer, UserError) as error:
            self.files_status = str(error) if isinstance(error, UserError) else f"Failed: {error}."

    def _decoded(self, ask: Ask, threads: int, library: bytes, here: Ask | None) -> Files:
        assert self.contender.file_codec
        codec, contents = self.contender.file_codec(), []
        for sample in self._samples:
            assert sample.latents is not None and sample.picture is not None
            contents.append(codec.encode(sample.latents, (sample.picture.shape[1], sample.picture.shape[2])))
        feeds = [self.contender.feeds(codec.read(content)) for content in contents]
        known, python = RUNTIMES[self.contender.runtime], own_python(self.contender.runtime)
        facts = {"runtime": known.runner, "threads": threads, "config": self.contender.config}
        network = {"network": np.frombuffer(self._files[self.largest], np.uint8)}
        (input,) = feeds[0]
        names = [f"{index}.csw" for index in range(len(contents))]
        given = {**codec.binaries, "library": library, **dict(zip(names, contents, strict=True))}
        files = {"codec": codec.facts(input), "binaries": [*codec.binaries], "contents": names}
        request = {**facts, "tasks": [], "files": {**files, "library": "library", "network": "network"}}
        arrays = network | {name: np.frombuffer(content, np.uint8) for name, content in given.items()}
        answer, pictures = messages.answer(*ask(messages.pack(request, arrays), threads, python))
        inputs, wanted = [each[input] for each in feeds], None
        tasks = [
            {"network": "network", "feeds": {input: str(index)}, "repeats": 0, "keep": True}
            for index in range(len(inputs))
        ]
        with suppress(messages.NoAnswer):  # the runtime is not there
            arrays = network | {str(index): values for index, values in enumerate(inputs)}
            again = messages.pack({**facts, "tasks": tasks}, arrays)
            _, results = messages.answer(*(here or ask)(again, threads, python))
            wanted = [results[str(index)][0] for index in range(len(inputs))]
        shown = [pictures[str(index)] for index in range(len(inputs))]
        return compare(answer["files"], shown, inputs, wanted, lambda x, y: min(_psnr(x, y), HIGHEST))

    def row(self) -> Row:
        """Its figures so far."""
        return replace(
            _row(self.contender, OK),
            version=self.version,
            bytes=self.bytes,
            lost=float(np.mean(self.lost)) if self.lost else None,
            to_reference=float(np.mean(self.to_reference)),
            to_here=min(self.to_here, default=None),
            times={text(size): Times.of(*self.ms[size]) for size in reversed(self.sizes)},
            energy={text(size): self.energy[size] for size in reversed(self.sizes) if size in self.energy},
            files=self.files,
            files_status=self.files_status,
            memory=self.memory or None,
        )


def measure(
    contenders: Sequence[Contender],
    sizes: Sequence[Size],
    held_out: Samples,
    ask: Ask,
    *,
    threads: int = 1,
    rounds: int = 3,
    here: Ask | None = None,
    power: bool = False,
    library: bytes | None = None,
    advance: Callable[[str], None] = lambda text: None,
) -> list[Row]:
    """Measure contenders in turns, so that what else the machine does falls on all of them alike.

    In each round each contender gets a process of its own, which runs it once and then `RUNS` times for each size.

    Args:
        contenders: the rows.
        sizes: widths and heights of pictures to time.
        held_out: the pictures.
        ask: the machine.
        threads: threads of each runtime.
        rounds: times that each has its turn.
        here: this machine, whose results those of a board are compared with; None: nothing is compared.
        power: measure energy, on a machine that has a sensor: a second more for each row, and for each of its sizes.
        library: the C library for the machine (`codecswap.benchmarking.c_library`), which decodes .csw files there; None: there
            are no files.
        advance: called before each turn with its name.

    Returns: one row for each contender, in order.

    Raises:
        RunFailure: the machine cannot be reached any more.
    """
    rows: list[Row | Visit] = []
    for contender in contenders:
        if contender.refused:
            rows.append(_row(contender, contender.refused))
            continue
        advance(label(contender))
        try:
            rows.append(Visit(contender, sizes, held_out))
        except UserError as error:
            rows.append(_row(contender, str(error)))
    for _ in range(rounds):
        for index, visit in enumerate(rows):
            if isinstance(visit, Visit):
                advance(label(visit.contender))
                try:
                    visit.go(ask, threads, here, power)
                    if library and not (visit.files or visit.files_status):
                        visit.decode_files(ask, threads, library, here)
                except RunFailure:  # the machine is gone
                    raise
                except UserError as error:
                    rows[index] = replace(_row(visit.contender, str(error)), bytes=visit.bytes)
    return [row.row() if isinstance(row, Visit) else row for row in rows]


def label(contender: Contender | Row) -> str:
    """Form, precision and runtime, as text."""
    return ", ".join(filter(None, (contender.form, contender.precision, contender.runtime)))


def text(size: Size) -> str:
    """``768x512``."""
    return f"{size[0]}x{size[1]}"


def _row(contender: Contender, status: str) -> Row:
    return Row(contender.source, contender.form, contender.precision, contender.runtime, status)


def _psnr(x: np.ndarray, y: np.ndarray) -> float:
    return psnr(torch.from_numpy(x)[None], torch.from_numpy(y)[None]).item()


def _psnr_in_8_bits(x: np.ndarray, picture: np.ndarray) -> float:
    return psnr(to_8_bits(torch.from_numpy(x)[None]), torch.from_numpy(picture)[None]).item()
