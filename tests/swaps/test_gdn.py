"""GDN swaps: what they equal, how close the closed form comes, and that the encoder stays where it was."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from codecswap import cli
from codecswap.codecs.factorized import FactorizedPrior
from codecswap.codecs.protocol import encode
from codecswap.data.transforms import first_readable
from codecswap.export.backends.onnx import export_decoder, export_encoder
from codecswap.graph import onnx_graph as graph
from codecswap.layers.gdn import GDN, RampGDN
from codecswap.swaps import GDN_SWAPS, UNCHANGED
from codecswap.swaps.apply import swap, swap_gdn
from codecswap.swaps.calibrate import calibrate
from codecswap.swaps.closed_form import measure, swap_and_fit
from codecswap.swaps.gdn1 import non_negative
from codecswap.swaps.ramps import fit_ramps, ramps


@pytest.fixture(scope="module")
def crops(request: pytest.FixtureRequest) -> tuple[Tensor, Tensor]:
    """Four photographs to fit to, and four others, of 128x128."""
    pictures: Path = request.getfixturevalue("pictures")
    x, _ = first_readable(sorted((pictures / "train").iterdir()), 8)
    x = x[:, :, 48:176, 48:176]
    return x[:4], x[4:]


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("name", GDN_SWAPS)
def test_what_a_gdn_swap_says_of_itself_is_so(name: str, inverse: bool) -> None:
    value = GDN_SWAPS[name]
    torch.manual_seed(0)
    old = GDN(4, inverse=inverse)
    old.gamma.data += 0.05 * torch.rand(4, 4)
    assert value.refusal(old) is None
    new, error = value.replace(old)
    x = 3 * torch.randn(1, 4, 6, 5)
    assert torch.allclose(new(x), old(x), atol=1e-5) == value.exact == (error == float("-inf"))
    assert value.recognizes(new) and not value.recognizes(old)
    assert (value.calibration is None) == (not list(new.parameters()) or value.exact)


@pytest.mark.parametrize("inverse", [False, True])
def test_ramps_are_the_weighted_least_squares_of_the_root(inverse: bool) -> None:
    generator = torch.Generator().manual_seed(1)
    norm = torch.rand(500, 3, generator=generator, dtype=torch.float64) ** 2 * torch.tensor([1.0, 40.0, 1e-3]) + 1e-3
    weight = torch.rand(500, 3, generator=generator, dtype=torch.float64)
    target = norm.sqrt() if inverse else norm.rsqrt()
    before = torch.full((3,), float("inf"))
    for pieces in (1, 2, 4):
        knots, slopes, constant = fit_ramps(norm, weight, pieces, inverse=inverse)
        basis = ramps(norm[:, :, None], knots, inverse=inverse)
        left = (constant + (slopes * basis).sum(2) - target) * weight
        # at the optimum the weighted residual has nothing in common with the constant and the ramps
        assert (left.sum(0).abs() < 1e-6 * (target * weight).sum(0)).all()
        assert ((left[:, :, None] * basis).sum(0).abs() < 1e-6 * ((target * weight)[:, :, None] * basis).sum(0)).all()
        error = (left.square() / weight).sum(0)
        assert (error < before * (0.5 if pieces > 1 else 1)).all()
        before = error


def test_a_root_stays_positive_beyond_all_samples() -> None:
    """Where a GDN's norm is larger than any that was seen, a falling line would change the sign of x."""
    old = GDN(2)
    new, _ = GDN_SWAPS["ramps"].replace(old)
    x = torch.full((1, 2, 1, 1), 1e4)
    assert (new(x) > 0).all()
    inverse, _ = GDN_SWAPS["ramps"].replace(GDN(2, inverse=True))
    assert (inverse(x) > x).all()


@pytest.mark.parametrize("name", [name for name, value in GDN_SWAPS.items() if not value.trained])
@torch.no_grad()
def test_the_closed_form_on_pictures_it_was_not_fitted_to(
    teacher: FactorizedPrior, crops: tuple[Tensor, Tensor], name: str
) -> None:
    fitted, others = crops
    made, replaced, _ = swap_and_fit(teacher, name, "decoder", fitted, tolerance=0.02)
    assert [entry.name for entry in replaced] == ["g_s.1", "g_s.3", "g_s.5"]
    assert torch.equal(encode(made, others), encode(teacher, others))
    loss = measure(teacher, made, others.split(2))
    assert loss.symbols == 0 == loss.percent and abs(loss.decibels) < 0.12
    made, replaced, _ = swap_and_fit(teacher, name, "encoder", fitted, tolerance=0.02)
    assert [entry.name for entry in replaced] == ["g_a.1", "g_a.3", "g_a.5"]
    loss = measure(teacher, made, others.split(2))
    assert loss.symbols < 0.1 and abs(loss.percent) < 0.5 and loss.decibels < 0.12


@pytest.mark.parametrize("gdn", ["ramps", "gdn1"])
def test_a_student_with_upsample_keeps_its_kernels(
    teacher: FactorizedPrior, crops: tuple[Tensor, Tensor], gdn: str
) -> None:
    student, _ = swap(teacher, "upsample")
    made, _, _ = swap_and_fit(student, gdn, "decoder", crops[0][:4], tolerance=0.1)
    assert torch.equal(made.g_s[2].conv.weight, student.g_s[2].conv.weight) and made.g_s[2] is not student.g_s[2]
    assert measure(student, made, crops[0][:4].split(1)).decibels < (0.2 if gdn == "ramps" else 6)


