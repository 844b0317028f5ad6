"""Too much loss is never silent: it is said with its reason and gives exit code 3; no GDN divides by what is rounded to 0."""

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from codecswap import cli
from codecswap.codecs.factorized import FactorizedPrior
from codecswap.data.samples import sample_pictures
from codecswap.inference.runtime import OnnxCodec
from codecswap.quantize import codec as library
from codecswap.quantize import loss
from codecswap.quantize.codec import encode_samples, quantize
from codecswap.quantize.loss import Loss
from codecswap.quantize.scheme import Scheme
from codecswap.quantized.compute import compute


@pytest.mark.parametrize(
    ("loss", "acceptable"),
    [(Loss(0.9, 0.04), True), (Loss(-2, -0.2), True), (Loss(1.1), False), (Loss(0, 0.06), False), (Loss(np.nan), False),
     (Loss(np.inf), False), (Loss(0, np.nan), False)],
)  # fmt: skip
def test_what_is_acceptable(loss: Loss, acceptable: bool) -> None:
    assert loss.acceptable == acceptable
    assert "nan" not in str(loss) and "inf" not in str(loss)


@pytest.fixture
def wide_norms(teacher: FactorizedPrior) -> FactorizedPrior:
    """A codec whose second GDN in the encoder has norms close to 0 beside large ones."""
    gdn = teacher.g_a[3]
    gdn.beta.data = (gdn.beta.data * 0 + 1e-4 + gdn.beta_reparam.pedestal).sqrt()
    gdn.gamma.data += 0.02 * torch.eye(len(gdn.gamma))
    return teacher


@pytest.mark.parametrize("precision", ["w8a8", "mixed"])
def test_an_encoder_does_not_divide_by_zero(
    wide_norms: FactorizedPrior, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    samples = encode_samples(wide_norms, list(islice(sample_pictures(None, "", "train", (128, 96)), 3)))
    scheme = Scheme(precision, refit=False)

    def error() -> tuple[float, tuple[str, ...]]:
        made = quantize(wide_norms, samples, scheme, part="encoder").networks["encoder"]
        assert made.float_transform
        x = torch.from_numpy(samples.pictures[0][None])
        exact = compute(made.float_transform, x, each=lambda name, values: values)
        return float(((compute(made.transform, x) - exact).square().mean() / exact.square().mean()).sqrt()), made.finer

    kept, finer = error()
    assert "g_a.3" in finer
    monkeypatch.setattr(library, "coarse_divisors", lambda *_: [])
    plain, none = error()
    assert none == () and not plain < 3 * kept  # NaN too


def test_a_wreck_is_red_and_gives_exit_code_3(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a limit that 8 bits exceed, above all a square root's reciprocal: its norms have a wide range."""
    monkeypatch.setattr(loss, "MOST_DECIBELS", 0.01)
    folders = ["--images", str(pictures / "val"), "--calibration_images", str(pictures / "train")]
    arguments = ["quantize", "--teacher", "tiny", "--gdn", "rsqrt", *folders, "--output", str(tmp_path / "int8")]
    assert cli.main([*arguments, "--height", "160", "--width", "160"]) == 3
    printed = capsys.readouterr()
    assert printed.err.startswith("The decoder in w8a8 loses ") and printed.err.strip().count("\n") == 0
    assert "most of it comes from g_s." in printed.err and "--precision w8a16" in printed.err
    assert "nan" not in printed.out and "Written" in printed.out
    assert OnnxCodec(tmp_path / "int8").manifest.decoder
