"""Makes ExecuTorch programs for XNNPACK, and computes them; run by the Python that has ExecuTorch.

    python executorch_worker.py convert network.onnx network.pte network.txt
    python executorch_worker.py run network.pte

``convert`` takes an ONNX graph of fixed sizes. PyTorch computes it, node by node, and exports it from there. Operators that
XNNPACK does not take stay with ExecuTorch's portable kernels; their names go to the last file, one a line.

``run``: every line on standard input names a .npy file, float32 ``(1, C, h, w)``; the result is written beside it, and its
path printed. It ends with its input.
"""

import os
import sys

sys.path[:] = [path for path in sys.path if path != os.path.dirname(os.path.abspath(__file__))]  # its onnx.py is ours

import numpy as np  # noqa: E402
import onnx  # noqa: E402
import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402


def convolve(function):
    """Either convolution of PyTorch, with ONNX's attributes."""

    def compute(attributes, stored, x, kernel, bias=None):
        top, left, bottom, right = attributes["pads"]
        how = {"stride": attributes["strides"], "dilation": attributes["dilations"], "groups": attributes["group"]}
        if function is F.conv_transpose2d:
            how["output_padding"] = attributes.get("output_padding", [0, 0])
        if (top, left) != (bottom, right):
            x, top, left = F.pad(x, (left, right, top, bottom)), 0, 0
        return function(x, kernel, bias, padding=[top, left], **how)

    return compute


def resize(attributes, stored, x, *more):
    """Repeat rows and columns."""
    scales = [float(scale) for scale in stored[-1].tolist()[2:]]
    return F.interpolate(x, scale_factor=scales, mode="nearest")


def slices(attributes, stored, x, *more):
    """Cut along some axes."""
    starts, stops, axes = (values.tolist() for values in stored[:3])
    steps = stored[3].tolist() if len(stored) > 3 else [1] * len(axes)
    parts = [slice(None)] * x.dim()
    for axis, *part in zip(axes, starts, stops, steps, strict=True):
        parts[axis] = slice(*part)
    return x[tuple(parts)]


def plain(function):
    """An operator without attributes."""
    return lambda attributes, stored, *inputs: function(*inputs)


OPERATORS = {
    "Abs": plain(torch.abs),
    "Add": plain(torch.add),
    "Clip": plain(torch.clamp),
    "Concat": lambda attributes, stored, *inputs: torch.cat(inputs, attributes["axis"]),
    "Conv": convolve(F.conv2d),
    "ConvTranspose": convolve(F.conv_transpose2d),
    "DepthToSpace": lambda attributes, stored, x: F.pixel_shuffle(x, attributes["blocksize"]),
    "Div": plain(torch.div),
    "LeakyRelu": lambda attributes, stored, x: F.leaky_relu(x, attributes.get("alpha", 0.01)),
    "MatMul": plain(torch.matmul),
    "Mul": plain(torch.mul),
    "Reciprocal": plain(torch.reciprocal),
    "Relu": plain(torch.relu),
    "Reshape": lambda attributes, stored, x, shape: x.reshape(stored[0].tolist()),
    "Resize": resize,
    "Sigmoid": plain(torch.sigmoid),
    "Slice": slices,
    "Softmax": lambda attributes, stored, x: torch.softmax(x, attributes.get("axis", -1)),
    "Sqrt": plain(torch.sqrt),
    "Sub": plain(torch.sub),
    "Transpose": lambda attributes, stored, x: x.permute(attributes["perm"]),
}
"""Operators that codecs' graphs have: called with the node's attributes, its constant inputs, and all of its inputs."""


class Graph(torch.nn.Module):
    """An ONNX graph of one input and one output, as a module."""

    def __init__(self, graph):
        super().__init__()
        self.input, self.output = graph.input[0].name, graph.output[0].name
        self.places, self.constants = {}, {}
        for index, one in enumerate(graph.initializer):
            values = torch.from_numpy(np.array(onnx.numpy_helper.to_array(one)))
            self.constants[one.name] = values
            self.register_buffer(f"constant_{index}", values)
            self.places[one.name] = f"constant_{index}"
        self.nodes = []
        for node in graph.node:
            if node.op_type not in OPERATORS or node.domain:
                raise ValueError(f"{node.op_type} is not an operator of codecs ({node.name})")
            attributes = {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}
            self.nodes.append((node.op_type, attributes, list(node.input), node.output[0]))

    def forward(self, x):
        """Compute the output."""
        known = {self.input: x}
        for operator, attributes, names, output in self.nodes:
            stored = [self.constants[name] for name in names if name in self.constants]
            inputs = [known[name] if name in known else self._constant(name) for name in names]
            known[output] = OPERATORS[operator](attributes, stored, *inputs)
        return known[self.output]

    def _constant(self, name):
        return getattr(self, self.places[name]) if name else None


def convert(given, program, outside):
    """Write a program, and what XNNPACK does not take."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    model = onnx.load(given)
    shape = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim]
    exported = torch.export.export(Graph(model.graph).eval(), (torch.zeros(shape),))
    lowered = to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()])
    nodes = [node for node in lowered.exported_program().graph.nodes if node.op == "call_function"]
    names = [getattr(node.target, "__name__", str(node.target)) for node in nodes]
    with open(program, "wb") as file:
        file.write(lowered.to_executorch().buffer)
    with open(outside, "w", encoding="utf-8") as file:
        file.writelines(f"{name}\n" for name in names if name not in ("executorch_call_delegate", "getitem"))


def run(program):
    """Compute what is asked for."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(1, 2)  # it says what it finds of the processor

    from executorch.runtime import Runtime

    loaded = Runtime.get().load_program(program)
    method = loaded.load_method("forward")
    for line in sys.stdin:
        path = line.rstrip("\n")
        result = method.execute([torch.from_numpy(np.load(path))])[0]
        np.save(path + ".out.npy", result.numpy())
        answers.write(path + ".out.npy\n")
        answers.flush()


if __name__ == "__main__":
    job, *paths = sys.argv[1:]
    convert(*paths) if job == "convert" else run(*paths)
