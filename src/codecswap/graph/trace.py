"""Convert a lowered module tree to a `TransformGraph`: each leaf (`codecswap.graph.leaves`) becomes an ONNX operator."""

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codecswap.errors import UserError
from codecswap.graph.leaves import INPUT, Leaf, Leaves, Read, leaves
from codecswap.layers.upsampling import ConstantMask
from codecswap.quantized.representation import Constant, Operation, TransformGraph

SIDES = {"picture": ("height", "width"), "hyper_latents": ("hyper_rows", "hyper_columns")}
"""Names of dynamic heights and widths; latents, and decoder inputs made of them, have rows and columns."""
_TRIED = 64
"""Height and width used in place of dynamic ones for shape inference."""


def open_shape(name: str, channels: int, size: tuple[int, int] | None) -> tuple[int | str, ...]:
    """Shape ``(1, C, h, w)`` for a fixed size, or a shape with dynamic batch, height and width."""
    return (1, channels, *size) if size else ("batch", channels, *SIDES.get(name, ("rows", "columns")))


def trace(tree: nn.Module, *, input: str, shape: tuple[int | str, ...], output: str, prefix: str) -> TransformGraph:
    """Convert a transform to a float `TransformGraph`.

    Args:
        tree: what `codecswap.graph.lower.lower` returns, or another module of one input and one output.
        input, output: names of the graph's input and output.
        shape: input shape, ``(B, C, H, W)``; a name stands for a dynamic dimension (`open_shape`).
        prefix: name of the transform in the codec, ``g_s``. Constants have the names of the tree's parameters after it, and
            operations are called ``g_s.1.conv1/Conv``: the codec's layer, then the operator in it.

    Raises:
        UserError: a layer has no operator here, or needs a fixed size.
    """
    return _Trace(tree, input, shape, output, prefix).graph()


@dataclass(frozen=True)
class _Context:
    """Facts about the whole graph that a leaf's conversion may depend on."""

    shapes: Mapping[str, tuple[int, ...]]
    leaves: Mapping[str, Leaf]
    fixed: bool
    """Height and width are fixed."""


_OnnxCall = tuple[str, list[Any], dict[str, Any]]
"""An operator, its inputs (`Read`, numbers, arrays, tensors of the tree, None: left out), and its attributes."""
_Writer = Callable[[Leaf, _Context], _OnnxCall]


def _simple(name: str, count: int = 1) -> _Writer:
    """Convert to an operator with ``count`` inputs and no attributes."""

    def write(leaf: Leaf, context: _Context) -> _OnnxCall:
        given = _arguments(leaf)
        if len(given) != count:
            raise ValueError(f"it has {len(given)} arguments, not {count}")
        return name, given, {}

    return write


def _arguments(leaf: Leaf) -> list[Any]:
    return [*leaf.arguments, *leaf.options.values()]


