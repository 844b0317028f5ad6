"""Find the fastest replacement on an NPU with its compiler."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from codecswap.codecs.protocol import Codec
from codecswap.compile import TOOLCHAINS
from codecswap.compile.compiler import SIZE, make_job
from codecswap.compile.toolchain import Compiled
from codecswap.console import say, show_table, track
from codecswap.data.samples import held_out_pictures
from codecswap.errors import UserError
from codecswap.quantize.budget import Budget, search
from codecswap.quantize.scheme import Frontier
from codecswap.targets.target import load_target

RANGE_PICTURES = 2
"""Number of pictures for range estimation: speed does not depend on ranges."""


def compare(choices: Mapping[str, Codec], name: str, target: str, exact: Sequence[str]) -> set[str] | None:
    """Compile a teacher with each replacement, print the compiler's figures, and name the fastest.

    Args:
        choices: codecs by the names of their replacements, including the teacher.
        name: source of the teacher, as text.
        target: a target of `codecswap compile`.
        exact: names of the exact choices.

    Returns: None; or, where the compiler is not installed or there is none, the ONNX operators that the target has.
    """
    chosen = load_target(target)
    toolchain = TOOLCHAINS.get(chosen.toolchain or "")
    if toolchain is None or (compiler := toolchain.installed(None)) is None:
        missing = f" {toolchain.install}." if toolchain else ""
        say(f"No compiler was asked, so this is by {chosen.name}'s list of operators alone.{missing}")
        return set(chosen.operators)
    found = {}
    for choice, codec in track(compiler, choices.items(), unit="choices"):
        with tempfile.TemporaryDirectory() as folder:
            job = make_job(codec, Path(folder), chosen, form="native", calibration_count=RANGE_PICTURES, name=name)
            try:
                found[choice] = toolchain.compile(job)
            except UserError as error:
                say(f"{choice}: {error}")
    rows = [[choice, *_figures(found.get(choice)), "yes" if choice in exact else "no"] for choice in choices]
    title = f"{name} on {chosen.chip}, {chosen.precisions[0]}, {SIZE[1]}x{SIZE[0]}, {compiler}"
    show_table(title, ["", "operators on the CPU", "10^6 cycles", "ms", "KiB of memory", "exact?"], rows)
    on_npu = {choice: found[choice] for choice in exact if choice in found and _is_on_npu(found[choice])}
    if not on_npu:
        say(f"None of the exact choices runs on {chosen.chip} without its CPU.")
        return None
    whole = {choice: cost for choice, compiled in on_npu.items() if (cost := _cost(compiled)) is not None}
    if not whole:
        say(f"On {chosen.chip} {', '.join(on_npu)} run without its CPU; its compiler does not say how fast.")
        return None
    best, *others = sorted(whole, key=lambda choice: whole[choice])
    than = ", ".join(f"{whole[other] / whole[best]:.1f} times as fast as {other}" for other in others)
    say(f"On {chosen.chip} {best} is the fastest of the exact choices{f', {than}' if than else ''}: nothing to train.")
    return None


def frontiers(codec: Codec, target: str) -> Iterator[tuple[str, Frontier]]:
    """Loss against cost on a target, for each of its integer precisions: the plain one measured, the remedies predicted.

    Args:
        codec: a float codec.
        target: a target of `codecswap compile`.
    """
    chosen = load_target(target)
    for precision in chosen.quantized:
        job = make_job(codec, Path(), chosen, precision=precision)
        held_out = held_out_pictures(None, SIZE, codec.multiple)
        how: dict[str, Any] = {"form": job.form, "size": SIZE, "prices": chosen.prices}
        made = search(codec, job.samples, held_out, chosen.scheme(precision), Budget(), **how)
        assert made.frontier
        yield precision, made.frontier


def _figures(compiled: Compiled | None) -> list[str]:
    if compiled is None:
        return ["does not compile", "", "", ""]
    on_cpu = [one.operator for one in compiled.operators if not one.on_npu]
    cycles, ms, memory = compiled.cycles, compiled.milliseconds, compiled.memory
    return [
        f"{len(on_cpu)} ({', '.join(sorted(set(on_cpu)))})" if on_cpu else "0",
        "" if cycles is None else f"{cycles / 1e6:.2f}",
        "" if ms is None else f"{ms:.1f}",
        "" if memory is None else f"{memory / 1024:,.0f}",
    ]


def _is_on_npu(compiled: Compiled) -> bool:
    return all(one.on_npu for one in compiled.operators)


def _cost(compiled: Compiled) -> float | None:
    """Cycles or time."""
    return compiled.cycles if compiled.cycles is not None else compiled.milliseconds
