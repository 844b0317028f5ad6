"""What the swap replaces, keeps and refuses."""

import pytest
import torch
from torch import nn

from codecswap.codecs.factorized import FactorizedPrior
from codecswap.errors import UserError
from codecswap.swaps.apply import swap


def test_names_and_everything_else_stay(teacher: FactorizedPrior) -> None:
    student, report = swap(teacher)
    assert [entry.name for entry in report] == ["g_s.0", "g_s.2", "g_s.4", "g_s.6"]
    assert report[0].before == "ConvTranspose2d(80, 48, 5x5)"
    assert report[0].after == "Upsample(x2) + Conv2d(80, 48, 5x5)"
    mine, theirs = student.state_dict(), teacher.state_dict()
    swapped = {f"g_s.{i}.{name}" for i in (0, 2, 4, 6) for name in ("weight", "bias")}
    assert set(theirs) - set(mine) == swapped
    assert set(mine) - set(theirs) == {name.replace("weight", "1.weight").replace("bias", "1.bias") for name in swapped}
    assert all(torch.equal(mine[name], theirs[name]) for name in set(mine) & set(theirs))
    assert any(isinstance(module, nn.ConvTranspose2d) for module in teacher.modules()), "the teacher was changed"


@pytest.mark.parametrize(
    ("replacement", "key", "shape"),
    [("masked", "g_s.0.1.weight", (48, 80, 5, 5)), ("subpixel", "g_s.0.0.weight", (192, 80, 3, 3))],
)
def test_exact_students_equal_their_teacher(
    teacher: FactorizedPrior, replacement: str, key: str, shape: tuple[int, ...]
) -> None:
    student, report = swap(teacher, replacement)
    latents = torch.randn(2, 80, 4, 3).mul(5).round()
    with torch.no_grad():
        wanted = teacher.g_s(latents)  # far outside [0, 1] for latents that no picture has
        torch.testing.assert_close(student.g_s(latents), wanted, rtol=0, atol=5e-6 * wanted.abs().max().item())
    assert all(entry.error_db == float("-inf") for entry in report)
    assert student.state_dict()[key].shape == shape


def test_weight_start_is_far_better_than_noise_and_worse_than_exact(teacher: FactorizedPrior) -> None:
    latents = torch.randn(2, 80, 6, 6).mul(3).round()
    with torch.no_grad():
        wanted = teacher.g_s(latents)
        errors = {
            init: (swap(teacher, init=init)[0].g_s(latents) - wanted).square().mean() for init in ("weights", "random")
        }
    assert 0 < errors["weights"] < errors["random"] / 2


@pytest.mark.parametrize("kernel", [3, 7])
def test_other_kernels_fit_too(teacher: FactorizedPrior, kernel: int) -> None:
    narrow, wide = (swap(teacher, kernel_size=size)[1][0].error_db for size in (5, kernel))
    assert swap(teacher, kernel_size=kernel)[0].g_s(torch.zeros(1, 80, 2, 2)).shape == (1, 3, 32, 32)
    assert (narrow > wide) == (kernel > 5), "a wider kernel leaves less unexplained"


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (nn.ConvTranspose2d(48, 48, 5, stride=1, padding=2), "stride is (1, 1)"),
        (nn.ConvTranspose2d(48, 48, 4, stride=2, padding=1), "kernel of 4 is even"),
        (nn.ConvTranspose2d(48, 48, 5, stride=2, padding=2, output_padding=1, groups=2), "2 groups"),
        (nn.ConvTranspose2d(48, 48, 3, stride=2, padding=2, output_padding=1, dilation=2), "dilation is (2, 2)"),
        (nn.ConvTranspose2d(48, 48, 5, stride=2, padding=2), "not twice its input"),
        (nn.ConvTranspose2d(48, 48, (3, 5), stride=2, padding=(1, 2), output_padding=1), "not square"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(teacher: FactorizedPrior, layer: nn.Module, reason: str) -> None:
    teacher.g_s[2] = layer
    with pytest.raises(UserError, match=r"layer g_s\.2 .*cannot be replaced by upsample") as caught:
        swap(teacher)
    assert reason in str(caught.value)


def test_nothing_to_swap_and_kernel_of_an_exact_one(teacher: FactorizedPrior) -> None:
    with pytest.raises(UserError, match="nothing to swap"):
        swap(swap(teacher)[0])
    with pytest.raises(UserError, match="--kernel_size goes with"):
        swap(teacher, "masked", kernel_size=3)
