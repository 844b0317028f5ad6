"""Wherever a ConvTranspose stands and wherever its weight comes from: the function stays, and so does everything else."""

from typing import Any

import numpy as np
import pytest
from onnx import GraphProto, ModelProto, TensorProto, checker, helper, numpy_helper
from onnx_models import dequantize, model_of, one_node, operators, quantized, value

from codecswap.rewrite.constants import bodies
from codecswap.rewrite.model import cheapest, rewrite_model
from codecswap.rewrite.runs import difference, session

RANDOM = np.random.default_rng(3)
WEIGHT = RANDOM.standard_normal((4, 3, 5, 5)).astype(np.float32)
BIAS = RANDOM.standard_normal(3).astype(np.float32)
X = RANDOM.standard_normal((1, 4, 5, 6)).astype(np.float32)
CODEC = {"strides": [2, 2], "pads": [2, 2, 2, 2], "output_padding": [1, 1]}


def node(*inputs: str, output: str = "y", **more: Any) -> Any:
    return helper.make_node("ConvTranspose", inputs, [output], name=f"make_{output}", **(CODEC | more))


def graph_of(nodes: list[Any], tensors: dict[str, np.ndarray], outputs: tuple[str, ...] = ("y",)) -> GraphProto:
    stored = [numpy_helper.from_array(values, name) for name, values in tensors.items()]
    shown = [value(name, [None] * 4) for name in outputs]
    return helper.make_graph(nodes, "test", [value("x", [1, 4, "h", "w"])], shown, stored)


def check(model: ModelProto, form: str = "subpixel", count: int = 1, feeds: dict[str, Any] | None = None) -> ModelProto:
    """Rewrite a copy, and compare it with the original in ONNX Runtime."""
    checker.check_model(model)
    copy = ModelProto()
    copy.CopyFrom(model)
    outcomes = rewrite_model(copy, cheapest(form))
    assert [outcome.form for outcome in outcomes] == [form] * count, [outcome.reason for outcome in outcomes]
    checker.check_model(copy)
    feeds = {"x": X} if feeds is None else feeds
    names = [output.name for output in model.graph.output]
    found = difference(names, session(model).run(None, feeds), session(copy).run(None, feeds))
    assert found.error < 2e-6, found
    for root in (copy.graph, *copy.functions):
        assert not any(inner.op_type == "ConvTranspose" for body in bodies(root) for inner in body.node)
    return copy


@pytest.mark.parametrize("form", ["subpixel", "phases"])
def test_weights_and_biases_through_other_nodes(form: str) -> None:
    constant = helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(WEIGHT))
    chains = {
        "identity": ([helper.make_node("Identity", ["w"], ["i"]), node("x", "i", "b")], {"w": WEIGHT, "b": BIAS}),
        "constant": ([constant, helper.make_node("Identity", ["c"], ["i"]), node("x", "i", "b")], {"b": BIAS}),
        "cast": (
            [helper.make_node("Cast", ["w"], ["f"], to=TensorProto.FLOAT), node("x", "f")],
            {"w": WEIGHT.astype(np.float16)},
        ),
    }
    for nodes, tensors in chains.values():
        rewritten = check(model_of(graph_of(nodes, tensors)), form)
        assert not operators(rewritten) & {"Identity", "Constant"}, "the old weight is gone"
        assert not {"w", "b"} & {tensor.name for tensor in rewritten.graph.initializer}


@pytest.mark.parametrize("form", ["subpixel", "phases"])
@pytest.mark.parametrize("axis", [None, 0, 1])
@pytest.mark.parametrize("signed", [True, False])
def test_dequantized_weights_keep_their_integers(form: str, axis: int | None, signed: bool) -> None:
    levels, scale, zero = quantized(WEIGHT, axis, signed=signed)
    given = {"levels": levels, "scale": scale, "zero": zero, "b": BIAS}
    nodes = [dequantize("w", ["levels", "scale", "zero"], axis), node("x", "w", "b")]
    rewritten = check(model_of(graph_of(nodes, given)), form)
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in rewritten.graph.initializer}
    new = np.concatenate(
        [values.ravel() for values in stored.values() if values.dtype == levels.dtype and values.ndim == 4]
    )
    there, how_many = np.unique(new, return_counts=True)
    before, count = np.unique(levels, return_counts=True)
    more = dict(zip(there.tolist(), how_many.tolist(), strict=True))
    for level, number in zip(before.tolist(), count.tolist(), strict=True):
        assert more[level] >= number
        assert more[level] == number or level == zero.flat[0], "only zero points are added"
    if axis is None:
        assert {"scale", "zero"} <= set(stored), "scales of the whole tensor stay"
    else:
        assert any(one.op_type == "DequantizeLinear" and one.attribute[0].i == 1 - axis for one in rewritten.graph.node)