def _conv(leaf: Leaf, context: _Context) -> _OnnxCall:
    conv: Any = leaf.module
    transposed = isinstance(conv, nn.ConvTranspose2d)
    if conv.padding_mode != "zeros":
        raise ValueError(f"its padding is {conv.padding_mode}, not zeros")
    if conv.padding == "same":
        total = [d * (k - 1) for d, k in zip(conv.dilation, conv.kernel_size, strict=True)]
        pads = [*(side // 2 for side in total), *(side - side // 2 for side in total)]
    else:
        pads = [0] * 4 if conv.padding == "valid" else [*conv.padding, *conv.padding]
    attributes = {
        "dilations": list(conv.dilation),
        "group": conv.groups,
        "kernel_shape": list(conv.kernel_size),
        "pads": pads,
        "strides": list(conv.stride),
    }
    if transposed and any(conv.output_padding):
        attributes["output_padding"] = list(conv.output_padding)
    bias = [] if conv.bias is None else [conv.bias]
    return "ConvTranspose" if transposed else "Conv", [leaf.arguments[0], conv.weight, *bias], attributes


def _mask(leaf: Leaf, context: _Context) -> _OnnxCall:
    if not context.fixed:
        raise UserError(
            "The layer {place} multiplies by a constant mask of one size: fix it with --height and --width, "
            "or take --form subpixel, which goes with every size."
        )
    mask: Any = leaf.module
    return "Mul", [leaf.arguments[0], mask(torch.ones(1, 1, *context.shapes[leaf.inputs[0]][2:]))], {}


def _resize(x: Any, factor: Any, mode: str) -> _OnnxCall:
    factors = factor if isinstance(factor, tuple) else (factor, factor)
    if mode != "nearest" or any(one is None or one != int(one) for one in factors):
        raise ValueError(f"it is no nearest upsampling by a whole factor (mode {mode}, scale_factor {factor})")
    scales = np.array([1, 1, *factors], np.float32)
    how = {"coordinate_transformation_mode": "asymmetric", "mode": "nearest", "nearest_mode": "floor"}
    return "Resize", [x, None, scales], how


def _interpolate(leaf: Leaf, context: _Context) -> _OnnxCall:
    return _resize(leaf.arguments[0], leaf.options.get("scale_factor"), leaf.options.get("mode", "nearest"))


def _upsample(leaf: Leaf, context: _Context) -> _OnnxCall:
    layer: Any = leaf.module
    return _resize(leaf.arguments[0], layer.scale_factor, layer.mode)


def _shuffle(leaf: Leaf, context: _Context) -> _OnnxCall:
    layer: Any = leaf.module
    factor = layer.upscale_factor if layer else _arguments(leaf)[1]
    return "DepthToSpace", [leaf.arguments[0]], {"blocksize": factor, "mode": "CRD"}


def _leaky(leaf: Leaf, context: _Context) -> _OnnxCall:
    layer: Any = leaf.module
    slope = layer.negative_slope if layer else next(iter(_arguments(leaf)[1:2]), 0.01)
    return "LeakyRelu", [leaf.arguments[0]], {"alpha": float(slope)}


def _clip(leaf: Leaf, context: _Context) -> _OnnxCall:
    layer: Any = leaf.module
    if layer:
        ends = [layer.min_val, layer.max_val]
    else:
        ends = [*leaf.arguments[1:], None, None]
        ends = [leaf.options.get("min", ends[0]), leaf.options.get("max", ends[1])]
    return "Clip", [leaf.arguments[0], *ends], {}


def _softmax(leaf: Leaf, context: _Context) -> _OnnxCall:
    layer: Any = leaf.module
    axis = layer.dim if layer else _arguments(leaf)[1]
    return "Softmax", [leaf.arguments[0]], {"axis": axis}


def _concat(leaf: Leaf, context: _Context) -> _OnnxCall:
    axis = leaf.arguments[1] if len(leaf.arguments) > 1 else leaf.options.get("dim", 0)
    return "Concat", list(leaf.arguments[0]), {"axis": axis}


def _permute(leaf: Leaf, context: _Context) -> _OnnxCall:
    order = leaf.arguments[1:]
    return "Transpose", [leaf.arguments[0]], {"perm": list(order[0] if isinstance(order[0], tuple | list) else order)}


def _transpose(leaf: Leaf, context: _Context) -> _OnnxCall:
    x, first, second = _arguments(leaf)
    order = list(range(len(context.shapes[x.leaf])))
    order[first], order[second] = order[second], order[first]
    return "Transpose", [x], {"perm": order}


def _reshape(leaf: Leaf, context: _Context) -> _OnnxCall:
    if not context.fixed:
        raise ValueError("a reshaping is of one size: fix it with --height and --width")
    return "Reshape", [leaf.arguments[0], np.array(context.shapes[leaf.name], np.int64)], {}


def _item(leaf: Leaf, context: _Context) -> _OnnxCall:
    """Indexing: a slice of one axis, or one of the chunks of a split tensor."""
    x, index = leaf.arguments
    source = context.leaves.get(x.leaf)
    if source and source.function in _CHUNKS:
        x, count, axis = [*_arguments(source), 0][:3]
        length = context.shapes[x.leaf][axis]
        # torch.chunk counts parts, torch.split their length
        step = -(-length // count) if _CHUNKS[source.function] else count
        ranges = {axis: (index * step, min((index + 1) * step, length))}
    else:
        shape, ranges = context.shapes[x.leaf], {}
        for axis, part in enumerate(index if isinstance(index, tuple) else (index,)):
            if not isinstance(part, slice) or part.step not in (None, 1):
                raise ValueError("it takes single places of a tensor, or every other")
            start, stop, _ = part.indices(shape[axis])
            if (part.start, part.stop) != (None, None):  # counted from the end, so that it holds for any size
                ranges[axis] = (start, part.stop if part.stop is not None and part.stop < 0 else stop)
    starts, stops = zip(*ranges.values(), strict=True)
    return "Slice", [x, *(np.array(one, np.int64) for one in (starts, stops, tuple(ranges)))], {}


_CHUNKS: dict[Any, bool] = {torch.chunk: True, "chunk": True, torch.split: False, "split": False}
"""Functions that split a tensor, each part of which becomes a Slice; True: the argument is the number of parts."""
MODULES: dict[type[nn.Module], _Writer] = {
    nn.Conv2d: _conv,
    nn.ConvTranspose2d: _conv,
    nn.PixelShuffle: _shuffle,
    nn.Upsample: _upsample,
    ConstantMask: _mask,
    nn.ReLU: _simple("Relu"),
    nn.LeakyReLU: _leaky,
    nn.Sigmoid: _simple("Sigmoid"),
    nn.Hardtanh: _clip,
    nn.Softmax: _softmax,
}
"""Converters of PyTorch's layers; a subclass with the same ``forward`` uses its base class's."""
FUNCTIONS: dict[Callable[..., Any] | str, _Writer] = {
    **dict.fromkeys((operator.add, torch.add, "add"), _simple("Add", 2)),
    **dict.fromkeys((operator.sub, torch.sub, "sub"), _simple("Sub", 2)),
    **dict.fromkeys((operator.mul, torch.mul, "mul"), _simple("Mul", 2)),
    **dict.fromkeys((operator.truediv, torch.div, "div"), _simple("Div", 2)),
    **dict.fromkeys((operator.matmul, torch.matmul, "matmul"), _simple("MatMul", 2)),
    **dict.fromkeys((torch.abs, "abs"), _simple("Abs")),
    **dict.fromkeys((torch.sqrt, "sqrt"), _simple("Sqrt")),
    **dict.fromkeys((torch.reciprocal, "reciprocal"), _simple("Reciprocal")),
    **dict.fromkeys((torch.relu, F.relu, "relu"), _simple("Relu")),
    **dict.fromkeys((torch.sigmoid, F.sigmoid, "sigmoid"), _simple("Sigmoid")),
    **dict.fromkeys((torch.clamp, torch.clip, "clamp", "clip"), _clip),
    **dict.fromkeys((torch.softmax, F.softmax, "softmax"), _softmax),
    **dict.fromkeys((torch.cat, torch.concat), _concat),
    **dict.fromkeys((torch.permute, "permute"), _permute),
    **dict.fromkeys((torch.transpose, "transpose"), _transpose),
    **dict.fromkeys((torch.reshape, torch.flatten, "reshape", "view", "flatten"), _reshape),
    F.leaky_relu: _leaky,
    F.pixel_shuffle: _shuffle,
    F.interpolate: _interpolate,
    operator.getitem: _item,
}
"""Converters of functions and, by name, of tensor methods."""


class _Trace:
    """State of one conversion."""

    def __init__(self, tree: nn.Module, input: str, shape: tuple[int | str, ...], output: str, prefix: str) -> None:
        self.input, self.shape, self.output, self.prefix = input, shape, output, prefix
        self.tree: Leaves = leaves(tree, prefix)
        tensors = [*tree.named_parameters(remove_duplicate=False), *tree.named_buffers(remove_duplicate=False)]
        self.known = {id(value): self._full(name) for name, value in reversed(tensors)}
        self.constants: dict[str, Constant] = {}
        self.contents: dict[tuple[Any, ...], str] = {}
        self.names = {INPUT: input}
        self.counted: dict[str, int] = {}

    def graph(self) -> TransformGraph:
        steps = self._needed()
        writers = {leaf.name: self._writer(leaf) for leaf in steps}
        sizes = [side if isinstance(side, int) else 1 if axis == 0 else _TRIED for axis, side in enumerate(self.shape)]
        shapes, fixed = self.tree.shapes(sizes), all(isinstance(side, int) for side in self.shape)
        context = _Context(shapes, {leaf.name: leaf for leaf in steps}, fixed)
        operations = [self._operation(leaf, writer, context) for leaf in steps if (writer := writers[leaf.name])]
        channels, *size = shapes[self.tree.output][1:]
        return TransformGraph(
            input=self.input,
            input_shape=self.shape,
            output=self.output,
            output_shape=open_shape(self.output, channels, (size[0], size[1]) if fixed else None),
            operations=tuple(operations),
            constants=self.constants,
            activations={},
        )

    def _needed(self) -> list[Leaf]:
        """The leaves that the output depends on."""
        needed = {self.tree.output}
        for leaf in reversed(self.tree.steps):
            if leaf.name in needed:
                needed.update(leaf.inputs)
        return [leaf for leaf in self.tree.steps if leaf.name in needed]

    def _writer(self, leaf: Leaf) -> _Writer | None:
        """The converter of a leaf; None if its readers convert it, too."""
        if leaf.module is None and leaf.function in _CHUNKS:
            return None
        table: Mapping[Any, _Writer] = FUNCTIONS
        kinds: tuple[Any, ...] = (leaf.function,)
        if leaf.module is not None:
            table, kinds = MODULES, type(leaf.module).__mro__
        if found := next((table[kind] for kind in kinds if kind in table), None):
            return found
        layers = ", ".join(sorted(kind.__name__ for kind in MODULES.keys() - {ConstantMask}))
        raise UserError(
            f"{_kind(leaf)} at the layer {self._full(leaf.path)} has no operator in the files written here: build that layer "
            f"from {layers} and arithmetic."
        )

    def _operation(self, leaf: Leaf, writer: _Writer, context: _Context) -> Operation:
        layer = self._full(leaf.layer)
        try:
            kind, inputs, attributes = writer(leaf, context)
        except UserError as error:
            raise UserError(str(error).format(place=layer)) from None
        except ValueError as error:
            raise UserError(f"{_kind(leaf)} at the layer {layer} cannot be written: {error}.") from None
        inside = leaf.path[len(leaf.layer) :].strip(".").replace(".", "/")
        name = "/".join(filter(None, (layer, inside, kind)))
        self.counted[name] = self.counted.get(name, -1) + 1
        name = f"{name}_{self.counted[name]}" if self.counted[name] else name
        given = tuple(self._read(one, f"{self._full(leaf.path)}.mask") for one in inputs)
        self.names[leaf.name] = self.output if leaf.name == self.tree.output else name
        return Operation(name, layer, kind, attributes, given, self.names[leaf.name])

    def _read(self, one: Any, name: str) -> str:
        """The name of an operator's input; constants are stored, each once."""
        if one is None:
            return ""
        if isinstance(one, Read):
            return self.names[one.leaf]
        if isinstance(one, Tensor):
            name = self.known.get(id(one), name)
            values = one.detach().cpu().numpy()
        else:
            values = np.asarray(one, None if isinstance(one, np.ndarray) else np.float32)
            content = (values.dtype.name, values.shape, values.tobytes())
            name = self.contents.setdefault(content, f"constant.{len(self.contents)}")
        self.constants.setdefault(name, Constant(values))
        return name

    def _full(self, path: str) -> str:
        return ".".join(filter(None, (self.prefix, path)))


def _kind(leaf: Leaf) -> str:
    if leaf.module is not None:
        return type(leaf.module).__name__
    return leaf.function if isinstance(leaf.function, str) else leaf.function.__name__
