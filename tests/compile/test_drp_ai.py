"""The files for Renesas's DRP-AI are of the kind that its documents ask for, and are still the codec."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from test_pack import SIDE, compiled

from codecswap.codecs.factorized import FactorizedPrior
from codecswap.codecs.torch_codec import TorchCodec
from codecswap.data.discovery import scan
from codecswap.data.pictures import load_picture, to_array
from codecswap.graph import onnx_graph as graph
from codecswap.inference.runtime import OnnxCodec


@pytest.fixture(scope="module")
def folder(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drp-ai")
    assert compiled("drp-ai", pictures, folder) == 0
    return folder


@pytest.mark.parametrize("name", ["decoder.onnx", "decoder_float.onnx"])
def test_opset_ir_version_and_shapes(folder: Path, name: str) -> None:
    model = onnx.load(folder / name)
    assert graph.opset(model) == 13 and model.ir_version <= 8  # onnx 1.12 has IR version 8
    assert not graph.dead(model) and len(model.opset_import) == 1
    dims = model.graph.input[0].type.tensor_type.shape.dim
    assert [dim.dim_value for dim in dims][2:] == [SIDE // 16, SIDE // 16] and dims[0].dim_value == 1


def test_the_float_file_has_no_rounding_and_goes_with_the_pack(folder: Path) -> None:
    operators = {node.op_type for node in onnx.load(folder / "decoder_float.onnx").graph.node}
    assert operators == {"Conv", "DepthToSpace", "Mul", "Sqrt"}
    assert "decoder_float.onnx" in (folder / "README.md").read_text()


def test_fake_quantization_is_as_in_the_sample(folder: Path) -> None:
    model = onnx.load(folder / "decoder.onnx")
    stored = graph.weights(model)
    made = {output: node for node in model.graph.node for output in node.output}
    for node in model.graph.node:
        if node.op_type == "Conv":
            assert stored[node.input[2]].dtype == np.float32  # the bias
            back = made[node.input[1]]
            forth = made[back.input[0]]
            weight, scale, zero_point = (stored[name] for name in forth.input)
            assert (back.op_type, forth.op_type, weight.dtype) == ("DequantizeLinear", "QuantizeLinear", np.float32)
            assert list(forth.input[1:]) == list(back.input[1:])
            assert zero_point.dtype == np.int8 and not zero_point.any() and scale.shape == weight.shape[:1]
            levels = weight / scale[:, None, None, None]
            assert np.abs(levels - np.rint(levels)).max() < 1e-3 and 64 < np.abs(levels).max() < 127.5
        elif node.op_type == "QuantizeLinear" and node.input[0] not in stored:
            scale, zero_point = (stored[name] for name in node.input[1:])
            assert scale.shape == () and zero_point.dtype == np.uint8
            if node.input[0] not in ("split_inputs", "picture_float"):  # 7 bits, but for what is exact in 8
                assert zero_point <= 127
    assert all(
        tensor.data_type in (onnx.TensorProto.FLOAT, onnx.TensorProto.INT8, onnx.TensorProto.UINT8)
        for tensor in model.graph.initializer
    )


def test_it_decodes(teacher: FactorizedPrior, pictures: Path, folder: Path) -> None:
    picture = to_array(load_picture(scan(pictures / "val")[0]).crop((0, 0, SIDE, SIDE)))
    reference, codec = TorchCodec(teacher), OnnxCodec(folder, threads=1)  # opening it computes its stored check
    symbols = reference.tables.to_symbols(reference.analyze(picture))
    error = codec.synthesize(symbols) - reference.synthesize(symbols)
    assert -10 * np.log10(np.square(error).mean()) > 32