def test_a_smaller_tolerance_takes_more_pieces(teacher: FactorizedPrior, crops: tuple[Tensor, Tensor]) -> None:
    counts = []
    for tolerance in (1.0, 0.003):
        made, _, pieces = swap_and_fit(teacher, "ramps", "decoder", crops[0], tolerance=tolerance)
        assert measure(teacher, made, [crops[0]]).decibels <= tolerance
        counts.append(pieces)
    assert counts[0] == 1 < counts[1]


@pytest.mark.parametrize("name", [UNCHANGED, *GDN_SWAPS])
def test_the_operators_of_an_exported_codec(teacher: FactorizedPrior, tmp_path: Path, name: str) -> None:
    made, _ = swap_gdn(teacher, name, "both")
    path = tmp_path / "part.onnx"
    needed = set(GDN_SWAPS[name].operators) if name in GDN_SWAPS else {"Mul", "Sqrt"}
    divides = {"Div"} if name in (UNCHANGED, "gdn1") else set()
    export_decoder(made, path, height=64, width=64, form="subpixel")
    assert set(graph.facts(path, (1, 80, 4, 4)).operators) == needed | {"Conv", "DepthToSpace"}
    export_encoder(made, path, height=64, width=64)
    found = set(graph.facts(path, (1, 3, 64, 64)).operators)
    assert found == (needed | divides | {"Conv"}) - ({"Mul"} if name == "gdn1" else set())


def test_the_commands_say_the_loss(tmp_path: Path, pictures: Path, capsys: pytest.CaptureFixture) -> None:
    few = (
        "--calibration_images",
        str(pictures / "train"),
        "--calibration_count",
        "2",
        "--images",
        str(pictures / "val"),
    )
    size = ("--height", "128", "--width", "128")
    common = [
        "--teacher",
        "tiny",
        "--replacement",
        "subpixel",
        "--gdn",
        "ramps",
        *few,
        *size,
        "--gdn_tolerance",
        "0.05",
    ]
    assert cli.main(["export", *common, "--output", str(tmp_path), "--target", "ethos-u", "--part", "decoder"]) == 3
    said = capsys.readouterr().out
    assert "pictures it was not fitted to" in said and said.index("not fitted to") < said.index("Written")
    assert "DepthToSpace at g_s" in said and "Sqrt at" not in said
    assert cli.main(["quantize", *common, "--output", str(tmp_path)]) == 0
    assert "Sqrt" not in capsys.readouterr().out
    assert cli.main(["export", *common[:-1], "0", "--output", str(tmp_path / "no")]) == 2
    assert "--gdn_tolerance is above 0" in capsys.readouterr().err and not (tmp_path / "no").exists()


def test_a_swapped_layer_is_left_alone(teacher: FactorizedPrior) -> None:
    once, _ = swap_gdn(teacher, "rsqrt")
    with pytest.raises(Exception, match="hold no GDN"):
        swap_gdn(once, "ramps")
    twice, _ = swap_gdn(once, "ramps", "encoder")
    assert isinstance(twice.g_a[1], RampGDN)


def test_non_negative_least_squares() -> None:
    """Against the conditions of Karush, Kuhn and Tucker."""
    generator = torch.Generator().manual_seed(0)
    features = torch.rand(3, 50, 6, generator=generator, dtype=torch.float64)
    target = torch.randn(3, 50, generator=generator, dtype=torch.float64)
    gram, cross = features.transpose(1, 2) @ features, torch.einsum("cpk,cp->ck", features, target)
    solution = non_negative(gram, cross)
    slope = (gram @ solution[:, :, None])[:, :, 0] - cross
    assert (solution >= 0).all() and (solution == 0).any() and (solution > 0).any()
    assert (slope > -1e-6).all() and (slope * solution).abs().max() < 1e-6


@pytest.mark.parametrize("name", [name for name, value in GDN_SWAPS.items() if value.trained])
@torch.no_grad()
def test_the_convolutions_behind_are_refitted(
    teacher: FactorizedPrior, crops: tuple[Tensor, Tensor], name: str
) -> None:
    """A start for training: far above the untrained swap, in a decoder of any replacement and in the encoder."""
    fitted, others = crops
    latents = encode(teacher, fitted)
    for replacement in ("subpixel", "masked"):
        student, _ = swap_gdn(swap(teacher, replacement)[0], name)
        before = measure(teacher, student, [others]).psnr
        fits = calibrate(teacher, student, latents)
        assert [fit.name for fit in fits if fit.name in ("g_s.2", "g_s.4", "g_s.6")] == ["g_s.2", "g_s.4", "g_s.6"]
        assert measure(teacher, student, [others]).psnr > max(17, before + 1)
    student, _ = swap_gdn(teacher, name, "encoder")
    before = measure(teacher, student, [fitted])  # so few pictures say little of others to so many weights
    calibrate(teacher, student, fitted, transform="g_a")
    assert measure(teacher, student, [fitted]).decibels < before.decibels - 1
