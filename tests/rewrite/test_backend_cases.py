"""ONNX's own cases for ConvTranspose: their expected outputs, from the rewritten nodes."""

import contextlib
import io
import warnings

import numpy as np
import pytest
from onnx import ModelProto, checker, numpy_helper
from onnx.backend.test.case.node import collect_testcases
from onnx_models import operators

from codecswap.rewrite.model import cheapest, rewrite_model
from codecswap.rewrite.runs import session

LEFT = {"test_convtranspose_3d": "3 spatial axes"}
"""Cases that are left as they are, with their reason."""
with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
    warnings.simplefilter("ignore")
    CASES = {case.name: case for case in collect_testcases("ConvTranspose")}


def test_these_are_all() -> None:
    assert len(CASES) >= 11 and set(LEFT) <= set(CASES)


@pytest.mark.parametrize("form", ["subpixel", "masked", "phases", "native"])
@pytest.mark.parametrize("name", sorted(CASES))
def test_expected_outputs(name: str, form: str) -> None:
    case = CASES[name]
    model = ModelProto()
    model.CopyFrom(case.model)
    ((x, weight, *_),), ((wanted,),) = ([data[part] for data in case.data_sets] for part in (0, 1))
    model.graph.initializer.append(numpy_helper.from_array(weight, model.graph.input[1].name))
    (outcome,) = rewrite_model(model, cheapest(form))
    if name in LEFT:
        assert outcome.form is None and LEFT[name] in outcome.reason
        return
    assert outcome.form == form
    if form != "native":
        assert "ConvTranspose" not in operators(model)
    checker.check_model(model, full_check=True)
    (found,) = session(model).run(None, {model.graph.input[0].name: x})
    np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-5)
