"""No bias leaves int32, however small the weights of its row are."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from codecswap.export.backends import graph
from codecswap.export.backends.onnx import write_decoder
from codecswap.export.lower import LoweredGDN
from codecswap.quantise.calibration import LARGEST_BIAS, calibrate
from codecswap.quantise.precision import Precision


@pytest.mark.parametrize("name", ["w8a8", "mixed", "w8a16"])
def test_rows_of_gamma_near_zero_leave_the_bias_in_int32(tmp_path: Path, name: str) -> None:
    torch.manual_seed(0)
    gamma = torch.rand(6, 6) * 0.3 + 0.7 * torch.eye(6)
    gamma[2] *= 1e-12
    gamma[4] = 0
    module = nn.Sequential(LoweredGDN(torch.rand(6) + 0.5, gamma, inverse=True))
    path = tmp_path / "float.onnx"
    write_decoder(module, 6, path, opset=13, size=(8, 8), input="planes")
    model, feed = onnx.load(path), torch.randn(1, 6, 8, 8).numpy()
    transform = calibrate(
        model,
        [feed],
        method="minmax",
        percentile=100,
        precision=Precision.of(name, "uint8"),
        weight_bits=8,
        known={},
        gdns=["g_s.0"],
        keep=[],
    )
    step = next(step for step in transform.operations if step.operator == "Conv")
    weight, bias = (transform.constants[name] for name in step.inputs[1:])
    exact = graph.weights(model)[step.inputs[2]]
    ideal = np.abs(exact.astype(np.float64) / bias.quantisation.scale)
    assert ideal.max() <= LARGEST_BIAS * (1 + 1e-6)
    # worst case of what a device adds up, with 8 bits: products of all inputs, and the bias
    if name != "w8a16":
        sums = np.abs(weight.values.astype(np.int64)).sum((1, 2, 3)) * 255 + np.abs(bias.values.astype(np.int64))
        assert sums.max() < 1 << 31
    unit = transform.activations[step.inputs[0]].scale
    assert np.allclose(bias.quantisation.scale, unit * weight.quantisation.scale, rtol=1e-6)
    assert np.abs(bias.real - exact).max() < 1e-3  # and still says what it said
    assert (
        np.abs(weight.real[[0, 1, 3, 5]] - gamma.numpy()[[0, 1, 3, 5], :, None, None]).max() < 1 / 127
    )  # others stay fine
