"""Recommend a precision for an NPU, by what it loses and by the compiler's cycles."""

from collections.abc import Mapping

from codecswap.compile.compiler import Result

TOLERATED = 0.1
"""Loss of PSNR in dB up to which the fastest precision is recommended."""


def recommend(results: Mapping[str, Result]) -> str:
    """The fastest precision of those on the NPU alone that lose at most `TOLERATED`, or the one that loses least.

    Args:
        results: measured results by precision, in the target's order, which decides where the compiler gives no cost.
    """
    order = list(results)

    def lost(name: str) -> float:
        quality = results[name].quality
        return quality.loss.decibels if quality and quality.loss.decibels < float("inf") else float("inf")

    whole = [name for name in order if results[name].on_npu] or order
    if good := [name for name in whole if lost(name) <= TOLERATED]:
        return min(good, key=lambda name: (cost(results[name]) or 0, order.index(name)))
    return min(whole, key=lambda name: (lost(name), order.index(name)))


def cost(result: Result) -> float | None:
    """Cycles, or milliseconds where the compiler has no cycles; None if it has neither."""
    compiled = result.compiled
    return compiled.milliseconds if compiled.cycles is None else compiled.cycles
