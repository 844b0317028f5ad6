"""A decoder in integers in PyTorch: what ONNX Runtime computes from its file, before training and after."""

import json
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from codecswap.codecs.protocol import Codec
from codecswap.codecs.source import load_codec
from codecswap.codecs.torch_codec import TorchCodec
from codecswap.data.samples import sample_pictures
from codecswap.errors import UserError
from codecswap.export.codec import quantize
from codecswap.graph.lower import lower
from codecswap.inference.check import agreement
from codecswap.inference.runtime import OnnxCodec
from codecswap.quantized.compute import rounded
from codecswap.quantized.representation import Quantization
from codecswap.quantized.synthesis import QuantizedSynthesis
from codecswap.swaps.apply import swap, swap_gdn

SIZE = (64, 48)


@pytest.fixture(scope="module")
def samples() -> list[np.ndarray]:
    return list(islice(sample_pictures(None, "", "train", SIZE), 3))


def in_integers(folder: Path, codec: Codec, samples: Sequence[np.ndarray], **how: Any) -> QuantizedSynthesis:
    made, _ = quantize(codec.requires_grad_(False), folder, calibration_images=samples, **how)
    transform, medians = made.networks["decoder"].transform, codec.entropy_tables().medians
    return QuantizedSynthesis(transform, made.split_inputs, medians, precision=made.precision)


def decoded(decoder: QuantizedSynthesis, folder: Path, sample: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A picture by PyTorch, and by the file's reference execution, both clamped."""
    codec = TorchCodec(load_codec("tiny"))
    symbols = codec.tables.to_symbols(codec.analyze(sample))
    with torch.no_grad():
        ours = decoder(torch.from_numpy(codec.tables.to_latents(symbols))[None])[0].numpy()
    return ours.clip(0, 1), OnnxCodec(folder, reference=True).synthesize(symbols).clip(0, 1)


@pytest.mark.parametrize(
    ("replacement", "gdn", "how"),
    [
        ("none", "sqrt", {}),
        ("subpixel", "sqrt", {"precision": "w8a16", "activations": "int8"}),
        ("subpixel", "rsqrt", {"precision": "mixed"}),
        ("upsample", "ramps", {}),
        ("masked", "gdn1", {"width": SIZE[0], "height": SIZE[1]}),
    ],
)
def test_it_is_what_the_file_means(
    tmp_path: Path, samples: list[np.ndarray], replacement: str, gdn: str, how: dict[str, Any]
) -> None:
    codec = load_codec("tiny")
    codec = codec if replacement == "none" else swap(codec, replacement)[0]
    codec = codec if gdn == "sqrt" else swap_gdn(codec, gdn)[0]
    decoder = in_integers(tmp_path, codec, samples, **how)
    ours, exact = decoded(decoder, tmp_path, samples[0])
    assert agreement("decoder", ours, exact) > 70
    again = QuantizedSynthesis.of(json.loads(json.dumps(decoder.layout())), decoder.state_dict())
    again.load_state_dict(decoder.state_dict())
    assert np.array_equal(decoded(again, tmp_path, samples[0])[0], ours)


def test_what_was_trained_is_written(tmp_path: Path, samples: list[np.ndarray]) -> None:
    codec = load_codec("tiny")
    decoder = in_integers(tmp_path / "before", swap(codec, "subpixel")[0], samples, weight_bits=7)
    before = decoded(decoder, tmp_path / "before", samples[0])[0]
    torch.manual_seed(0)
    with torch.no_grad():
        for gain, bias, shift in zip(
            decoder.gains.values(), decoder.biases.values(), decoder.shifts.values(), strict=True
        ):
            gain *= 1 + 0.01 * torch.randn_like(gain)
            bias += 0.01 * torch.randn_like(bias)
            shift += 0.02 * torch.randn_like(shift)
    codec.g_s = decoder
    quantize(codec, tmp_path / "after", calibration_images=samples)
    ours, exact = decoded(decoder, tmp_path / "after", samples[0])
    assert agreement("decoder", ours, exact) > 70
    assert agreement("decoder", ours, before) < 40  # the change is not lost in the comparison
    largest = [np.abs(one.constants[name].values).max() for one, name in weights(decoder)]
    assert max(largest) <= 64
    fixed, _ = quantize(codec, calibration_images=samples, width=SIZE[0], height=SIZE[1])
    transform = fixed.networks["decoder"].transform
    assert transform.input_shape[2:] == (SIZE[1] // 16, SIZE[0] // 16)
    assert transform.output_shape == (1, 3, SIZE[1], SIZE[0])
    with pytest.raises(UserError, match="fine-tuned with --quantized"):
        lower(decoder)


def weights(decoder: QuantizedSynthesis) -> list[tuple[Any, str]]:
    transform = decoder.transform()
    return [(transform, step.inputs[1]) for step in transform.operations if step.operator == "Conv"]


def test_rounding_passes_gradients_but_where_it_clips() -> None:
    x = torch.tensor([-3.0, 0.2, 0.26, 4.0], requires_grad=True)
    y = rounded(x, Quantization.fixed(0.1, -10, "uint8"))
    torch.testing.assert_close(y, torch.tensor([-1.0, 0.2, 0.3, 4.0]))
    y.sum().backward()
    assert x.grad.tolist() == [0, 1, 1, 1]


def test_every_parameter_has_a_gradient(tmp_path: Path, samples: list[np.ndarray]) -> None:
    decoder = in_integers(tmp_path, swap(load_codec("tiny"), "subpixel")[0], samples)
    codec = load_codec("tiny")
    latents = codec.quantize(codec.g_a(torch.from_numpy(samples[0])[None])).detach()
    (decoder(latents) - torch.from_numpy(samples[0])).square().mean().backward()
    assert all(p.grad is not None and p.grad.any() for p in decoder.parameters())
