"""The program that makes a small codec, for a few steps."""

import importlib.util
import io
import math
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from compressai import models
from safetensors.torch import load_file, save_file

from codecswap.codecs.architectures import ARCHITECTURES
from codecswap.codecs.factorized import FactorizedPrior
from codecswap.codecs.source import load_codec

SCRIPT = Path(__file__).parents[1] / "scripts" / "make_teacher.py"


@pytest.fixture(scope="module")
def program() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_teacher", SCRIPT)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("architecture", ["bmshj2018_factorized", "mbt2018_mean"])
def test_it_makes_a_codec_that_loads_and_has_learnt(
    architecture: str, program, photos, tmp_path: Path, monkeypatch
) -> None:
    folder, output = photos[0].parent, tmp_path / "codec.safetensors"
    x = program.crops([program.pyramid(photos[0], 128)], 128, 2, torch.Generator().manual_seed(5))
    torch.manual_seed(0)
    codec = ARCHITECTURES[architecture](24, 24)
    program.start_from_components(codec, x, 0.02)
    with torch.no_grad():  # the first stage's components, and their transposes, give the picture back
        mid = codec.g_s[6](codec.g_a[0](x))
    assert -10 * math.log10((mid - x)[..., 2:-2, 2:-2].square().mean().item()) > 20
    with torch.no_grad():  # the whole chain does so, coarsely, before any training
        decoded = codec.g_s(codec.quantize(codec.g_a(x)))
    assert -10 * math.log10((decoded - x).square().mean().item()) > 15
    arguments = ["make_teacher.py", "--images", str(folder), "--output", str(output), "--N", "24", "--M", "24"]
    monkeypatch.setattr("sys.argv", [*arguments, "--architecture", architecture, "--minutes", "0.05"])
    program.main()
    assert [path.name for path in tmp_path.iterdir()] == [output.name]
    made = load_codec(str(output))
    assert type(made) is type(codec) and (made.N, made.M) == (24, 24)
    packed = models.FactorizedPrior.compress(made, x[:1])
    assert (
        0 < len(packed["strings"][0][0]) < 128 * 128
        and models.FactorizedPrior.decompress(made, **packed)["x_hat"].shape == x[:1].shape
    )


@pytest.mark.slow
def test_a_hyperprior_learns_to_spend_fewer_bits(program, photos) -> None:
    pictures = [program.pyramid(photos[0], 256)]
    torch.manual_seed(0)
    codec = ARCHITECTURES["mbt2018_mean"](16, 24)
    program.start_from_components(codec, program.crops(pictures, 256, 4, torch.Generator().manual_seed(1)), 0.02)
    training = program.Training(codec, [0.02])
    losses = [
        0.02 * 255**2 * 10 ** (-psnr / 10) + bpp for psnr, bpp in (training.advance(pictures, 0.0) for _ in range(40))
    ]
    assert sum(losses[-10:]) < 0.95 * sum(losses[:10])


def test_a_stopped_training_goes_on_as_if_it_had_not(program, photos) -> None:
    pictures = [program.pyramid(photos[0], 128)]

    def begun() -> Any:
        torch.manual_seed(0)
        codec = FactorizedPrior(8, 8)
        program.start_from_components(codec, program.crops(pictures, 128, 4, torch.Generator().manual_seed(1)), 0.02)
        return program.Training(codec, [0.02])

    first, second = begun(), begun()
    for _ in range(2):
        first.advance(pictures, 0.0)
    content = io.BytesIO()
    torch.save(first.state(), content)
    content.seek(0)
    second.restore(torch.load(content, weights_only=True))
    torch.manual_seed(3)
    wanted = first.advance(pictures, 0.9)
    torch.manual_seed(3)
    assert second.advance(pictures, 0.9) == wanted and second.step == 3
    for mine, theirs in zip(second.averaged.parameters(), first.averaged.parameters(), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.slow
def test_it_starts_from_a_codec_that_is_there(program, photos, tmp_path: Path, monkeypatch) -> None:
    """The transforms of ``tiny``, with fewer latents, stay as they are; only the new entropy model learns."""
    tiny, output = load_codec("tiny"), tmp_path / "codec.safetensors"
    arguments = ["make_teacher.py", "--images", str(photos[0].parent), "--output", str(output), "--keep_transforms"]
    more = ["--architecture", "mbt2018_mean", "--M", "64", "--minutes", "0.03"]
    monkeypatch.setattr("sys.argv", [*arguments, *more, "--start", "tiny"])
    program.main()
    made = load_codec(str(output))
    x = program.pyramid(photos[0], 128)[0][None, :, :128, :128] / 255
    with torch.no_grad():
        theirs, mine = tiny.g_a(x), made.g_a(x)
        kept = [int((theirs - mine[:, [index]]).square().mean((0, 2, 3)).argmin()) for index in range(64)]
        assert len(set(kept)) == 64, "each latent is another one of tiny's"
        torch.testing.assert_close(mine, theirs[:, kept], rtol=0, atol=1e-5 * theirs.abs().max().item())
        left = theirs[:, [index for index in range(tiny.M) if index not in kept]]
        assert left.square().mean() < 0.1 * mine.square().mean(), "those left out cost few bits"
    monkeypatch.setattr("sys.argv", [*arguments, *more, "--start", str(output)])
    program.main()  # its entropy model, too, is taken over
    again = load_codec(str(output))
    torch.testing.assert_close(again.h_s[0].weight, made.h_s[0].weight, rtol=0, atol=0.02)


def test_an_asset_is_small_and_the_same_codec(program, tmp_path: Path) -> None:
    torch.manual_seed(0)
    codec = ARCHITECTURES["mbt2018_mean"](16, 24).eval()
    codec.g_a.requires_grad_(False)
    codec.g_s.requires_grad_(False)
    program.round_to_half(codec)
    codec.update(force=True)
    state = program.asset(codec, without_transforms=True)
    assert not any(name.startswith(("g_a.", "g_s.")) for name in state)
    path = tmp_path / "asset.safetensors"
    save_file({name: value.contiguous() for name, value in state.items()}, path)
    entropy_model = sum(value.numel() for name, value in codec.named_parameters() if not name.startswith("g_"))
    assert path.stat().st_size < 2.6 * entropy_model
    rest = {name: value for name, value in codec.state_dict().items() if name.startswith(("g_a.", "g_s."))}
    save_file(load_file(path) | rest, tmp_path / "whole.safetensors")
    again, x = load_codec(str(tmp_path / "whole.safetensors")), torch.rand(1, 3, 64, 64)
    assert again.compress_latents(again.g_a(x)) == codec.compress_latents(codec.g_a(x))
