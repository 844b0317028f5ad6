"""Codecs whose latents are predicted from other latents: they trade strings with CompressAI, train, and write files."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from compressai import models
from PIL import Image
from small_codecs import SIZES, small_codec

from codecswap.cli import main
from codecswap.codecs.architectures import ARCHITECTURES, untrained
from codecswap.codecs.elic2022 import compressai_names
from codecswap.codecs.protocol import HyperCodec, encode
from codecswap.codecs.source import load_codec
from codecswap.codecs.torch_codec import TorchCodec
from codecswap.entropy import bitstream
from codecswap.entropy.passes import check_passes
from codecswap.errors import UserError
from codecswap.evaluation.measure import code
from codecswap.swaps.apply import swap

THEIRS: dict[str, Any] = {
    "cheng2020_anchor": models.Cheng2020Anchor,
    "cheng2020_attn": models.Cheng2020Attention,
    "cheng2020_anchor_checkerboard": models.Cheng2020AnchorCheckerboard,
    "elic2022_official": models.Elic2022Official,
    "elic2022_chandelier": models.Elic2022Chandelier,
}
OTHER = dict.fromkeys(THEIRS, (6,)) | dict.fromkeys(("elic2022_official", "elic2022_chandelier"), (6, 10, [4, 6]))


@pytest.fixture(params=THEIRS)
def codec(request: pytest.FixtureRequest) -> HyperCodec:
    made = small_codec(request.param)
    assert isinstance(made, HyperCodec)
    return made


def theirs_of(codec: HyperCodec) -> Any:
    name = next(name for name, kind in ARCHITECTURES.items() if type(codec) is kind)
    theirs = THEIRS[name](*SIZES[name]).eval()
    theirs.load_state_dict(codec.state_dict())
    return theirs


def test_weights_of_any_size_are_recognized() -> None:
    for sizes in (SIZES, OTHER):
        for name, kind in THEIRS.items():
            found = untrained(kind(*sizes[name]).state_dict())
            assert type(found) is ARCHITECTURES[name]
            assert (sizes[name][0], sizes[name][1] if len(sizes[name]) > 1 else sizes[name][0]) == (found.N, found.M)


@torch.no_grad()
def test_latents_and_bits_are_those_of_compressai(codec: HyperCodec) -> None:
    check_passes(codec.passes, codec.M, codec.N)
    theirs, x = theirs_of(codec), torch.rand(1, 3, 64, 128, generator=torch.Generator().manual_seed(1))
    y = codec.g_a(x)
    strings = codec.compress_latents(y)
    latents = codec.decompress_latents(strings, y.shape[-2:])
    wanted = theirs(x)
    given = theirs.compress(x)
    shown = theirs.decompress(given["strings"], given["shape"])["x_hat"]
    torch.testing.assert_close(codec.g_s(latents).clamp(0, 1), shown, rtol=0, atol=1e-4)
    torch.testing.assert_close(codec.quantize(y), latents, rtol=0, atol=1e-4)
    assert latents.unique().numel() > 50, "these latents show nothing"
    bits = sum(-likelihoods.log2().sum().item() for likelihoods in wanted["likelihoods"].values())
    assert codec.bits(y).item() == pytest.approx(bits, rel=0.01)
    theirs_bytes = [len(string) for (string,) in given["strings"]]
    assert abs(sum(map(len, strings)) - sum(theirs_bytes)) <= 8 * (len(theirs_bytes) - 2), "8 bytes end a string"


@torch.no_grad()
def test_no_latent_reaches_beyond_the_margin(codec: HyperCodec) -> None:
    reach = 2 * codec.margin + 3
    latents = torch.randn(1, codec.M, reach, reach, generator=torch.Generator().manual_seed(0))
    moved = latents.clone()
    moved[:, :, codec.margin + 1, codec.margin + 1] += 1e3
    changed = (codec.g_s(moved) != codec.g_s(latents)).any(1)[0]
    assert changed[codec.factor : -codec.factor, codec.factor : -codec.factor].sum() == changed.sum() > 0


def test_gradients_reach_everything_that_bits_depend_on(codec: HyperCodec) -> None:
    trained = copy.deepcopy(codec).requires_grad_(True)
    trained.bits(trained.g_a(torch.rand(2, 3, 48, 80)), noisy=True).backward()
    for name, parameter in trained.named_parameters():
        assert (parameter.grad is not None) == (not name.startswith("g_s.") and "quantiles" not in name), name


def test_files_go_through_the_commands(codec: HyperCodec, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (9, 13, 3), np.uint8)
    Image.fromarray(noise).resize((141, 60), Image.Resampling.BICUBIC).save(tmp_path / "a.png")
    torch.save(codec.state_dict(), tmp_path / "codec.pth")
    names = ["--codec", str(tmp_path / "codec.pth")]
    assert main(["encode", str(tmp_path / "a.png"), "-o", str(tmp_path / "a.csw"), *names]) == 0
    assert main(["decode", str(tmp_path / "a.csw"), "-o", str(tmp_path / "b.png"), *names]) == 0
    with Image.open(tmp_path / "b.png") as shown:
        assert shown.size == (141, 60)
    data = (tmp_path / "a.csw").read_bytes()
    with pytest.raises(bitstream.BadFile):
        bitstream.read(data[:-40] + bytes(36) + data[-4:], TorchCodec(codec).entropy, 16)


def test_pictures_and_crops_of_any_size(codec: HyperCodec) -> None:
    bpp, latents = code(codec, torch.rand(1, 3, 38, 70))
    assert latents.shape == (1, codec.M, 4, 8) and bpp > 0
    assert encode(codec, torch.rand(2, 3, 48, 80)).shape == (2, codec.M, 3, 5)


def test_a_student_reads_the_files_of_its_teacher() -> None:
    codec = small_codec("elic2022_official")
    student, replaced = swap(codec, "subpixel")
    assert len(replaced) == 4 and student.same_latents(codec)
    picture = Image.effect_noise((64, 64), 80).convert("RGB")
    data = bitstream.encode(TorchCodec(codec), picture)
    ours, theirs = (bitstream.read(data, TorchCodec(one).entropy, 16)[0] for one in (student, codec))
    assert (ours.symbols == theirs.symbols).all() and (ours.means == theirs.means).all()
    with pytest.raises(UserError, match=r"holds no ConvTranspose2d or .*: there is nothing to swap"):
        swap(small_codec("cheng2020_attn"), "subpixel")


def test_checkpoints_of_the_public_elic_load(tmp_path: Path) -> None:
    codec = small_codec("elic2022_chandelier")
    public = {}
    for name, value in codec.state_dict().items():
        name = name.removeprefix("latent_codec.hyper.")
        parts = name.split(".")
        if name.startswith("latent_codec.y.channel_context"):
            name = ".".join(("cc_transforms", str(int(parts[3][1:]) - 1), *parts[4:]))
        elif name.startswith("latent_codec.y.latent_codec"):
            within = {"context_prediction": "context_prediction", "entropy_parameters": "ParamAggregation"}
            group = () if parts[4] == "y" else (within[parts[4]], parts[3][1:])
            name = ".".join((*group, *parts[5:]))
        public[name] = value
    assert "ParamAggregation.2.0.weight" in public and "gaussian_conditional.scale_table" in public
    assert compressai_names(public).keys() == codec.state_dict().keys()
    torch.save({"state_dict": public}, tmp_path / "public.pth.tar")
    loaded = load_codec(str(tmp_path / "public.pth.tar"))
    assert type(loaded) is type(codec)
    y = codec.g_a(torch.rand(1, 3, 64, 64))
    assert loaded.compress_latents(y) == codec.compress_latents(y)
