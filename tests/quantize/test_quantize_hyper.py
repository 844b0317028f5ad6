"""A codec with a hyperprior in integers: exact inputs, folders that code, checks, and fields of codec.json that do not fit."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from codecswap.codecs.protocol import HyperCodec
from codecswap.codecs.torch_codec import TorchCodec
from codecswap.data.pictures import to_array, to_picture
from codecswap.entropy import bitstream
from codecswap.errors import UserError
from codecswap.export.codec import quantize
from codecswap.export.folder import write_float
from codecswap.export.tables import show_quality
from codecswap.graph.lower import lower, take_split_inputs
from codecswap.inference.folder import MANIFEST
from codecswap.inference.runtime import OnnxCodec
from codecswap.inference.split_inputs import LARGEST, SplitInputs
from codecswap.swaps.apply import swap


@pytest.fixture(scope="module")
def samples(photos: list[Path]) -> list[np.ndarray]:
    found = []
    for path in photos[:2]:
        with Image.open(path) as photo:
            found.append(to_array(photo.crop((200, 200, 328, 328)).convert("RGB")))
    return found


@pytest.fixture(scope="module")
def folder(
    hyper_codec: Callable[[str], HyperCodec], samples: list[np.ndarray], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, str], Path]:
    """Makes a quantized folder of a codec, once."""
    root = tmp_path_factory.mktemp("quantized")

    def make(name: str, precision: str) -> Path:
        made = root / f"{name}_{precision}"
        if not made.exists():
            codec, _ = swap(hyper_codec(name), "subpixel")
            part = "both" if precision == "w8a8" else "decoder"
            quantize(codec, made, part=part, precision=precision, refit=False, calibration_images=samples)
        return made

    return make


@pytest.mark.parametrize("precision", ["w8a8", "w8a16"])
def test_a_quantized_folder_codes_and_reads_the_float_folders_files(
    precision: str,
    folder: Callable[[str, str], Path],
    hyper_codec: Callable[[str], HyperCodec],
    samples: list[np.ndarray],
    tmp_path: Path,
) -> None:
    codec, _ = swap(hyper_codec("mbt2018_mean"), "subpixel")
    write_float(codec, tmp_path / "float")
    quantized, in_float = OnnxCodec(folder("mbt2018_mean", precision)), OnnxCodec(tmp_path / "float")
    assert (quantized.manifest.hyper_encoder is not None) == (precision == "w8a8") and quantized.manifest.side
    picture = to_picture(samples[0], (128, 128))
    data = bitstream.encode(in_float, picture)
    wanted, found = (to_array(bitstream.decode(one, data)) for one in (in_float, quantized))
    error = np.square(wanted - found).mean()
    assert -10 * np.log10(max(error, 1e-12)) > (30 if precision == "w8a8" else 45)
    if precision == "w8a8":
        own = bitstream.encode(quantized, picture)
        assert bitstream.decode(in_float, own).size == (128, 128) and abs(len(own) / len(data) - 1) < 0.1
        show_quality(codec, quantized.folder, samples, part="both", form="native")


@pytest.mark.parametrize(("name", "bits"), [("mbt2018_mean", 4), ("bmshj2018_hyperprior", 0)])
def test_the_inputs_are_the_latents_exactly_and_no_layer_is_in_float(
    name: str, bits: int, folder: Callable[[str, str], Path], hyper_codec: Callable[[str], HyperCodec], samples
) -> None:
    codec = OnnxCodec(folder(name, "w8a8"))
    layout, torch_codec = codec.manifest.split_inputs, TorchCodec(hyper_codec(name))
    assert codec.manifest.decoder and codec.manifest.decoder.input == "split_inputs"
    assert layout and layout.shift is None and layout.fractional_bits == bits
    for picture in samples:
        quantized = codec.entropy.quantize(torch_codec.analyze(picture), torch_codec.hyper_analyze)
        latents = quantized.symbols.astype(np.float64) + quantized.means.astype(np.float64)
        given = codec.decoder_input(quantized.symbols, quantized.means)
        assert (np.rint(given) == given).all() and np.abs(given).max() <= LARGEST and (given[-1] == 1).all()
        added = np.zeros_like(latents)
        np.add.at(added, layout.channels, given[:-1].astype(np.float64) / 2**bits)
        assert (added == latents).all()


@pytest.mark.parametrize("replacement", ["none", "subpixel"])
@torch.no_grad()
def test_the_first_layer_computes_the_same_from_split_inputs(
    replacement: str, hyper_codec: Callable[[str], HyperCodec]
) -> None:
    codec = hyper_codec("mbt2018_mean")
    codec = codec if replacement == "none" else swap(codec, replacement)[0]
    rng = np.random.default_rng(0)
    symbols = rng.integers(-20, 21, (12, 4, 6), dtype=np.int32) * np.arange(1, 13, dtype=np.int32)[:, None, None]
    means = (rng.integers(-200, 201, symbols.shape) / 16).astype(np.float32)
    layout = SplitInputs.for_latents([symbols + means], 4)
    assert len(layout.channels) > 40
    taken = take_split_inputs(lower(codec.g_s), layout, np.zeros(12, np.float32))
    assert taken
    transform, layout = taken
    given = torch.from_numpy(layout.split(symbols, means))[None].double()
    found, wanted = transform.double()(given), codec.g_s.double()(torch.from_numpy(symbols + means)[None].double())
    codec.g_s.float()
    assert (found - wanted).abs().max() < 1e-6 * wanted.abs().max()


def test_latents_beyond_the_layout_are_clipped() -> None:
    layout = SplitInputs.for_latents([np.array([[[2.0]], [[-30.0]]])], 4)
    assert layout.channels == [0, *[1] * 6] and layout.describes(2) and not layout.describes(3)
    given = layout.split(np.array([[[90]], [[-90]]], np.int32), np.array([[[0.25]], [[-0.25]]], np.float32))
    assert given.ravel().tolist() == [127, *[-127] * 6, 1]


def test_the_stored_checks_are_run_and_are_what_the_file_means(
    folder: Callable[[str, str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    codec = OnnxCodec(folder("mbt2018_mean", "w8a8"), threads=1, reference=True)
    assert codec.manifest.checks and len(codec.manifest.checks) == 4
    for part in ("encoder", "decoder"):
        OnnxCodec(codec.folder).load(part)
    coded = (codec.folder / "check_decoder.csw").read_bytes()
    with Image.open(codec.folder / "check_decoder.png") as shown:
        assert np.abs(np.asarray(bitstream.decode(codec, coded), int) - np.asarray(shown, int)).max() <= 1
    run = OnnxCodec._run
    wrong = {"encoder": 0.5, "decoder": 0.1}
    for part, more in wrong.items():
        with monkeypatch.context() as patch:
            patch.setattr(OnnxCodec, "_run", lambda self, *x, more=more, **how: (1 + more) * run(self, *x, **how))
            with pytest.raises(UserError, match="is computed wrongly here"):
                OnnxCodec(codec.folder).load(part)


def test_a_layout_that_does_not_fit_is_one_sentence(folder: Callable[[str, str], Path], tmp_path: Path) -> None:
    good = folder("mbt2018_mean", "w8a8")
    content = json.loads((good / MANIFEST).read_text())
    channels = content["split_inputs"]["channels"]
    bad = [
        {"channels": [one for one in channels if one != 5]},
        {"channels": channels[::-1]},
        {"channels": [*channels, 12]},
        {"channels": [*channels[:-1], "11"]},
        {"channels": sorted(channels * 1000)},
        {"channels": None},
        {"shift": [0] * 12},
        {"constant": 1.5},
        {"constant": 0},
        {"fractional_bits": -1},
        {"fractional_bits": 17},
        {"fractional_bits": 4.0},
        {"fractional_bits": 3},
        {"bits": 1},
    ]
    shutil.copytree(good, tmp_path / "folder")
    for wrong in bad:
        changed = content | {"split_inputs": content["split_inputs"] | wrong}
        (tmp_path / "folder" / MANIFEST).write_text(json.dumps(changed))
        with pytest.raises(UserError, match=r"is damaged or of another program|does not fit"):
            OnnxCodec(tmp_path / "folder")
    changed = content | {"split_inputs": content["split_inputs"] | {"channels": [0, *channels]}}  # not the network's
    (tmp_path / "folder" / MANIFEST).write_text(json.dumps(changed))
    with pytest.raises(UserError, match="cannot be run"):
        OnnxCodec(tmp_path / "folder").load("decoder")
