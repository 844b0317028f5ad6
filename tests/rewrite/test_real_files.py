"""A file that nobody here made: the text detector of the package rapidocr-onnxruntime, where that is installed."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx_models import operators

from codecswap.rewrite.rewriting import rewrite

SPEC = find_spec("rapidocr_onnxruntime")


@pytest.mark.skipif(not (SPEC and SPEC.origin), reason="rapidocr-onnxruntime is not installed")
@pytest.mark.parametrize("form", ["subpixel", "phases"])
def test_the_text_detector_of_rapidocr(tmp_path: Path, form: str) -> None:
    assert SPEC and SPEC.origin
    path = Path(SPEC.origin).parent / "models" / "ch_PP-OCRv4_det_infer.onnx"
    picture = {"x": np.random.default_rng(0).uniform(-1, 1, (1, 3, 160, 224)).astype(np.float32)}
    done = rewrite(path, tmp_path / "out.onnx", form=form, inputs=picture)
    assert [node.form for node in done.nodes] == [form, form] and done.error < 1e-5
    assert "ConvTranspose" not in operators(onnx.load(tmp_path / "out.onnx"))
