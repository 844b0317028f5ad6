"""The closed-form starts, against dense least squares that never sees the phase algebra."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codecswap.codecs.factorized import FactorizedPrior
from codecswap.codecs.source import load_codec
from codecswap.layers.gdn import GDN
from codecswap.layers.upsampling import UpsampleConv2d, phase_matrix, transposed_phase_kernels
from codecswap.swaps.apply import swap as trainable_swap
from codecswap.swaps.calibrate import LayerFit, calibrate
from codecswap.swaps.upsample import fit_weights


def transposed(inputs: int, outputs: int, kernel: int = 5) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(inputs, outputs, kernel, stride=2, padding=kernel // 2, output_padding=1)


def swap(codec: nn.Module, replacement: str = "upsample", **options: object) -> nn.Module:
    """A student that records no gradients."""
    return trainable_swap(codec, replacement, **options)[0].requires_grad_(False)  # type: ignore[arg-type]


class Codec(nn.Module):
    """A synthesis transform and nothing else."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.g_s = nn.Sequential(*layers)


def two_layers(dtype: torch.dtype = torch.float64) -> Codec:
    torch.manual_seed(3)
    codec = Codec(transposed(3, 4), GDN(4, inverse=True), transposed(4, 2)).to(dtype)
    return codec.requires_grad_(False)


