"""PSNR and MS-SSIM against independent values."""

import math

import pytest
import torch
from pytorch_msssim import ms_ssim as oracle
from torch.utils._python_dispatch import TorchDispatchMode

from codecswap.metrics import ms_ssim, psnr, to_8_bits
from codecswap.training.losses import reconstruction_loss


def smooth(*shape: int) -> torch.Tensor:
    """Random pictures with structure at several scales, in [0, 1]."""
    small = torch.rand(*shape[:2], 24, 24, dtype=torch.float64)
    return torch.nn.functional.interpolate(small, shape[2:], mode="bicubic").clamp(0, 1)


def test_psnr_by_hand() -> None:
    x = torch.zeros(2, 3, 4, 4)
    y = torch.stack([torch.full((3, 4, 4), 0.1), torch.zeros(3, 4, 4)])
    assert psnr(x, y)[0].item() == pytest.approx(20, abs=1e-5)
    assert math.isinf(psnr(x, y)[1].item())


def test_rounding_to_8_bits_alone_costs_59_db() -> None:
    x = torch.rand(1, 3, 256, 256)
    assert psnr(to_8_bits(x), x).item() == pytest.approx(58.92, abs=0.1)
    assert to_8_bits(torch.tensor([-1.0, 0.5, 2.0])).tolist() == [0, pytest.approx(128 / 255), 1]


@pytest.mark.parametrize("shape", [(2, 3, 224, 224), (1, 3, 161, 199), (3, 1, 256, 177), (2, 3, 421, 509)])
def test_ms_ssim_equals_pytorch_msssim(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    x = smooth(*shape)
    y = (x + 0.08 * torch.randn_like(x)).clamp(0, 1)
    wanted = oracle(x, y, data_range=1, size_average=False)
    torch.testing.assert_close(ms_ssim(x, y), wanted, rtol=0, atol=1e-6)
    torch.testing.assert_close(ms_ssim(x.float(), y.float()).double(), wanted, rtol=0, atol=1e-5)


def test_ms_ssim_gradient_equals_pytorch_msssim() -> None:
    torch.manual_seed(1)
    x = smooth(1, 3, 176, 176)
    y = (x + 0.05 * torch.randn_like(x)).requires_grad_()
    (mine,) = torch.autograd.grad(ms_ssim(x, y).sum(), y)
    (wanted,) = torch.autograd.grad(oracle(x, y, data_range=1, size_average=False).sum(), y)
    assert (mine - wanted).norm() / wanted.norm() < 1e-5


def test_ms_ssim_of_opposites_has_no_nan_gradient() -> None:
    x = smooth(1, 3, 176, 176)
    y = (1 - x).requires_grad_()
    value = ms_ssim(x, y).sum()
    value.backward()
    assert value.item() == pytest.approx(oracle(x, y, data_range=1).item(), abs=1e-6)
    assert y.grad is not None and y.grad.isfinite().all()


def test_ms_ssim_reads_nothing_from_the_device_and_copies_nothing_to_it() -> None:
    """On a GPU each of these operators would wait; the first call may make its constants."""

    class Recorded(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            names.append(func.overloadpacket.__name__)
            return func(*args, **(kwargs or {}))

    x = smooth(1, 3, 176, 176).float()
    y = (x + 0.05 * torch.randn_like(x)).requires_grad_()
    names: list[str] = []
    ms_ssim(x, y).sum().backward()
    with Recorded():
        ms_ssim(x, y).sum().backward()
    assert "exp" in names and "mm" in " ".join(names)
    assert not {"_local_scalar_dense", "lift_fresh", "_to_copy", "nonzero", "is_nonzero", "equal"} & set(names)


def test_mixed_precision_does_not_reach_the_metric() -> None:
    x = smooth(1, 3, 176, 176).float()
    y = (x + 0.1 * torch.randn_like(x)).clamp(0, 1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = ms_ssim(x, y)
    torch.testing.assert_close(inside, ms_ssim(x, y), rtol=0, atol=1e-7)


def test_ms_ssim_refuses_small_pictures() -> None:
    with pytest.raises(ValueError, match="at least 161"):
        ms_ssim(torch.rand(1, 3, 160, 300), torch.rand(1, 3, 160, 300))


def test_loss_is_the_recipes() -> None:
    x, y = smooth(2, 3, 176, 176), smooth(2, 3, 176, 176)
    wanted = 0.7 * (x - y).abs().mean() + 0.3 * (1 - oracle(x.clone(), y.clone(), data_range=1))
    torch.testing.assert_close(
        reconstruction_loss(x, y, lambda_l1=0.7, lambda_msssim=0.3).double(), wanted, rtol=0, atol=1e-5
    )
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert reconstruction_loss(x.bfloat16(), y).dtype == torch.float32
