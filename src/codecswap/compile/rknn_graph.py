"""What rknn-toolkit2 is given instead of our files, so that it computes what they say, and faster. Measured on version 2.5.0.

It does not take the integers of a QDQ file as they are, but makes ranges of them. Of int8 weights with scale s it makes the
range of the type, 128 s, with 127 steps: all are rounded again, to integers of scale 128 / 127 s. An activation whose zero
point is in the middle (128 of uint8) is taken for a symmetric one of the same range: what is read from it is 128 / 127 times
as large. Biases and all other activations keep their values. `own_integers` gives it other integers, of which it makes ours.

Of DepthToSpace it makes a transposed convolution of all channels with all, at a quarter of a convolution's speed: more than
half of a decoder's cycles. `group_depth_to_space` gives it one in groups.
"""

from dataclasses import replace

import numpy as np
import onnx
from onnx import ModelProto, helper, numpy_helper

from codecswap.quantized.representation import Constant, Quantization, TransformGraph

LARGEST = 126
"""Largest weight of which there is such an integer; the target's ``largest_weight``."""
GROUPS = (32, 16)
"""Numbers of output channels of a group, best first: multiples of what the NPU computes, or stores, together."""


def own_integers(transform: TransformGraph) -> TransformGraph:
    """Change the integers of a transform such that the toolkit makes the transform's own of them (see above).

    Weights are integers in +-`LARGEST`; a larger one is clipped. Where the zero point moves, the lowest level is lost.
    """
    constants, activations = dict(transform.constants), dict(transform.activations)
    for name, constant in constants.items():
        if constant.quantization and constant.values.dtype == np.int8:
            wider = np.rint(constant.values * (128 / 127)).clip(-128, 127).astype(np.int8)
            scale = constant.quantization.scale * np.float32(127 / 128)
            constants[name] = Constant(wider, replace(constant.quantization, scale=scale))
    for name, one in activations.items():
        if one.zero_point == _middle(one):
            activations[name] = replace(one, zero_point=one.zero_point - one.zero_point.dtype.type(1))
    return replace(transform, constants=constants, activations=activations)


def _middle(one: Quantization) -> int:
    limits = np.iinfo(one.zero_point.dtype)
    return (int(limits.min) + int(limits.max) + 1) // 2


def group_depth_to_space(model: ModelProto) -> None:
    """Replace every DepthToSpace of 2x2 by an equal transposed convolution in groups, in place; shapes must be fixed."""
    shapes = {
        one.name: [side.dim_value for side in one.type.tensor_type.shape.dim]
        for one in (*onnx.shape_inference.infer_shapes(model).graph.value_info, *model.graph.output)
    }
    rounded = {node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    added = []
    for node in model.graph.node:
        attributes = {item.name: helper.get_attribute_value(item) for item in node.attribute}
        if node.op_type != "DepthToSpace" or attributes["blocksize"] != 2 or attributes.get("mode") != b"CRD":
            continue
        channels = shapes[node.output[0]][1]
        size = next((one for one in GROUPS if channels % one == 0), channels)
        if size == channels:
            continue
        weight = f"{node.name}_weight"
        kernel = np.zeros((4 * channels, size, 2, 2), np.float32)
        for i in range(4 * channels):
            kernel[i, i // 4 % size, i // 2 % 2, i % 2] = 1
        stored = {weight: kernel}
        if node.input[0] in rounded:  # the integer that is read as 126, for 1
            names = [f"{weight}_quantized", f"{weight}_scale", f"{weight}_zero_point"]
            scale = np.array(127 / 128 / LARGEST, np.float32)
            values = (kernel * np.rint(LARGEST * 128 / 127)).astype(np.int8)
            stored = dict(zip(names, (values, scale, np.array(0, np.int8)), strict=True))
            added.append(helper.make_node("DequantizeLinear", names, [weight], f"{weight}/DequantizeLinear"))
        model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in stored.items())
        group = {"group": channels // size, "strides": [2, 2], "kernel_shape": [2, 2], "pads": [0, 0, 0, 0]}
        node.CopyFrom(helper.make_node("ConvTranspose", [node.input[0], weight], [node.output[0]], node.name, **group))
    for place, one in enumerate(added):
        model.graph.node.insert(place, one)
