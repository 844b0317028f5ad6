"""Rate-distortion curves, and their differences in rate and in PSNR (Bjontegaard)."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from codecswap.evaluation.result import CodecResult

MIN_POINTS = 4
"""Fewest points of a curve for Bjontegaard's measures."""

Points = Sequence[tuple[float, float]]
"""A curve: bits per pixel and PSNR (dB) of each point."""


def curves(results: Iterable[CodecResult]) -> dict[str, list[CodecResult]]:
    """Group results by curve, by ascending rate; curves in order of first appearance."""
    found: dict[str, list[CodecResult]] = {}
    for result in results:
        found.setdefault(result.curve or result.name, []).append(result)
    return {name: sorted(points, key=lambda result: result.mean()["bpp"]) for name, points in found.items()}


@dataclass(frozen=True)
class Delta:
    """A Bjontegaard measure of one curve against another, or why there is none."""

    value: float | None
    """Percent of rate (BD-rate) or dB (BD-PSNR); None where it is not defined."""
    over: tuple[float, float] | None = None
    """Range it is averaged over: the PSNR (for BD-rate) or the rate (for BD-PSNR) common to both curves."""
    why: str = ""
    """Why it is not defined."""


def bd_rate(reference: Points, tested: Points) -> Delta:
    """The rate that ``tested`` needs more than ``reference`` for the same PSNR, in percent (below 0: less).

    Bjontegaard, "Calculation of average PSNR differences between RD-curves", VCEG-M33, 2001; the logarithm of the rate is
    interpolated by piecewise cubic Hermite polynomials, as standardization does.
    """
    return _delta(reference, tested, against=1)


def bd_psnr(reference: Points, tested: Points) -> Delta:
    """The PSNR that ``tested`` has above ``reference`` at the same rate, in dB; see `bd_rate`."""
    return _delta(reference, tested, against=0)


def _delta(reference: Points, tested: Points, *, against: int) -> Delta:
    """``against``: 0 for a mean over the rate, 1 for one over PSNR."""
    fewest = min(len(reference), len(tested))
    if fewest < MIN_POINTS:
        return Delta(None, why=f"it needs {MIN_POINTS} points of either curve and there are {fewest}")
    curves = [sorted(points) for points in (reference, tested)]
    for points in curves:
        if any(after[0] <= before[0] or after[1] <= before[1] for before, after in pairwise(points)):
            return Delta(None, why="PSNR does not rise with the rate from each point to the next")
    axes = [[point[against] for point in points] for points in curves]
    low, high = max(axis[0] for axis in axes), min(axis[-1] for axis in axes)
    if low >= high:
        what, unit = ("PSNR", "dB") if against else ("rate", "bits per pixel")
        theirs, mine = (f"{axis[0]:.2f} to {axis[-1]:.2f}" for axis in axes)
        return Delta(None, why=f"the curves have no {what} in common ({mine} against {theirs} {unit})")
    import bjontegaard  # loads matplotlib

    measure = bjontegaard.bd_rate if against else bjontegaard.bd_psnr
    (rates, psnrs), (tested_rates, tested_psnrs) = (list(zip(*points, strict=True)) for points in curves)
    value = measure(
        rates, psnrs, tested_rates, tested_psnrs, method="pchip", require_matching_points=False, min_overlap=0
    )
    return Delta(float(value), (low, high))