def latents_for(channels: int, n: int = 6, height: int = 5, width: int = 7, seed: int = 0) -> Tensor:
    """Correlated from channel to channel and place to place, rounded; float64."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(n, channels, height, width, generator=generator, dtype=torch.float64)
    smooth = F.avg_pool2d(F.pad(noise, [1, 1, 1, 1], mode="replicate"), 3, stride=1)
    return torch.round(4 * (noise + 3 * smooth + 0.7 * noise.roll(1, 1)))


def plain(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """What the replacement means, written with other operators than the package's."""
    up = x.repeat_interleave(2, -1).repeat_interleave(2, -2)
    return F.conv2d(up, weight, bias, padding=weight.shape[-1] // 2)


def design(x: Tensor, kernel: int) -> Tensor:
    """Responses of the plain (linear) layer to every basis kernel, then ones: (pixels, I k^2 + 1)."""
    inputs = x.shape[1]
    columns = []
    for index in range(inputs * kernel**2):
        basis = x.new_zeros(inputs * kernel**2)
        basis[index] = 1
        columns.append(plain(x, basis.view(1, inputs, kernel, kernel)).flatten())
    return torch.stack([*columns, torch.ones_like(columns[0])], 1)


def ridge_oracle(x: Tensor, target: Tensor, start: Tensor, ridge: float) -> tuple[Tensor, Tensor]:
    """Dense least squares with the ridge as extra equations: kernel (O, I, k, k) and bias (O,)."""
    outputs, inputs, kernel, _ = start.shape
    matrix = design(x, kernel)
    energy = (matrix - matrix.mean(0))[:, :-1].square().sum(0)
    pull = (ridge * (energy + 1e-3 * energy.mean())).sqrt()
    extra = torch.cat([torch.diag(pull), torch.zeros(len(pull), 1, dtype=pull.dtype)], 1)
    left = torch.cat([matrix, extra]).numpy()
    right = torch.cat([target.transpose(0, 1).flatten(1).T, pull[:, None] * start.flatten(1).T]).numpy()
    solution = torch.from_numpy(np.linalg.lstsq(left, right, rcond=None)[0])
    return solution[:-1].T.reshape(outputs, inputs, kernel, kernel), solution[-1]


# --- from weights


def impulse(layer: nn.Module, tap: int) -> Tensor:
    """Response of a one-channel layer to a unit impulse in the middle, flattened."""
    x = torch.zeros(1, 1, 9, 9, dtype=torch.float64)
    x[0, 0, 4, 4] = 1
    weight = torch.zeros(layer.weight.shape, dtype=torch.float64)
    weight.view(-1)[tap] = 1
    layer.weight.data = weight
    up = x if isinstance(layer, nn.ConvTranspose2d) else F.interpolate(x, scale_factor=2.0)
    return layer(up).flatten()


@pytest.mark.parametrize("kernel", [3, 5, 7])
def test_fit_weights_is_the_least_squares_solution(kernel: int) -> None:
    theirs = nn.ConvTranspose2d(1, 1, 5, 2, padding=2, output_padding=1, bias=False).requires_grad_(False)
    mine = nn.Conv2d(1, 1, kernel, padding=kernel // 2, bias=False).requires_grad_(False)
    to_output = torch.stack([impulse(theirs, tap) for tap in range(25)], 1)
    matrix = torch.stack([impulse(mine, tap) for tap in range(kernel**2)], 1)
    torch.manual_seed(0)
    source = transposed(2, 3).double().requires_grad_(False)
    weight, error = fit_weights(transposed_phase_kernels(source), kernel)
    targets = to_output @ source.weight.flatten(2).flatten(0, 1).T  # one column for each pair (input, output)
    expected, _, rank, _ = np.linalg.lstsq(matrix.numpy(), targets.numpy(), rcond=None)
    assert rank == kernel**2
    np.testing.assert_allclose(weight.transpose(0, 1).flatten(2).flatten(0, 1).T, expected, atol=1e-12)
    left = (matrix.numpy() @ expected - targets.numpy()) ** 2
    assert error == pytest.approx(10 * np.log10(left.sum() / np.sum(targets.numpy() ** 2)), abs=1e-9)


@pytest.mark.parametrize("kernel", [3, 5, 7])
def test_fit_weights_is_exact_where_it_can_be(kernel: int) -> None:
    layer = UpsampleConv2d(2, 3, kernel, fold=True).double().requires_grad_(False)
    size = phase_matrix(kernel).shape[1]
    target = layer.folded_weight().view(3, 2, 2, 2, size, size).permute(0, 3, 1, 2, 4, 5)
    weight, error = fit_weights(target, kernel)
    torch.testing.assert_close(weight, layer.conv.weight.data, atol=1e-12, rtol=0)
    assert error < -250


# --- from latents


@pytest.mark.parametrize("kernel", [3, 5, 7])
@pytest.mark.parametrize("ridge", [1e-6, 1e-2])
def test_calibrate_is_the_dense_least_squares_solution(kernel: int, ridge: float) -> None:
    teacher = two_layers()
    student = swap(teacher, "upsample", kernel_size=kernel)
    start = copy.deepcopy(student)
    latents = latents_for(3)
    fits = calibrate(teacher, student, latents, ridge=ridge, batch_size=4)

    mine, theirs = latents, latents
    for index, fit in zip((0, 2), fits, strict=True):
        target = teacher.g_s[index](theirs)
        old, new = start.g_s[index].conv, student.g_s[index].conv
        weight, bias = ridge_oracle(mine, target, old.weight, ridge)
        torch.testing.assert_close(new.weight.data, weight, atol=1e-8, rtol=1e-6)
        torch.testing.assert_close(new.bias.data, bias, atol=1e-8, rtol=1e-6)
        variance = (target - target.mean((0, 2, 3), keepdim=True)).square().sum()
        for value, conv in ((fit.error_before_db, old), (fit.error_db, new)):
            error = (plain(mine, conv.weight, conv.bias) - target).square().sum() / variance
            assert value == pytest.approx(10 * error.log10().item(), abs=1e-6)
        assert fit.error_db <= fit.error_before_db
        if index == 0:
            mine, theirs = teacher.g_s[1](plain(mine, weight, bias)), teacher.g_s[1](target)
    assert [fit.name for fit in fits] == ["g_s.0", "g_s.2"]


def test_a_layer_without_bias_gets_none() -> None:
    torch.manual_seed(0)
    layer = nn.ConvTranspose2d(3, 2, 5, stride=2, padding=2, output_padding=1, bias=False).double()
    teacher = Codec(layer).requires_grad_(False)
    student = swap(teacher, "upsample")
    latents = latents_for(3) + 2
    start = student.g_s[0].conv.weight.clone()
    calibrate(teacher, student, latents, ridge=1e-3)
    matrix = design(latents, 5)[:, :-1]
    pull = 1e-3 * (matrix.square().sum(0) + 1e-3 * matrix.square().sum(0).mean())
    target = layer(latents).transpose(0, 1).flatten(1).T
    right = matrix.T @ target + pull[:, None] * start.flatten(1).T
    expected = torch.linalg.solve(matrix.T @ matrix + torch.diag(pull), right)
    assert student.g_s[0].conv.bias is None
    torch.testing.assert_close(student.g_s[0].conv.weight.flatten(1).T, expected, atol=1e-8, rtol=1e-6)


def test_errors_of_earlier_layers_are_in_the_regression() -> None:
    """A layer fitted behind the student's own front serves it better than one fitted behind the teacher's."""
    teacher = two_layers()
    latents = latents_for(3)
    student = swap(teacher, "upsample")
    calibrate(teacher, student, latents)
    front = student.g_s[:2](latents)
    blind = Codec(copy.deepcopy(teacher.g_s[2])).requires_grad_(False)
    behind = swap(blind, "upsample")
    calibrate(blind, behind, teacher.g_s[:2](latents))
    target = teacher.g_s(latents)
    mine = (student.g_s[2](front) - target).square().mean()
    theirs = (behind.g_s[0](front) - target).square().mean()
    assert mine < 0.98 * theirs


def test_an_exactly_representable_teacher_is_recovered() -> None:
    """Transposed convolutions that repeat their pixels are nearest upsampling and a 1x1 convolution."""
    torch.manual_seed(1)
    hidden = torch.randn(4, 3, 1, 1, dtype=torch.float64)
    layer = transposed(3, 4).double().requires_grad_(False)
    layer.weight.zero_()
    layer.weight[:, :, 2:4, 2:4] = hidden.transpose(0, 1)
    teacher = Codec(layer)
    student = swap(teacher, "upsample", init="random")
    (fit,) = calibrate(teacher, student, latents_for(3), ridge=1e-12)
    torch.testing.assert_close(student.g_s(latents_for(3, seed=9)), teacher.g_s(latents_for(3, seed=9)))
    torch.testing.assert_close(student.g_s[0].conv.weight[:, :, 2, 2], hidden[:, :, 0, 0], atol=1e-6, rtol=0)
    assert fit.error_db < -100


@pytest.mark.parametrize("positions", [7, 60, 10**9])
def test_calibrate_is_never_worse_than_the_weights_on_its_own_data(positions: int) -> None:
    teacher = two_layers(torch.float32)
    student = swap(teacher, "upsample")
    for fit in calibrate(teacher, student, latents_for(3).float(), positions=positions):
        assert fit.error_db <= fit.error_before_db


def test_calibrate_is_deterministic_and_follows_its_seed() -> None:
    teacher, latents = two_layers(torch.float32), latents_for(3)
    students = []
    for seed in (0, 0, 1):
        student = swap(teacher, "upsample")
        torch.manual_seed(seed + 17)  # the global generator has no say
        calibrate(teacher, student, latents, positions=60, seed=seed)
        students.append(student.g_s.state_dict())
    assert all(torch.equal(students[0][name], students[1][name]) for name in students[0])
    assert not torch.equal(students[0]["0.1.weight"], students[2]["0.1.weight"])


def test_the_batch_size_does_not_matter() -> None:
    teacher, latents = two_layers(), latents_for(3)
    weights = []
    for batch_size in (1, 4, 100):
        student = swap(teacher, "upsample")
        calibrate(teacher, student, latents, positions=60, batch_size=batch_size)
        weights.append(student.g_s[2].conv.weight)
    torch.testing.assert_close(weights[0], weights[1])
    torch.testing.assert_close(weights[0], weights[2])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_same() -> None:
    teacher, latents = two_layers(), latents_for(3)
    here, there = swap(teacher), swap(teacher).cuda()
    calibrate(teacher, here, latents, positions=60)
    calibrate(copy.deepcopy(teacher).cuda(), there, latents.cuda(), positions=60)
    torch.testing.assert_close(there.g_s[2].conv.weight.cpu(), here.g_s[2].conv.weight)


@pytest.mark.parametrize("replacement", ["masked", "subpixel"])
def test_exact_layers_are_left_alone(replacement: str) -> None:
    teacher = two_layers()
    student = swap(teacher, replacement)
    before = copy.deepcopy(student.g_s.state_dict())
    assert calibrate(teacher, student, latents_for(3)) == []
    assert all(torch.equal(value, before[name]) for name, value in student.g_s.state_dict().items())


def test_only_the_swapped_layers_change_and_nested_ones_are_found() -> None:
    torch.manual_seed(0)
    teacher = Codec(nn.Sequential(transposed(3, 4), GDN(4, inverse=True)), nn.Sequential(transposed(4, 2)))
    teacher.double().requires_grad_(False)
    student = swap(teacher, "upsample")
    before = copy.deepcopy(teacher.state_dict())
    fits = calibrate(teacher, student, latents_for(3))
    assert [fit.name for fit in fits] == ["g_s.0.0", "g_s.1.0"]
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert torch.equal(student.g_s[0][1].gamma, teacher.g_s[0][1].gamma)
    assert not any(module._forward_pre_hooks for codec in (teacher, student) for module in codec.modules())


def test_a_dead_channel_does_no_harm() -> None:
    teacher, latents = two_layers(torch.float32), latents_for(3).float()
    latents[:, 1] = 0
    student = swap(teacher, "upsample")
    kept = student.g_s[0].conv.weight[:, 1].clone()
    calibrate(teacher, student, latents)
    assert torch.isfinite(student.g_s(latents)).all()
    torch.testing.assert_close(student.g_s[0].conv.weight[:, 1], kept)


@pytest.mark.parametrize("latents", [torch.zeros(0, 3, 4, 4), torch.zeros(3, 4, 4)])
def test_latents_of_another_shape_are_refused(latents: Tensor) -> None:
    teacher = two_layers()
    with pytest.raises(ValueError, match="latents must be"):
        calibrate(teacher, swap(teacher), latents)


@pytest.mark.parametrize("options", [{"ridge": 0.0}, {"positions": 0}])
def test_nonsense_is_refused(options: dict[str, float]) -> None:
    teacher = two_layers()
    with pytest.raises(ValueError, match="must be positive"):
        calibrate(teacher, swap(teacher), latents_for(3), **options)  # type: ignore[arg-type]


# --- a trained codec


def pictures(count: int, size: int, seed: int) -> Tensor:
    """Crops of the package's photographs, or smooth noise: ``(count, 3, size, size)`` in [0, 1]."""
    from importlib.resources import files

    from PIL import Image

    folder = files("codecswap") / "assets" / "photos"
    found = [item for item in sorted(folder.rglob("*.jpg")) if item.is_file()]  # type: ignore[attr-defined]
    generator = torch.Generator().manual_seed(seed)
    if not found:
        parts = [torch.randn(count, 3, side, side, generator=generator) for side in (7, 14, 28, 56)]
        mixed = sum(F.interpolate(p, size=(size, size), mode="bicubic") * p.shape[-1] ** -0.7 for p in parts)
        return (0.5 + 0.8 * mixed).clamp(0, 1)
    crops = []
    for index in range(count):
        image = np.asarray(Image.open(found[(2 * index + seed) % len(found)]).convert("RGB"))
        row, column = (int(torch.randint(s - size + 1, (), generator=generator)) for s in image.shape[:2])
        crops.append(torch.from_numpy(image[row : row + size, column : column + size].copy()))
    return torch.stack(crops).permute(0, 3, 1, 2).float() / 255


def psnr(codec: FactorizedPrior, latents: Tensor, x: Tensor) -> float:
    with torch.no_grad():
        error = (codec.g_s(latents).clamp(0, 1) - x).square().mean((1, 2, 3))
    return (-10 * error.log10()).mean().item()


def test_the_embedded_codec_gains_on_held_out_pictures() -> None:
    teacher = load_codec("tiny")
    seen, held_out = pictures(24, 128, seed=0), pictures(12, 128, seed=1)
    with torch.no_grad():
        calibration, latents = (teacher.quantize(teacher.g_a(x)) for x in (seen, held_out))
    student = swap(teacher, "upsample")
    weights = psnr(student, latents, held_out)
    fits = calibrate(teacher, student, calibration, positions=8192)
    assert all(isinstance(fit, LayerFit) and fit.error_db < fit.error_before_db for fit in fits)
    assert [fit.name for fit in fits] == ["g_s.0", "g_s.2", "g_s.4", "g_s.6"]
    assert psnr(student, latents, held_out) > weights + 0.1
