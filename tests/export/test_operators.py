"""Targets: the lists that come with the package, and what is said of a graph that one does not accept."""

from pathlib import Path

import onnx
import pytest
from compressai.layers import ResidualBlock, ResidualBlockUpsample
from torch import nn

from codecswap.codecs.factorized import FactorizedPrior
from codecswap.errors import UserError
from codecswap.export.backends.onnx import export_decoder, write_onnx
from codecswap.export.operators import complaints, refused
from codecswap.graph.lower import lower
from codecswap.graph.trace import trace
from codecswap.swaps.apply import swap
from codecswap.targets.target import TARGETS, load_target


@pytest.mark.parametrize("name", TARGETS)
def test_a_packaged_list_names_its_source_and_only_real_operators(name: str) -> None:
    target = load_target(name)
    assert target.source.startswith("https://")
    known = {schema.name for schema in onnx.defs.get_all_schemas() if schema.domain == ""} | {"Mish"}
    assert target.operators <= known
    assert set(target.limits) <= target.operators


def test_what_is_refused_is_named_with_what_would_replace_it(teacher: FactorizedPrior, tmp_path: Path) -> None:
    own = tmp_path / "own.toml"
    own.write_text('operators = ["Conv", "Mul", "Resize", "Sqrt"]\nmax_opset = 12\nstatic_shapes = true\n')
    path = tmp_path / "decoder.onnx"
    export_decoder(teacher, path)
    lines = complaints(path, load_target(str(own)))
    assert lines[0] == "opset 13: it reads up to 12, use --opset 12"
    assert lines[1].startswith("dynamic shapes")
    assert lines[2] == "ConvTranspose at g_s.0, g_s.2, g_s.4, g_s.6: use --replacement masked or --form masked"
    export_decoder(swap(teacher, "masked")[0], path, opset=12, height=64, width=64)
    assert complaints(path, load_target(str(own))) == []


def test_an_attribute_outside_its_limits_is_named(teacher: FactorizedPrior, tmp_path: Path) -> None:
    own = tmp_path / "own.toml"
    own.write_text('operators = ["Conv", "Mul", "DepthToSpace", "Sqrt"]\n[limits.DepthToSpace]\nmode = ["DCR"]\n')
    path = tmp_path / "decoder.onnx"
    export_decoder(swap(teacher, "subpixel")[0], path)
    assert complaints(path, load_target(str(own))) == [
        "DepthToSpace at g_s.0, g_s.2, g_s.4, g_s.6: its mode is CRD, accepted: DCR"
    ]


def test_ethos_u_has_no_square_root_in_onnx(teacher: FactorizedPrior, tmp_path: Path) -> None:
    path = tmp_path / "decoder.onnx"
    export_decoder(swap(teacher, "masked")[0], path, height=64, width=64)
    lines = complaints(path, load_target("ethos-u"))
    assert len(lines) == 1 and lines[0].startswith("Sqrt at g_s.1, g_s.3, g_s.5: use --gdn ramps")


@pytest.mark.parametrize("text", ["operators =", "name = 'x'", "operators = [1]", "operators = ['Conv']\nlimits = 3"])
def test_a_file_that_is_no_target_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(UserError, match="no target file"):
        load_target(str(path))
    with pytest.raises(UserError, match="rknn"):
        load_target("unknown")


def test_an_operator_in_a_block_is_named_with_its_layer(tmp_path: Path) -> None:
    own = tmp_path / "own.toml"
    own.write_text('operators = ["Conv", "LeakyRelu", "Mul", "DepthToSpace", "Sqrt"]\n')
    decoder = nn.Sequential(ResidualBlock(8, 8), nn.Sequential(ResidualBlockUpsample(8, 3))).eval()
    found = trace(lower(decoder), input="latents", shape=(1, 8, 4, 4), output="picture", prefix="g_s")
    lines = refused(found, load_target(str(own)))
    assert lines == ["Add at g_s.0, g_s.1.0: nothing of this project's replaces it, so it runs on the CPU"]
    write_onnx(found, tmp_path / "decoder.onnx", 13)
    assert complaints(tmp_path / "decoder.onnx", load_target(str(own))) == lines


def test_the_medians_sum_is_left_out_with_another_input(teacher: FactorizedPrior, tmp_path: Path) -> None:
    own = tmp_path / "own.toml"
    own.write_text('operators = ["Conv", "ConvTranspose", "Mul", "Sqrt"]\n')
    export_decoder(teacher, tmp_path / "decoder.onnx", input="symbols")
    assert complaints(tmp_path / "decoder.onnx", load_target(str(own))) == ["Add at the input: use --input latents"]
