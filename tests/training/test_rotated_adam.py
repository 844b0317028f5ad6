import torch
from torch import nn

from codecswap.swaps.apply import swap
from codecswap.training.rotated_adam import RotatedAdam, brightness_directions


def kernel_and_gradients(dtype: torch.dtype) -> tuple[nn.Parameter, list[torch.Tensor], torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    kernel, *gradients = (torch.randn(4, 3, 5, 5, dtype=dtype, generator=generator) for _ in range(6))
    direction = torch.randn(75, dtype=dtype, generator=generator)
    return nn.Parameter(kernel), gradients, direction / direction.norm()


def test_it_is_adam_on_a_turned_kernel() -> None:
    kernel, gradients, direction = kernel_and_gradients(torch.float64)
    # an orthogonal matrix with the direction as a column; its mirror image of the first axis is the direction or its opposite
    normal = direction + torch.eye(75, dtype=torch.float64)[0] * direction[0].sign()
    basis = torch.eye(75, dtype=torch.float64) - 2 * torch.outer(normal, normal) / normal.dot(normal)
    assert torch.allclose(basis[:, 0].abs(), direction.abs())
    turned = nn.Parameter(kernel.detach().flatten(1) @ basis)
    ours, oracle = (
        RotatedAdam([{"params": [kernel], "lr": 0.01}], {kernel: direction}),
        torch.optim.Adam([turned], lr=0.01),
    )
    for gradient in gradients:
        kernel.grad, turned.grad = gradient.clone(), gradient.flatten(1) @ basis
        ours.step()
        oracle.step()
    assert torch.allclose(kernel.detach().flatten(1), turned.detach() @ basis.T, atol=1e-12)


def test_the_direction_moves_by_the_learning_rate_and_no_more() -> None:
    """A gradient along the direction: plain Adam moves all 75 weights, their sum 8.7 times as far."""
    kernel, _, _ = kernel_and_gradients(torch.float64)
    direction = torch.full((75,), 75**-0.5, dtype=torch.float64)
    moved = {}
    for directions in ({}, {kernel: direction}):
        before = kernel.detach().clone()
        kernel.grad = torch.ones_like(kernel)
        RotatedAdam([{"params": [kernel], "lr": 0.01}], directions).step()
        moved[len(directions)] = ((kernel.detach() - before).flatten(1) @ direction).abs().max().item()
    assert abs(moved[1] - 0.01) < 1e-6 and abs(moved[0] - 0.01 * 75**0.5) < 1e-6


def test_a_frozen_kernel_and_one_without_gradient_stay_bit_for_bit() -> None:
    kernel, _, direction = kernel_and_gradients(torch.float32)
    before = kernel.detach().clone()
    RotatedAdam([{"params": [kernel], "lr": 0.01}], {kernel: direction.float()}).step()
    assert torch.equal(kernel, before)


def test_directions_hold_most_of_the_energy(teacher) -> None:
    student, _ = swap(teacher, "upsample")
    x = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)).clamp(0.3, 0.9)
    student.requires_grad_(False)
    for index in (0, 6):
        student.g_s[index].requires_grad_(True)
    student.g_a[0].requires_grad_(True)
    found = brightness_directions(student, x, student.quantize(student.g_a(x)))
    assert sorted(found) == ["g_a.0.weight", "g_s.0.1.weight", "g_s.6.1.weight"]
    for name, direction in found.items():
        assert torch.isclose(direction.norm(), torch.ones(())), name
    # of a picture: its mean square in each channel, and all that they have in common
    patches = nn.functional.unfold(x, 5).transpose(1, 2).flatten(0, 1)
    assert (patches @ found["g_a.0.weight"]).square().sum() > 0.8 * patches.square().sum()
