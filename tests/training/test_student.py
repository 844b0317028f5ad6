"""The pair: what is shared, what trains, what both decoders see."""

from pathlib import Path

import pytest
import torch
from compressai import models

from codecswap.codecs.factorized import FactorizedPrior
from codecswap.codecs.protocol import encode
from codecswap.codecs.source import load_codec
from codecswap.layers.gdn import GDN
from codecswap.swaps.apply import swap
from codecswap.training.rotated_adam import brightness_directions
from codecswap.training.student import TeacherStudent


def trained_names(pair: TeacherStudent) -> set[str]:
    return {name for name, parameter in pair.student.named_parameters() if parameter.requires_grad}


def test_what_trains(teacher: FactorizedPrior) -> None:
    convs = {f"g_s.{i}.1.{name}" for i in (0, 2, 4, 6) for name in ("weight", "bias")}
    igdn = {f"g_s.{i}.{name}" for i in (1, 3, 5) for name in ("beta", "gamma")}
    assert trained_names(TeacherStudent(teacher, swap(teacher)[0])) == convs
    assert trained_names(TeacherStudent(teacher, swap(teacher)[0], whole_decoder=True)) == convs | igdn
    everything = TeacherStudent(teacher, swap(teacher)[0], unfreeze_all=True)
    assert trained_names(everything) == {name for name, _ in everything.student.named_parameters()}
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    frozen = TeacherStudent(teacher, swap(teacher)[0], unfreeze_all=True, freeze_gdn=True)
    gdn = {name for name in trained_names(everything) if name.endswith(("beta", "gamma"))}
    assert len(gdn) == 12 and trained_names(frozen) == trained_names(everything) - gdn


def test_latents_are_those_of_a_bitstream(teacher: FactorizedPrior) -> None:
    x = torch.rand(1, 3, 64, 48)
    y = teacher.g_a(x)
    strings = teacher.entropy_bottleneck.compress(y)
    read = teacher.entropy_bottleneck.decompress(strings, y.shape[-2:])
    torch.testing.assert_close(encode(teacher, x), read, rtol=0, atol=1e-5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(encode(teacher, x), encode(teacher, x).float())
        torch.testing.assert_close(encode(teacher, x), read, rtol=0, atol=1e-5)


def test_a_step_encodes_once_and_nobody_adds_noise(teacher: FactorizedPrior, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = TeacherStudent(teacher, swap(teacher, "subpixel")[0]).train()
    assert not any(module.training for module in pair.modules())
    calls = []
    teacher.g_a.register_forward_hook(lambda *_: calls.append(1))
    x = torch.rand(2, 3, 32, 32)
    decoded = pair(x, distill=True)
    assert calls == [1]
    torch.testing.assert_close(decoded.student, decoded.target, rtol=0, atol=5e-6)
    assert torch.equal(pair(x, distill=False).target, x)


def test_with_everything_trained_the_target_is_the_teachers_own(teacher: FactorizedPrior) -> None:
    pair = TeacherStudent(teacher, swap(teacher, "subpixel")[0], unfreeze_all=True)
    x = torch.rand(1, 3, 64, 64)
    target = pair(x, distill=True).target
    with torch.no_grad():
        pair.student.g_a[0].weight.mul_(1.5)
    decoded = pair(x, distill=True)
    torch.testing.assert_close(decoded.target, target)
    assert decoded.bpp is not None and decoded.teacher_bpp is not None and decoded.bpp != decoded.teacher_bpp
    (decoded.student.mean() + decoded.bpp).backward()
    assert all(
        parameter.grad is not None and parameter.grad.abs().sum() > 0
        for name, parameter in pair.student.named_parameters()
        if not name.endswith("quantiles")
    ), "rounding let no gradient through"


def test_what_is_looked_at_is_float32_under_mixed_precision(teacher: FactorizedPrior) -> None:
    pair, x = TeacherStudent(teacher, swap(teacher)[0]), torch.rand(1, 3, 32, 32)
    wanted = pair.reconstruct(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = pair.reconstruct(x)
    assert all(torch.equal(mine, oracle) for mine, oracle in zip(got, wanted, strict=True))


def test_estimated_rate_is_the_rate_of_the_bytes(teacher: FactorizedPrior, photos) -> None:
    from codecswap.data.transforms import whole_picture

    x = whole_picture(photos[0])[None]
    pair = TeacherStudent(teacher, swap(teacher)[0])
    estimated = pair.rates(x)[0].item()
    real = 8 * len(models.FactorizedPrior.compress(teacher, x)["strings"][0][0]) / (x.shape[-1] * x.shape[-2])
    assert estimated == pytest.approx(real, rel=0.01)
    assert isinstance(pair.student.g_s[1], GDN)


def test_the_whole_decoder_is_all_of_it_wherever_it_stands(residual: Path) -> None:
    codec = load_codec(str(residual))
    codec.g_s[2].relu1 = GDN(8, inverse=True)
    student, _ = swap(codec)
    new = {f"g_s.{i}.1.{name}" for i in (1, 3, 6, 8) for name in ("weight", "bias")}
    gdn = {f"g_s.2.relu1.{name}" for name in ("beta", "gamma")}
    everything = {name for name, _ in student.named_parameters() if name.startswith("g_s")}
    assert len(everything) == 104 and new | gdn < everything
    assert trained_names(TeacherStudent(codec, student)) == new
    assert trained_names(TeacherStudent(codec, student, whole_decoder=True)) == everything
    assert trained_names(TeacherStudent(codec, student, whole_decoder=True, freeze_gdn=True)) == everything - gdn
    swapped, _ = swap(codec, gdn="relu")
    assert trained_names(TeacherStudent(codec, swapped)) == new
    gains, _ = swap(codec, gdn="gdn1")
    assert trained_names(TeacherStudent(codec, gains)) == new | gdn
    assert trained_names(TeacherStudent(codec, gains, freeze_gdn=True)) == new
    latents = encode(codec, torch.rand(1, 3, 64, 64))
    TeacherStudent(codec, student, whole_decoder=True)
    directions = brightness_directions(student, torch.rand(1, 3, 64, 64), latents)
    assert set(directions) == {name for name, p in student.g_s.named_parameters(prefix="g_s") if p.ndim == 4}
