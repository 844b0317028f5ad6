"""``codecswap benchmark``: measure every form, precision and runtime of a decoder, print the table, and write the files."""

import shlex
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.filesize import decimal

from codecswap.benchmarking import results
from codecswap.benchmarking.c_library import shared_library
from codecswap.benchmarking.contenders import Contender, Forms, Size, of_codec, of_folder
from codecswap.benchmarking.estimates import Estimate, estimate, has_files
from codecswap.benchmarking.machines import Machine, ask_here, board, this_machine
from codecswap.benchmarking.measure import HIGHEST, OK, RUNS, HeldOut, Row, Samples, label, measure, text
from codecswap.benchmarking.onnx_file import PHASES, OnnxFile
from codecswap.benchmarking.runtimes import MODULES, RUNTIMES
from codecswap.codecs.protocol import Codec
from codecswap.codecs.source import Teacher
from codecswap.compile.ethos_u import VELA
from codecswap.config import BenchmarkOptions, Form
from codecswap.console import bar, say, show_table
from codecswap.errors import UserError
from codecswap.runner.networks import EMULATED
from codecswap.runner.respond import triple
from codecswap.students.checkpoint import read_student


def main(options: BenchmarkOptions) -> None:
    """Measure, print and write."""
    sizes = options.chosen_sizes
    machine = board(options.host, MODULES) if options.host is not None else this_machine(MODULES)
    with tempfile.TemporaryDirectory() as scratch:
        contenders, held_out = _contenders(options, Path(scratch), machine)
        library = _library(contenders, machine)
        runnable = sum(not one.refused for one in contenders)
        with bar("Benchmark", runnable * (options.rounds + 1), unit="turns") as advance:
            rows = measure(
                contenders,
                sizes,
                held_out,
                machine.ask,
                here=ask_here if options.host is not None else None,
                power=machine.has_sensor,
                library=library,
                threads=options.threads,
                rounds=options.rounds,
                advance=lambda name: advance(1),
            )
    head = results.facts(shlex.join(["codecswap", "benchmark", *sys.argv[2:]]), machine.description)
    _show(rows, sizes, machine.description, options)
    if any(row.status == OK for row in rows):
        say(f"Energy: {machine.sensor}." if machine.has_sensor else f"Energy is not measured: {machine.sensor}.")
    found = _estimates(contenders, sizes)
    settings: dict[str, Any] = {"threads": options.threads, "rounds": options.rounds, "runs": options.rounds * RUNS}
    settings |= {"sensor": machine.sensor if machine.has_sensor else None, "estimates": [asdict(one) for one in found]}
    results.write(options.output, head, settings, rows)
    say(f"Written: {options.output / results.JSON} and {results.CSV}.")


def _estimates(contenders: Sequence[Contender], sizes: Sequence[Size]) -> list[Estimate]:
    """Estimate what Arm's compiler can, and show it."""
    if not any(map(has_files, contenders)):
        return []
    if (compiler := VELA.installed(None)) is None:
        say(f"Ethos-U: not estimated. Not installed: {VELA.install}.")
        return []
    found = estimate(contenders, sizes, compiler)
    lines = []
    for one in found:
        figures = f"{one.cycles / 1e6:.2f}", f"{one.milliseconds:.1f}", decimal(one.memory), str(one.on_cpu)
        lines.append([f"{one.form}, {one.precision}", one.chip, one.size, *figures])
    columns = ["decoder", "NPU", "picture", "10^6 cycles", "ms", "memory", "operators on the CPU"]
    show_table(f"The same TFLite files on Arm's NPUs, as {compiler} estimates", columns, lines)
    return found


def _contenders(options: BenchmarkOptions, scratch: Path, machine: Machine) -> tuple[list[Contender], Samples]:
    runtimes = [name for name in options.runtime if not (machine.is_board and RUNTIMES[name].file == "module")]
    if options.onnx:
        file = OnnxFile(options.onnx, scratch)
        return list(file.contenders(options.form, runtimes, machine)), file
    codec, teacher, name = _load(options)
    held_out = HeldOut(teacher, codec, options.images)
    held_out.check(options.chosen_sizes)
    if not options.codec:
        forms: list[Form] = [form for form in options.form if form != PHASES]
        found = of_codec(codec, name, forms, options.precision, runtimes, Forms(codec), machine)
        return list(found), held_out
    return [row for folder in options.codec for row in of_folder(Path(folder), codec, runtimes, machine)], held_out


