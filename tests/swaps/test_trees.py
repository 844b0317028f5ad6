"""Swaps in transforms of any shape: residual and attention blocks, other orders than the tree's, layers used twice."""

from pathlib import Path

import pytest
import torch
from residual import Residual
from torch import Tensor, nn

from codecswap.codecs.factorized import FactorizedPrior
from codecswap.codecs.protocol import encode
from codecswap.codecs.source import load_codec
from codecswap.data.transforms import first_readable
from codecswap.errors import UserError
from codecswap.layers.gdn import GDN
from codecswap.swaps import SWAPS
from codecswap.swaps.apply import has_gdn, swap, swap_gdn
from codecswap.swaps.calibrate import calibrate
from codecswap.swaps.order import execution_order


@pytest.fixture
def codec(residual: Path) -> Residual:
    found = load_codec(str(residual))
    assert isinstance(found, Residual)
    return found


def crops(folder: Path) -> Tensor:
    return first_readable(sorted(folder.iterdir()), 8)[0]


def transposed(inputs: int, outputs: int) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(inputs, outputs, 5, stride=2, padding=2, output_padding=1)


class Backwards(nn.Module):
    """Its layers run in the opposite order to that of their names, and the one in the middle runs twice."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.a_last, self.middle, self.z_first = transposed(6, outputs), transposed(6, 6), transposed(inputs, 6)
        self.again = self.middle
        self.gdn = GDN(6, inverse=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.a_last(self.again(self.gdn(self.middle(self.z_first(x)))))


@pytest.fixture
def backwards(teacher: FactorizedPrior) -> FactorizedPrior:
    torch.manual_seed(0)
    teacher.g_s = Backwards(80, 3).requires_grad_(False)
    return teacher


@pytest.mark.parametrize("replacement", SWAPS)
@torch.no_grad()
def test_a_residual_decoder_is_swapped(codec: Residual, pictures: Path, replacement: str) -> None:
    student, report = swap(codec, replacement)
    assert [entry.name for entry in report] == ["g_s.1", "g_s.3", "g_s.6", "g_s.8"]
    assert student.same_latents(codec)
    seen, held_out = (encode(codec, crops(pictures / side)) for side in ("train", "val"))
    wanted, before = codec.g_s(held_out), student.g_s(held_out)
    if SWAPS[replacement].exact:
        torch.testing.assert_close(before, wanted, rtol=0, atol=1e-5)
        assert calibrate(codec, student, seen) == []
        return
    steps: list[tuple[int, int]] = []
    fits = calibrate(codec, student, seen, batch_size=3, progress=lambda *done: steps.append(done))
    assert [fit.name for fit in fits] == [entry.name for entry in report]
    assert all(fit.error_db < fit.error_before_db for fit in fits)
    assert (student.g_s(held_out) - wanted).square().mean() < 0.93 * (before - wanted).square().mean()
    assert steps == [(done, 16) for done in range(1, 17)]


def test_the_order_is_that_of_the_run(backwards: FactorizedPrior) -> None:
    counts = execution_order(backwards.g_s, torch.zeros(1, 80, 2, 2))
    ran = [(name, count) for name, count in counts.items() if "." not in name]
    assert ran == [("z_first", 1), ("middle", 2), ("gdn", 1), ("a_last", 1)]
    student, report = swap(backwards, "subpixel")
    assert [entry.name for entry in report] == ["g_s.z_first", "g_s.middle", "g_s.a_last"]
    assert student.g_s.again is student.g_s.middle
    latents = torch.randn(2, 80, 3, 4)
    torch.testing.assert_close(student.g_s(latents), backwards.g_s(latents), rtol=0, atol=1e-5)


@torch.no_grad()
def test_calibration_goes_with_the_run_and_serves_all_uses_of_a_layer(backwards: FactorizedPrior) -> None:
    student, _ = swap(backwards, "upsample")
    latents = torch.randn(6, 80, 4, 4).mul(3).round()
    wanted, before = backwards.g_s(latents), student.g_s(latents)
    fits = calibrate(backwards, student, latents)
    assert [fit.name for fit in fits] == ["g_s.z_first", "g_s.middle", "g_s.a_last"]
    assert (student.g_s(latents) - wanted).square().mean() < 0.95 * (before - wanted).square().mean()


@torch.no_grad()
def test_a_gdn_in_a_block_is_swapped_and_what_runs_behind_it_refitted(codec: Residual, pictures: Path) -> None:
    assert not has_gdn(codec)
    codec.g_s[2].relu1 = GDN(8, inverse=True)
    assert has_gdn(codec) and not has_gdn(codec, "encoder")
    student, report = swap(codec, "subpixel", gdn="relu")
    assert report[-1].name == "g_s.2.relu1" and len(report) == 5
    latents = encode(codec, crops(pictures / "train"))
    wanted, before = codec.g_s(latents), student.g_s(latents)
    names = [fit.name for fit in calibrate(codec, student, latents)]
    assert names[:3] == ["g_s.2.conv2", "g_s.2.conv3", "g_s.3"] and names[-1] == "g_s.8"
    assert "g_s.4.conv_b.3" in names and not {"g_s.0.conv_b.3", "g_s.1", "g_s.2.conv1"} & set(names)
    assert (student.g_s(latents) - wanted).square().mean() < 0.5 * (before - wanted).square().mean()
    with pytest.raises(UserError, match="hold no GDN"):
        swap_gdn(codec, "relu", "encoder")


def test_a_layer_that_is_no_module_of_its_own_is_refused(backwards: FactorizedPrior) -> None:
    class Sized(Backwards):
        def forward(self, x: Tensor) -> Tensor:
            x = self.middle(self.z_first(x))
            return self.a_last(self.again(x), output_size=[16 * x.shape[-1] // 4 - 1] * 2)

    class Functional(Backwards):
        def forward(self, x: Tensor) -> Tensor:
            x = nn.functional.conv_transpose2d(x, self.z_first.weight, stride=2)
            return self.a_last(self.again(x))

    for kind, name in ((Sized, "a_last"), (Functional, "z_first")):
        backwards.g_s = kind(80, 3)
        with pytest.raises(
            UserError, match=rf"layer g_s\.{name} .*cannot be replaced by masked: the codec does not call it"
        ):
            swap(backwards, "masked")
