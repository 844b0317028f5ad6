"""QDQ format of a quantized transform: QuantizeLinear and DequantizeLinear around float operators."""

from pathlib import Path
from typing import Any

import onnx
from onnx import ModelProto, NodeProto, helper

from codecswap.export.backends.onnx import checked_model, to_node
from codecswap.files import atomic_write
from codecswap.graph import onnx_graph as graph
from codecswap.quantized.representation import Constant, Operation, Quantization, TransformGraph

CONTRIBUTED = "com.microsoft"
"""ONNX Runtime's domain, whose QuantizeLinear and DequantizeLinear support 16 bits in all opsets."""
_WIDE_SINCE = 21
"""First opset in which ONNX's own operators support 16 bits."""


def domain_of(quantization: Quantization, opset: int) -> str:
    """Domain of the operators for this quantization; empty: ONNX's own."""
    wide = quantization.zero_point.dtype.name in ("uint16", "int16")
    return CONTRIBUTED if wide and opset < _WIDE_SINCE else ""


def write_qdq(transform: TransformGraph, path: Path, opset: int) -> None:
    """Write `qdq_model` to a file."""
    model = qdq_model(transform, opset)
    with atomic_write(path) as beside:
        onnx.save(model, beside)


def qdq_model(transform: TransformGraph, opset: int) -> ModelProto:
    """Convert a quantized transform to an ONNX model of this opset, at least 13."""
    nodes, stored, read_as = [], {}, {}

    def parameters(name: str, quantization: Quantization) -> list[str]:
        stored[f"{name}_scale"], stored[f"{name}_zero_point"] = quantization.scale, quantization.zero_point
        return [f"{name}_scale", f"{name}_zero_point"]

    layers = {name: step.layer for step in transform.operations for name in step.inputs}

    def add(operator: str, inputs: list[str], output: str, **attributes: Any) -> None:
        layer = layers.get(output.removesuffix("_dequantized"))  # a constant's; an activation has it in its name
        name = f"{layer}/{operator}:{output}" if layer and inputs[0] in stored else f"{output}/{operator}"
        nodes.append(helper.make_node(operator, inputs, [output], name, **attributes))

    def add_rounding(name: str, given: str, rounded: str) -> None:
        both, domain = parameters(name, transform.activations[name]), domain_of(transform.activations[name], opset)
        add("QuantizeLinear", [given, *both], f"{name}_quantized", domain=domain)
        add("DequantizeLinear", [f"{name}_quantized", *both], rounded, domain=domain)
        read_as[name] = rounded

    for name, constant in transform.constants.items():
        if constant.quantization is None:
            stored[name] = constant.values
            continue
        stored[f"{name}_quantized"], read_as[name] = constant.values, f"{name}_dequantized"
        more: dict[str, Any] = {} if constant.quantization.axis is None else {"axis": constant.quantization.axis}
        if domain := domain_of(constant.quantization, opset):  # a mask between 16-bit activations
            more["domain"] = domain
        add("DequantizeLinear", [f"{name}_quantized", *parameters(name, constant.quantization)], read_as[name], **more)
    if transform.input in transform.activations:
        add_rounding(transform.input, transform.input, f"{transform.input}_dequantized")
    for step in transform.operations:
        output, inputs = step.output, [read_as.get(name, name) for name in step.inputs]
        rounded = f"{output}_dequantized"
        if output in transform.activations and output == transform.output:  # whose name is that of the rounded values
            output, rounded = f"{output}_float", output
        nodes.append(to_node(step, inputs, output))
        if step.output in transform.activations:
            add_rounding(step.output, output, rounded)
    version = [helper.make_opsetid("", opset)]
    if any(domain_of(rounding, opset) for rounding in transform.activations.values()):
        version.append(helper.make_opsetid(CONTRIBUTED, 1))
    return checked_model(transform, nodes, stored, version)


def read_qdq(model: ModelProto) -> TransformGraph:
    """Read a transform from a file of `write_qdq` or of ONNX Runtime's static quantizer.

    Raises:
        ValueError: an operation reads a tensor before its rounding, which `TransformGraph` cannot represent.
    """
    stored, operations = graph.weights(model), []
    constants: dict[str, Constant] = {}
    activations: dict[str, Quantization] = {}
    means: dict[str, str] = {}  # what the integers, and the values made of them, are of
    output = model.graph.output[0].name
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear":
            means[node.output[0]] = node.input[0]
            activations[node.input[0]] = _quantization(node, stored)
        elif node.op_type == "DequantizeLinear" and node.input[0] in stored:
            means[node.output[0]] = name = node.input[0].removesuffix("_quantized")
            constants[name] = Constant(stored[node.input[0]], _quantization(node, stored))
        elif node.op_type == "DequantizeLinear":
            means[node.output[0]] = means[node.input[0]]
        else:
            operations.append(node)
            for name in node.input:
                if name in stored:
                    constants[name] = Constant(stored[name])
    if early := {name for node in operations for name in node.input} & set(activations):
        raise ValueError(f"{', '.join(sorted(early))}: read before rounding")
    names = (
        {means[output]: output} if output in means else {}
    )  # its rounding is the last node, and has the output's name

    def named(name: str) -> str:
        name = means.get(name, name)
        return names.get(name, name)

    return TransformGraph(
        input=model.graph.input[0].name,
        input_shape=_shape(model.graph.input[0]),
        output=output,
        output_shape=_shape(model.graph.output[0]),
        operations=tuple(
            Operation(
                node.name,
                graph.layer_of(node),
                node.op_type,
                {item.name: _value(item) for item in node.attribute},
                tuple(map(named, node.input)),
                named(node.output[0]),
            )
            for node in operations
        ),
        constants=constants,
        activations={named(name): quantization for name, quantization in activations.items()},
    )


def _quantization(node: NodeProto, stored: dict[str, Any]) -> Quantization:
    scale, zero_point = (stored[name] for name in node.input[1:3])
    axis = next((item.i for item in node.attribute if item.name == "axis"), 1)
    return Quantization(scale, zero_point, axis if scale.ndim else None)


def _shape(value: onnx.ValueInfoProto) -> tuple[int | str, ...]:
    return tuple(dim.dim_value or dim.dim_param for dim in value.type.tensor_type.shape.dim)


def _value(item: onnx.AttributeProto) -> Any:
    value = helper.get_attribute_value(item)
    return value.decode() if isinstance(value, bytes) else value
