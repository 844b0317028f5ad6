"""Core ML packages, read back and computed by PyTorch, operator by operator, since only macOS computes them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from codecswap import cli
from codecswap.codecs.factorized import FactorizedPrior
from codecswap.config import Form
from codecswap.export.backends.coreml import mlprogram
from codecswap.export.backends.onnx import decoder_graph, encoder_graph

coremltools = pytest.importorskip("coremltools", reason="pip install coremltools")


FUNCTIONS: dict[str, Any] = {
    "mul": torch.mul,
    "real_div": torch.div,
    "sqrt": torch.sqrt,
    "identity": lambda x: x,
    "cast": lambda x, dtype: x,
    "upsample_nearest_neighbor": lambda x, height, width: F.interpolate(x, scale_factor=(float(height), float(width))),
    "pixel_shuffle": lambda x, upscale_factor: F.pixel_shuffle(x, upscale_factor),
}


def computed(package: Path, x: np.ndarray) -> np.ndarray:
    """The output of a package's program."""
    from coremltools.converters.mil.frontend.milproto.load import load

    model = coremltools.models.MLModel(str(package), skip_model_load=True)
    program = load(model.get_spec(), model.get_spec().specificationVersion, file_weights_dir=model.weights_dir)
    function = program.functions["main"]
    values: dict[str, Tensor] = dict.fromkeys(function.inputs, torch.from_numpy(x))

    def value(variable: Any) -> Any:
        if variable.name in values:
            return values[variable.name]
        found = variable.val
        return torch.from_numpy(found.astype(np.float32)) if isinstance(found, np.ndarray) else found

    for step in function.operations:
        if step.op_type == "const":
            continue
        given = {name: value(one) for name, one in step.inputs.items() if one is not None}
        if step.op_type in ("conv", "conv_transpose"):
            top, bottom, left, right = map(int, given["pad"])
            stride = [int(side) for side in given["strides"]]
            assert given["pad_type"] == "custom" and given["groups"] == 1
            if step.op_type == "conv":
                x_padded = F.pad(given["x"], (left, right, top, bottom))
                result = F.conv2d(x_padded, given["weight"], given.get("bias"), stride)
            else:
                result = F.conv_transpose2d(given["x"], given["weight"], given.get("bias"), stride)
                result = result[..., top : result.shape[-2] - bottom, left : result.shape[-1] - right]
        else:
            result = FUNCTIONS[step.op_type](*given.values())
        values[step.outputs[0].name] = result
    return values[function.outputs[0].name].numpy()


@pytest.mark.parametrize(("form", "half"), [("subpixel", True), ("native", False), ("masked", False)])
def test_a_package_computes_what_the_codec_does(form: Form, half: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    codec, random = FactorizedPrior(8, 12).eval().requires_grad_(False), np.random.default_rng(0)
    transform = decoder_graph(codec, form=form, size=(48, 64))
    x = random.standard_normal((1, 12, 3, 4)).astype(np.float32)
    mlprogram(transform, half).save(str(tmp_path / "it.mlpackage"))
    wanted = codec.g_s(torch.from_numpy(x)).numpy()
    error = np.abs(computed(tmp_path / "it.mlpackage", x) - wanted).max() / np.abs(wanted).max()
    assert error < (1e-2 if half else 1e-5)
    if form == "subpixel":
        picture = random.random((1, 3, 48, 64), np.float32)
        mlprogram(encoder_graph(codec, (48, 64)), half).save(str(tmp_path / "encoder.mlpackage"))
        wanted = codec.g_a(torch.from_numpy(picture)).numpy()
        error = np.abs(computed(tmp_path / "encoder.mlpackage", picture) - wanted).max() / np.abs(wanted).max()
        assert error < 1e-2


def test_the_command_writes_a_package_and_replaces_it(
    tmp_path: Path, pictures: Path, capsys: pytest.CaptureFixture
) -> None:
    words = ["compile", "--teacher", "tiny", "--output", str(tmp_path), "--images", str(pictures / "val")]
    words += ["--calibration_images", str(pictures / "train"), "--height", "80", "--width", "96"]
    assert cli.main([*words, "--target", "coreml", "--precision", "float16"]) == 0
    said = capsys.readouterr()
    assert "decoder.mlpackage is for iOS16" in said.out and "7 conv" in said.out and "passes" not in said.err
    assert (tmp_path / "decoder.mlpackage").is_dir()
    assert cli.main([*words, "--target", "pack"]) == 0
    assert not (tmp_path / "decoder.mlpackage").exists() and (tmp_path / "decoder.onnx").exists()
