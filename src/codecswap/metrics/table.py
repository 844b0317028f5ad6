"""Table of metrics, used by evaluation, its files, the report, and validation during training.

A new metric is one entry of `METRICS`, and a module for its function where that is more than a few lines.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from codecswap.errors import UserError
from codecswap.metrics.perceptual import SMALLEST_SIDE as LPIPS_SIDE
from codecswap.metrics.perceptual import load_lpips, lpips
from codecswap.metrics.pixels import psnr
from codecswap.metrics.structure import SMALLEST_SIDE, ms_ssim


def mean_of_finite(values: Sequence[float]) -> float:
    """Mean of the finite values; infinite if all defined values are infinite, NaN if no value is defined."""
    known = [value for value in values if not math.isnan(value)]
    finite = [value for value in known if math.isfinite(value)]
    if not finite:
        return math.inf if known else math.nan
    return sum(finite) / len(finite)


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A measure of how close one picture is to another."""

    name: str
    """Its column in ``pictures.csv`` and its key in ``summary.json`` and `codecswap.evaluation.result.CodecResult.mean`."""
    label: str
    """Name in tables and plots, in any language."""
    function: Callable[[Tensor, Tensor], Tensor]
    """Maps pictures and references, each ``(B, 3, H, W)``, RGB in [0, 1] (8-bit for decoders), to ``(B,)``."""
    unit: str = ""
    digits: int = 4
    """Decimals in tables."""
    higher_is_better: bool = True
    average: Callable[[Sequence[float]], float] = mean_of_finite
    """Averages the values of pictures (NaN: not defined)."""
    smallest_side: int = 1
    """Smallest side of a picture, in pixels, for which it is defined."""
    curve: str
    """Its key in ``curves/*.json`` (CompressAI's results format)."""
    column: str | None = None
    """Its part of the columns in training's ``metrics.csv`` (``psnr``: ``psnr_picture``, ``psnr_teacher``, ...); None: training
    does not measure it."""
    load: Callable[[torch.device], bool] | None = None
    """Loads what the function needs; returns whether that worked. Such metrics are measured only on request, and
    only against the original."""


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric(name="psnr", label="PSNR", function=psnr, unit="dB", digits=3, curve="psnr-rgb", column="psnr"),
        Metric(
            name="ms_ssim",
            label="MS-SSIM",
            function=ms_ssim,
            digits=5,
            smallest_side=SMALLEST_SIDE,
            curve="ms-ssim-rgb",
            column="msssim",
        ),
        Metric(
            name="lpips",
            label="LPIPS",
            function=lpips,
            higher_is_better=False,
            smallest_side=LPIPS_SIDE,
            curve="lpips",
            load=load_lpips,
        ),
    )
}
"""All metrics by name, in the order of tables and files; the first is used for differences and curves."""

MAIN_METRIC = METRICS["ms_ssim"]
"""Selects the best checkpoint in training; higher is better."""


def choose_metrics(extra: Iterable[str] = ()) -> list[Metric]:
    """Metrics that are always measured, and those requested by name, in the table's order.

    Raises:
        UserError: there is no such metric.
    """
    wanted = set(extra)
    if unknown := sorted(wanted - set(METRICS)):
        on_request = ", ".join(metric.name for metric in METRICS.values() if metric.load)
        raise UserError(f"There is no metric {unknown[0]!r}: those measured on request are {on_request}.")
    return [metric for metric in METRICS.values() if metric.load is None or metric.name in wanted]


def compare(x: Tensor, y: Tensor, metrics: Iterable[Metric]) -> dict[str, float]:
    """Metrics of one picture, by name; NaN if a side is too short.

    Args:
        x, y: ``(1, 3, H, W)`` in [0, 1], on one device; rounded to 8 bits for decoders.
    """
    side = min(x.shape[-2:])
    return {m.name: m.function(x, y).item() if side >= m.smallest_side else math.nan for m in metrics}