def _load(options: BenchmarkOptions) -> tuple[Codec, Codec, str]:
    """The codec, its teacher, and its name."""
    source = Teacher.of(options)
    if not options.checkpoint:
        codec = source.load()
        return codec, codec, source.name
    loaded = read_student(options.checkpoint, [source])
    if loaded.record and not options.given & {"teacher", "model", "quality", "metric"}:
        source = Teacher.of(loaded.record)
    return loaded.student.requires_grad_(False), source.load(), loaded.path.name


def _show(rows: Sequence[Row], sizes: Sequence[Size], machine: str, options: BenchmarkOptions) -> None:
    lines, measured, decoded = [], any(row.energy for row in rows), any(row.files for row in rows)
    for row in rows:
        if row.status != OK:
            continue
        loss = row.lost if row.lost is not None else row.to_reference
        cells = [label(row), decimal(row.bytes or 0), f"{round(loss, 3) + 0:.3f}" if loss is not None else ""]
        for size in sizes:
            times = row.times.get(text(size))
            cells.append(f"{times.median:.1f} ({times.lower:.1f}-{times.upper:.1f})" if times else "")
            if measured:
                energy = row.energy.get(text(size))
                cells.append(f"{energy.joules:.3g} ({energy.above_idle:.3g})" if energy else "")
        if options.host is not None:
            near = "" if row.to_here is None else "equal" if row.to_here == HIGHEST else f"{row.to_here:.1f}"
            cells.append(near)
        if decoded:
            cells.append(_files(row))
        lines.append([*cells, decimal(row.memory) if row.memory else ""])
    sources = list(dict.fromkeys(row.source for row in rows))
    figure = "to the file, dB" if options.onnx else "dB lost"
    there = ["to this machine, dB"] if options.host is not None else []
    there += ["its .csw files: ms, picture"] * decoded
    timed = [f"{unit}, {text(size)}" for size in sizes for unit in ("ms", *["J (above idle)"] * measured)]
    columns = ["decoder", "size", figure, *timed, *there, "memory"]
    threads = f"{options.threads} thread{'s' * (options.threads > 1)}"
    where = options.host or machine
    title = f"{', '.join(sources)} on {where}, {threads}: median (and quartiles) of {options.rounds * RUNS} runs"
    if len(sources) > 1:
        done = (row for row in rows if row.status == OK)
        lines = [[f"{row.source}: {line[0]}", *line[1:]] for row, line in zip(done, lines, strict=True)]
    show_table(title, columns, lines)
    for row in rows:
        if row.status != OK:
            say(f"{label(row)}: {row.status}")
        elif row.version.endswith(EMULATED):
            say(f"{label(row)}: emulated, so its times are not the NPU's.")
    for reason in dict.fromkeys(row.files_status for row in rows if row.files_status):
        say(f"{', '.join(label(row) for row in rows if row.files_status == reason)}: no .csw files. {reason}")


def _files(row: Row) -> str:
    """Milliseconds of the C library for a file, and how its picture compares with this machine's."""
    if (files := row.files) is None:
        return ""
    near = "" if files.to_here is None else "equal" if files.to_here == HIGHEST else f"{files.to_here:.1f} dB"
    if files.same_inputs < files.count:
        near = f"other latents in {files.count - files.same_inputs} of {files.count}"
    return ", ".join(filter(None, (f"{files.read_ms + files.rgb_ms:.1f}", near)))


def _library(contenders: Sequence[Contender], machine: Machine) -> bytes | None:
    """The C library for the machine, or None and a sentence on the screen."""
    if not any(one.file_codec and not one.refused for one in contenders):
        return None
    try:
        return shared_library(machine.triple, triple())
    except UserError as error:
        say(f"No .csw files are decoded. {error}")
        return None
