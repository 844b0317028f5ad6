"""The codecs with a hyperprior: CompressAI's weights, strings and latents, through swap, training, evaluation and report."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from compressai import models

from codecswap.codecs.architectures import ARCHITECTURES, untrained
from codecswap.codecs.protocol import HyperCodec, encode
from codecswap.codecs.source import load_codec
from codecswap.errors import UserError
from codecswap.evaluation.measure import code, compress
from codecswap.swaps.apply import swap
from codecswap.training.student import TeacherStudent

THEIRS = {
    "bmshj2018_hyperprior": models.ScaleHyperprior,
    "mbt2018_mean": models.MeanScaleHyperprior,
    "mbt2018": models.JointAutoregressiveHierarchicalPriors,
}


@pytest.mark.parametrize("name", THEIRS)
def test_weights_of_any_size_are_recognized(name: str) -> None:
    for n, m in ((4, 6), (7, 11)):
        codec = untrained(THEIRS[name](n, m).state_dict())
        assert type(codec) is ARCHITECTURES[name] and (n, m) == (codec.N, codec.M)


def test_a_hyperprior_of_another_kind_is_refused_with_the_difference(tmp_path: Path) -> None:
    state = models.MeanScaleHyperprior(4, 6).state_dict()
    state["h_s.4.weight"] = torch.zeros(13, 9, 3, 3)
    torch.save(state, tmp_path / "odd.pth")
    with pytest.raises(UserError, match=r"closest architecture is mbt2018_mean.*h_s\.4\.weight is \(13, 9, 3, 3\)"):
        load_codec(str(tmp_path / "odd.pth"))
    with pytest.raises(UserError, match="--model is bmshj2018_factorized or"):
        load_codec(model="stf2022")


@pytest.mark.parametrize("name", THEIRS)
def test_strings_and_latents_are_those_of_compressai(name: str, hyper_codec: Callable[[str], HyperCodec]) -> None:
    ours = hyper_codec(name)
    theirs = THEIRS[name](ours.N, ours.M).eval()
    theirs.load_state_dict(ours.state_dict())
    x = torch.rand(1, 3, 64, 128, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        wanted = theirs.compress(x)
        strings, sides = compress(ours, x)
        assert strings == [wanted["strings"][0][0], wanted["strings"][1][0]]
        latents = ours.decompress_latents([string[0] for string in wanted["strings"]], sides)
        shown = theirs.decompress(**wanted)["x_hat"]
    assert torch.equal(ours.g_s(latents).clamp(0, 1), shown)
    assert torch.allclose(encode(ours, x), latents, atol=1e-4)
    assert latents.unique().numel() > 20, "these latents show nothing"


@pytest.mark.parametrize("name", THEIRS)
def test_estimated_bits_are_those_that_strings_take(name: str, hyper_codec: Callable[[str], HyperCodec]) -> None:
    codec = hyper_codec(name)
    x = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        strings, _ = compress(codec, x)
        estimated = codec.bits(codec.g_a(x)).item()
        noisy = codec.bits(codec.g_a(x), noisy=True).item()
    assert 8 * sum(map(len, strings)) == pytest.approx(estimated, rel=0.12)
    assert noisy == pytest.approx(estimated, rel=0.2)


@pytest.mark.parametrize("name", THEIRS)
def test_pictures_of_any_size_are_coded_and_crops_of_any_size_are_trained_on(
    name: str, hyper_codec: Callable[[str], HyperCodec]
) -> None:
    codec = hyper_codec(name)
    bpp, latents = code(codec, torch.rand(1, 3, 38, 70))
    assert latents.shape == (1, codec.M, 4, 8) and bpp > 0
    assert encode(codec, torch.rand(2, 3, 48, 80)).shape == (2, codec.M, 3, 5)


@pytest.mark.parametrize("name", THEIRS)
def test_a_swapped_student_shares_all_that_decides_the_bitstream(
    name: str, hyper_codec: Callable[[str], HyperCodec]
) -> None:
    teacher = hyper_codec(name)
    exact, replaced = swap(teacher, "subpixel")
    assert [each.name for each in replaced] == ["g_s.0", "g_s.2", "g_s.4", "g_s.6"], "h_s stays the teacher's"
    assert exact.same_latents(teacher)
    x = torch.rand(1, 3, 64, 64)
    assert torch.allclose(exact.g_s(encode(exact, x)), teacher.g_s(encode(teacher, x)), atol=1e-4)
    pair = TeacherStudent(teacher, exact)
    assert pair.student.h_s is teacher.h_s and pair.student.g_s is not teacher.g_s
    assert {name.split(".")[0] for name, p in exact.named_parameters() if p.requires_grad} == {"g_s"}
    for part in teacher.bit_exact:
        other, _ = swap(teacher, "masked")
        state = other.state_dict()
        first = next(n for n in state if n.startswith(f"{part}.") and state[n].is_floating_point() and state[n].numel())
        state[first].view(-1)[0] += 1e-3
        assert not other.same_latents(teacher), part


@pytest.mark.parametrize("name", THEIRS)
def test_the_whole_codec_can_train(name: str, hyper_codec: Callable[[str], HyperCodec]) -> None:
    teacher = hyper_codec(name)
    student, _ = swap(teacher, "upsample")
    pair = TeacherStudent(teacher, student, unfreeze_all=True)
    decoded = pair(torch.rand(1, 3, 48, 48), distill=True)
    assert decoded.bpp is not None and decoded.teacher_bpp is not None and decoded.teacher_bpp.item() > 0
    ((decoded.student - decoded.target).square().mean() + decoded.bpp).backward()
    trained = {n.split(".")[0] for n, p in student.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    wanted = {"g_a", "g_s", "h_a", "h_s", "entropy_bottleneck"}
    assert trained == wanted | ({"context_prediction", "entropy_parameters"} if name == "mbt2018" else set())
    assert not any(p.grad is not None for p in teacher.parameters())


def test_the_zoo_holds_eight_qualities_of_each() -> None:
    for name in (*THEIRS, "bmshj2018_factorized"):
        zoo = ARCHITECTURES[name].zoo
        assert [sorted(zoo[metric]) for metric in ("mse", "ms-ssim")] == [list(range(1, 9))] * 2