def test_scales_per_input_channel_with_groups_are_left_and_named() -> None:
    levels, scale, zero = quantized(WEIGHT, 0)
    nodes = [dequantize("w", ["levels", "scale", "zero"], 0), node("x", "w", group=2)]
    model = model_of(graph_of(nodes, {"levels": levels, "scale": scale, "zero": zero}))
    before = model.SerializeToString()
    (outcome,) = rewrite_model(model, cheapest())
    assert outcome.form is None and "axis 0" in outcome.reason
    assert model.SerializeToString() == before


def test_a_shared_weight_stays_shared() -> None:
    nodes = [
        node("x", "w", "b", output="y"),
        node("x", "w", "b", output="z"),
        node("x", "w", output="v", strides=[1, 1], output_padding=[0, 0]),
    ]
    model = model_of(graph_of(nodes, {"w": WEIGHT, "b": BIAS}, ("y", "z", "v")))
    rewritten = check(model, count=3)
    assert sorted(tensor.dims[0] for tensor in rewritten.graph.initializer if len(tensor.dims) == 4) == [3, 12]


def test_a_weight_that_others_use_stays() -> None:
    nodes = [node("x", "w"), helper.make_node("ReduceSum", ["w"], ["total"], keepdims=1)]
    rewritten = check(model_of(graph_of(nodes, {"w": WEIGHT}, ("y", "total"))))
    assert "w" in {tensor.name for tensor in rewritten.graph.initializer}


def test_old_models_list_their_weights_as_inputs() -> None:
    model = one_node(WEIGHT, [5, 6], bias=BIAS, opset=8, **CODEC)
    model.ir_version = 3
    model.graph.input.extend([value("w", list(WEIGHT.shape)), value("b", [3])])
    rewritten = check(model, "phases")
    names = {tensor.name for tensor in rewritten.graph.initializer}
    assert {one.name for one in rewritten.graph.input} == {"x"} | names


@pytest.mark.parametrize("inner_weight", [True, False])
def test_in_branches_and_loops(inner_weight: bool) -> None:
    stored = [numpy_helper.from_array(WEIGHT, "w")]
    branches = [
        helper.make_graph(
            [node("x", "w", output=name, **({"dilations": [1, 1]} if name == "a" else {}))],
            name,
            [],
            [value(name, [None] * 4)],
            stored if inner_weight and name == "a" else [],
        )
        for name in ("a", "b")
    ]
    if inner_weight:  # a graph's names are its own in both branches, so only one of them may have a "w"
        branches[1].node[0].input[1] = "other"
    outer = {"other": WEIGHT * 2} if inner_weight else {"w": WEIGHT}
    choose = helper.make_node("If", ["yes"], ["y"], then_branch=branches[0], else_branch=branches[1])
    graph = graph_of([choose], outer)
    graph.input.append(value("yes", [], TensorProto.BOOL))
    for yes in (True, False):
        check(model_of(graph), count=2, feeds={"x": X, "yes": np.array(yes)})

    body = helper.make_graph(
        [
            node("x", "w", output="u"),
            helper.make_node("ReduceMean", ["u"], ["m"], keepdims=1),
            helper.make_node("Add", ["s", "m"], ["t"]),
            helper.make_node("Identity", ["go"], ["on"]),
        ],
        "body",
        [value("i", [], TensorProto.INT64), value("go", [], TensorProto.BOOL), value("s", [1, 1, 1, 1])],
        [value("on", [], TensorProto.BOOL), value("t", [1, 1, 1, 1])],
    )
    loop = helper.make_node("Loop", ["times", "", "zero"], ["y"], body=body)
    tensors = {"w": WEIGHT, "times": np.array(3), "zero": np.zeros((1, 1, 1, 1), np.float32)}
    check(model_of(graph_of([loop], tensors)))


def test_in_a_function() -> None:
    inside = [
        helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(WEIGHT)),
        node("u", "w", output="v"),
    ]
    imports = [helper.make_opsetid("", 13)]
    function = helper.make_function("local", "Up", ["u"], ["v"], inside, imports)
    graph = graph_of([helper.make_node("Up", ["x"], ["y"], domain="local")], {})
    model = helper.make_model(
        graph, opset_imports=[*imports, helper.make_opsetid("local", 1)], functions=[function], ir_version=8
    )
    for form in ("subpixel", "phases"):
        check(model, form)
    outside = helper.make_function("local", "Up", ["u", "w"], ["v"], inside[1:], imports)
    del model.functions[:]
    model.functions.append(outside)
    (outcome,) = rewrite_model(model, cheapest())
    assert outcome.reason == "its weight is an input"


