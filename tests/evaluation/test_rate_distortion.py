"""BD-rate and BD-PSNR where the answer is known."""

import math

import numpy as np
import pytest

from codecswap.config import ZOO
from codecswap.evaluation.published import published
from codecswap.evaluation.rate_distortion import bd_psnr, bd_rate, curves
from codecswap.evaluation.result import CodecResult, Coded

RESULTS = published(ZOO)["results"]
KODAK = list(zip(RESULTS["bpp"], RESULTS["psnr-rgb"], strict=True))


def test_ten_percent_more_bits_are_ten_percent() -> None:
    worse = [(1.1 * rate, psnr) for rate, psnr in KODAK]
    assert bd_rate(KODAK, worse).value == pytest.approx(10, abs=1e-6)
    assert bd_rate(worse, KODAK).value == pytest.approx(100 * (1 / 1.1 - 1), abs=1e-6)
    assert bd_rate(KODAK, worse).over == (KODAK[0][1], KODAK[-1][1])


def test_half_a_decibel_less_is_half_a_decibel() -> None:
    worse = [(rate, psnr - 0.5) for rate, psnr in reversed(KODAK)]
    assert bd_psnr(KODAK, worse).value == pytest.approx(-0.5, abs=1e-9)
    assert bd_psnr(KODAK, KODAK).value == pytest.approx(0, abs=1e-12)


def test_straight_curves_by_hand() -> None:
    """Where log-rate is linear in PSNR, the mean of the difference is its value in the middle of the common range."""
    reference = [(10 ** (0.05 * psnr - 1.8), psnr) for psnr in (26.0, 29.0, 31.0, 36.0)]
    tested = [(10 ** (0.06 * psnr - 2.0), psnr) for psnr in (27.0, 28.0, 33.0, 35.0, 38.0)]
    middle = (27 + 36) / 2
    assert bd_rate(reference, tested).value == pytest.approx(100 * (10 ** (0.01 * middle - 0.2) - 1))
    low, high = (
        max(math.log10(c[0][0]) for c in (reference, tested)),
        min(math.log10(c[-1][0]) for c in (reference, tested)),
    )
    center = (low + high) / 2
    assert bd_psnr(reference, tested).value == pytest.approx((center + 2) / 0.06 - (center + 1.8) / 0.05)


def test_close_to_bjontegaards_own_polynomials() -> None:
    """VCEG-M33 fits one cubic to each curve; on smooth curves the interpolations agree to a fraction of a percent."""
    tested = [(1.2 * rate, psnr - 0.02 * (psnr - 26) ** 1.2) for rate, psnr in KODAK]
    fits = [np.polyint(np.polyfit(*zip(*[(p, math.log10(r)) for r, p in c], strict=True), 3)) for c in (KODAK, tested)]
    low, high = max(KODAK[0][1], tested[0][1]), min(KODAK[-1][1], tested[-1][1])
    areas = [np.polyval(fit, high) - np.polyval(fit, low) for fit in fits]
    wanted = 100 * (10 ** ((areas[1] - areas[0]) / (high - low)) - 1)
    assert bd_rate(KODAK, tested).value == pytest.approx(wanted, abs=0.2)


def test_why_there_is_none() -> None:
    assert "4 points of either curve and there are 3" in bd_rate(KODAK, KODAK[:3]).why
    assert bd_rate(KODAK[:4], KODAK).value == pytest.approx(0, abs=0.2), "fewer points of the same curve"
    apart = [(rate, psnr - 20) for rate, psnr in KODAK]
    assert (
        bd_rate(KODAK, apart).value is None and "no PSNR in common (6.91 to 19.57 against" in bd_rate(KODAK, apart).why
    )
    assert bd_psnr(KODAK, apart).value == pytest.approx(-20)
    dearer = [(100 * rate, psnr) for rate, psnr in KODAK]
    assert bd_psnr(KODAK, dearer).value is None and "no rate in common" in bd_psnr(KODAK, dearer).why
    falling = [*KODAK[:-1], (KODAK[-1][0], 20.0)]
    assert bd_rate(KODAK, falling).value is None and "does not rise" in bd_rate(KODAK, falling).why
    assert "does not rise" in bd_psnr([*KODAK, KODAK[-1]], KODAK).why


def test_curves_are_sorted_by_rate() -> None:
    def result(name: str, curve: str, bpp: float) -> CodecResult:
        return CodecResult(
            name, "teacher", None, coded=[Coded("a", bpp, {"psnr": 30, "ms_ssim": 0.9}, 0, 0)], curve=curve
        )

    found = curves(
        [result("t8", "teacher", 2), result("JPEG q10", "JPEG", 1), result("t1", "teacher", 1), result("x", "", 1)]
    )
    assert {name: [point.name for point in points] for name, points in found.items()} == {
        "teacher": ["t1", "t8"],
        "JPEG": ["JPEG q10"],
        "x": ["x"],
    }
