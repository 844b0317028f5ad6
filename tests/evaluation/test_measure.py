"""Rates, pictures and times against CompressAI's own compress() and decompress()."""

import math
from pathlib import Path

import pytest
import torch
from compressai import models

import codecswap
from codecswap.codecs.factorized import FactorizedPrior
from codecswap.data.transforms import whole_picture
from codecswap.errors import UserError
from codecswap.evaluation.evaluate import evaluate, measure_all
from codecswap.evaluation.measure import TeacherAndStudents, code
from codecswap.evaluation.result import CodecResult, Coded
from codecswap.metrics.table import METRICS, compare
from codecswap.swaps.apply import swap


def test_rate_and_picture_are_compressais(teacher: FactorizedPrior, photos: list[Path]) -> None:
    x = whole_picture(photos[0])[None, :, :192, :208]
    packed = models.FactorizedPrior.compress(teacher, x)
    bpp, latents = code(teacher, x)
    assert bpp == 8 * len(packed["strings"][0][0]) / (192 * 208)
    wanted = models.FactorizedPrior.decompress(teacher, **packed)["x_hat"]
    torch.testing.assert_close(teacher.g_s(latents).clamp(0, 1), wanted)
    (result,) = evaluate([("a", x[0])], teacher=teacher)
    assert (result.name, result.kind, result.same_latents) == ("teacher", "teacher", None)
    (coded,) = result.coded
    error = ((wanted * 255).round() / 255 - x).square().mean().item()
    assert coded.scores["psnr"] == pytest.approx(-10 * math.log10(error), abs=1e-4)
    assert (coded.picture, coded.bpp, coded.against_teacher) == ("a", bpp, None)
    assert coded.encoding_time > 0 and coded.decoding_time > 0


def test_any_size_is_padded_and_cropped(teacher: FactorizedPrior, photos: list[Path]) -> None:
    x = whole_picture(photos[1])[:, :201, :170]
    first, second = codecswap.evaluate([("odd", x)], {"mine": swap(teacher, "subpixel")[0]}, teacher=teacher)
    assert first.coded[0].scores["psnr"] > 20
    student = second.coded[0]
    assert (second.name, second.kind, second.same_latents) == ("mine", "student", True)
    assert student.against_teacher is not None and student.against_teacher["psnr"] > 80, (
        "a level here and there at most"
    )
    assert student.bpp == first.coded[0].bpp
    small = compare(x[None, :, :40, :40], x[None, :, :40, :40], [METRICS["psnr"], METRICS["ms_ssim"]])
    assert math.isnan(small["ms_ssim"]) and math.isinf(small["psnr"]), "not defined, not a crash"


def test_students_of_the_same_latents_decode_the_teachers_bytes(
    teacher: FactorizedPrior, photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    x = whole_picture(photos[0])[:, :96, :112]
    shared, other = swap(teacher, "masked")[0], swap(teacher, "masked")[0]
    with torch.no_grad():
        other.g_a[6].weight *= 0.5
    measured = TeacherAndStudents(teacher, {"shared": shared, "other": other})
    list(measure_all([measured], [("warm", x)]))
    encoded, read = [], []
    for codec in (teacher, shared, other):
        real, reader = codec.compress_latents, codec.decompress_latents
        monkeypatch.setattr(
            codec,
            "decompress_latents",
            lambda *words, codec=codec, reader=reader: read.append(codec) or reader(*words),
        )
        monkeypatch.setattr(
            codec, "compress_latents", lambda y, codec=codec, real=real: encoded.append(codec) or real(y)
        )
    list(measure_all([measured], [("a", x)]))
    assert encoded == read == [teacher, other] * 2, "the first picture twice, to warm up"
    first, second, third = (result.coded[1] for result in measured.results)
    assert second.encoding_time == first.encoding_time and second.bpp == first.bpp
    assert third.encoding_time != first.encoding_time and third.bpp < first.bpp
    assert third.bpp == 8 * len(models.FactorizedPrior.compress(other, _padded(x))["strings"][0][0]) / (96 * 112)
    assert [result.same_latents for result in measured.results] == [None, True, False]


def _padded(x: torch.Tensor) -> torch.Tensor:
    assert x.shape[-2] % 16 == x.shape[-1] % 16 == 0
    return x[None]


def scores(psnr: float, ms_ssim: float) -> dict[str, float]:
    return {"psnr": psnr, "ms_ssim": ms_ssim}


def test_the_mean_is_per_picture_and_says_what_it_is_over() -> None:
    coded = [
        Coded("a", 1.0, scores(30.0, 0.9), 0.1, 0.2, scores(math.inf, 1.0)),
        Coded("b", 3.0, scores(40.0, math.nan), 0.3, 0.6, scores(80.0, math.nan)),
    ]
    mean = CodecResult("mine", "student", True, coded=coded).mean()
    assert mean == {
        "psnr": 35.0,
        "ms_ssim": 0.9,
        "ms_ssim_pictures": 1,
        "bpp": 2.0,
        "encoding_time": 0.2,
        "decoding_time": pytest.approx(0.4),
        "psnr_to_teacher": 80.0,
        "ms_ssim_to_teacher": 1.0,
    }
    identical = CodecResult("mine", "student", True, coded=coded[:1]).mean()
    assert math.isinf(identical["psnr_to_teacher"])
    undefined = CodecResult("mine", "teacher", None, coded=coded[1:]).mean()
    assert math.isnan(undefined["ms_ssim"]) and undefined["ms_ssim_pictures"] == 0
    perceived = [Coded("a", 1.0, scores(30.0, 0.9) | {"lpips": lpips}, 0.1, 0.2) for lpips in (0.2, 0.4, math.nan)]
    mean = CodecResult("mine", "anchor", coded=perceived).mean()
    assert mean["lpips"] == pytest.approx(0.3) and mean["lpips_pictures"] == 2


def test_an_interruption_leaves_all_codecs_the_same_pictures(teacher: FactorizedPrior) -> None:
    class Tired(TeacherAndStudents):
        def decode(self, picture, x):
            if picture == "c":
                raise KeyboardInterrupt
            return super().decode(picture, x)

    first, second = TeacherAndStudents(teacher, {}), Tired(teacher, {"a": teacher})
    with pytest.raises(KeyboardInterrupt):
        list(measure_all([first, second], [(name, torch.rand(3, 32, 32)) for name in "abcd"]))
    results = [*first.results, *second.results]
    assert [[coded.picture for coded in result.coded] for result in results] == [["a", "b"]] * 3


def test_latents_that_no_bitstream_can_hold_are_refused(teacher: FactorizedPrior) -> None:
    with torch.no_grad():
        teacher.g_a[6].weight[0] *= 1e30
    with pytest.raises(UserError, match="no bitstream can hold"):
        code(teacher, torch.rand(1, 3, 64, 64))