def test_everything_else_stays() -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["r"], name="first"),
        node("r", "w", "b", output="u", doc_string="what it is for"),
        helper.make_node("Tanh", ["u"], ["y"], name="last"),
    ]
    model = model_of(graph_of(nodes, {"w": WEIGHT, "b": BIAS}), doc_string="model", producer_name="someone")
    helper.set_model_props(model, {"author": "them"})
    model.graph.value_info.append(value("u", [1, 3, None, None]))
    rewritten = check(model)
    kinds = [one.op_type for one in rewritten.graph.node]
    assert kinds == ["Relu", "Conv", "DepthToSpace", "Tanh"]
    assert rewritten.graph.node[0] == model.graph.node[0] and rewritten.graph.node[-1] == model.graph.node[-1]
    assert rewritten.graph.node[1].doc_string == "what it is for"
    for name in ("input", "output", "value_info", "name", "doc_string"):
        assert getattr(rewritten.graph, name) == getattr(model.graph, name)
    for name in ("opset_import", "metadata_props", "producer_name", "doc_string", "ir_version"):
        assert getattr(rewritten, name) == getattr(model, name)


def test_native_says_the_same_with_pads_alone() -> None:
    model = one_node(WEIGHT, [5, 6], **CODEC)
    wanted = session(model).run(None, {"x": X})
    rewrite_model(model, cheapest("native"))
    attributes = {one.name: helper.get_attribute_value(one) for one in model.graph.node[0].attribute}
    assert attributes["pads"] == [2, 2, 1, 1] and "output_padding" not in attributes
    assert difference(["y"], wanted, session(model).run(None, {"x": X})).error < 1e-6
    again = model.SerializeToString()
    (outcome,) = rewrite_model(model, cheapest("native"))
    assert model.SerializeToString() == again and not outcome.last, "there is nothing left to mend"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"weight": np.zeros((2, 2, 3, 3, 3), np.float32)}, "3 spatial axes"),
        ({"kernel_shape": [3, 3]}, "kernel_shape"),
        ({"strides": [2, 0]}, "out of range"),
        ({"strides": [2]}, "strides are [2], not 2 numbers"),
        ({"auto_pad": "SAME_UPPER", "strides": [6, 6]}, "larger than stride and kernel make it"),
        ({"auto_pad": "SAME"}, "auto_pad is SAME"),
        ({"strides": [100_000, 100_000]}, "stride 100,000"),
        ({"strides": [4000, 4000]}, "numbers"),
        ({"dilations": [(1 << 30) + 1, (1 << 30) + 1], "strides": [2, 2]}, "places"),
        ({"pads": [-1, 0, 0, 0]}, "negative"),
        ({"output_shape": [10, 10]}, "no fixed size"),
        ({"group": 3}, "out of range"),
    ],
)
def test_what_cannot_be_rewritten_is_left_and_named(change: dict[str, Any], reason: str) -> None:
    weight = change.pop("weight", WEIGHT)
    model = one_node(weight, ["h"] * (weight.ndim - 2), **change)
    before = model.SerializeToString()
    (outcome,) = rewrite_model(model, cheapest("phases" if "strides" not in change else "subpixel"))
    assert outcome.form is None and reason in outcome.reason
    assert model.SerializeToString() == before


def test_computed_weights_and_biases_are_named() -> None:
    computed = helper.make_node("Mul", ["w", "w"], ["v"])
    model = model_of(graph_of([computed, node("x", "v")], {"w": WEIGHT}))
    assert rewrite_model(model, cheapest())[0].reason == "its weight is computed by Mul"
    circle = [helper.make_node("Identity", ["p"], ["q"]), helper.make_node("Identity", ["q"], ["p"]), node("x", "p")]
    assert rewrite_model(model_of(graph_of(circle, {})), cheapest())[0].form is None


def test_operators_and_limits_choose_the_form() -> None:
    model = one_node(WEIGHT, [5, 6], bias=BIAS, **CODEC)
    cases = {
        "subpixel": (("Conv", "DepthToSpace"), None),
        "masked": (("Conv", "Resize", "Mul"), None),
        "phases": (("Conv", "Resize", "Mul", "Reshape", "Concat"), None),
        "native": (("Conv", "ConvTranspose"), None),
    }
    for form, (allowed, limits) in cases.items():
        copy = ModelProto()
        copy.CopyFrom(model)
        (outcome,) = rewrite_model(copy, cheapest(operators=frozenset(allowed), limits=limits))
        assert outcome.form == form
        assert operators(copy) <= set(allowed)
    limited = cheapest(
        "subpixel", frozenset({"Conv", "DepthToSpace", "ConvTranspose"}), {"DepthToSpace": {"mode": ["DCR"]}}
    )
    wanted = session(model).run(None, {"x": X})
    rewrite_model(model, limited)
    modes = [one.s for inner in model.graph.node for one in inner.attribute if one.name == "mode"]
    assert modes == [b"DCR"]
    assert difference(["y"], wanted, session(model).run(None, {"x": X})).error < 1e-6
