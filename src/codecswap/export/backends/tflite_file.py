"""Builder of a TFLite file: tensors, constants and operators of one graph, in LiteRT's schema."""

from collections.abc import Sequence
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from codecswap.quantized.representation import Quantization

OPERATORS: dict[str, tuple[str, dict[str, int]]] = {
    "ABS": ("", {"int8": 2, "int16": 3}),
    "ADD": ("AddOptions", {"int8": 2, "int16": 3}),
    "CAST": ("CastOptions", {}),
    "CONCATENATION": ("ConcatenationOptions", {"int8": 2, "int16": 3}),
    "CONV_2D": ("Conv2DOptions", {"int8": 3, "int16": 4}),
    "DEPTHWISE_CONV_2D": ("DepthwiseConv2DOptions", {"int8": 3, "int16": 5}),
    "GATHER": ("GatherOptions", {"int16": 4}),
    "LEAKY_RELU": ("LeakyReluOptions", {"int16": 2}),
    "LOGISTIC": ("", {"int8": 2, "int16": 3}),
    "MAXIMUM": ("MaximumMinimumOptions", {"int8": 2, "int16": 4}),
    "MINIMUM": ("MaximumMinimumOptions", {"int8": 2, "int16": 4}),
    "MUL": ("MulOptions", {"int8": 2, "int16": 4}),
    "QUANTIZE": ("", {"int8": 2, "int16": 2}),
    "RELU": ("", {"int8": 2, "int16": 3}),
    "RESHAPE": ("ReshapeOptions", {}),
    "RESIZE_NEAREST_NEIGHBOR": ("ResizeNearestNeighborOptions", {"int8": 2, "int16": 4}),
    "RSQRT": ("", {"int8": 2, "int16": 3}),
    "SUB": ("SubOptions", {"int8": 2, "int16": 5}),
    "TRANSPOSE_CONV": ("TransposeConvOptions", {"float32": 3, "int8": 3, "int16": 4}),
}
"""Schema name of an operator's options, and its first version for each output type (if not 1)."""


class TfliteFile:
    """One graph. Tensors have names and shapes ``(1, H, W, C)``."""

    def __init__(self) -> None:
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.roundings: dict[str, Quantization | None] = {}
        self._index: dict[str, int] = {}
        self._tensors: list[Any] = []
        self._buffers = [schema.BufferT()]  # the first buffer is empty, for all computed tensors
        self._operators: list[Any] = []
        self._codes: list[tuple[str, int]] = []

    def tensor(self, name: str, shape: Sequence[int], rounding: Quantization | None) -> None:
        """Declare an input or an output of an operator: integers of ``rounding``, or float32."""
        self._declare(name, shape, rounding.zero_point.dtype if rounding else np.dtype(np.float32), rounding, 0)

    def integers(self, name: str, shape: Sequence[int]) -> str:
        """Declare an int32 output of an operator; returns its name."""
        self._declare(name, shape, np.dtype(np.int32), None, 0)
        return name

    def constant(self, name: str, values: np.ndarray, rounding: Quantization | None = None) -> str:
        """Store values unchanged; returns their name."""
        if name not in self._index:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(np.ascontiguousarray(values).tobytes(), np.uint8)
            self._buffers.append(buffer)
            self._declare(name, values.shape, values.dtype, rounding, len(self._buffers) - 1)
        return name

    def operator(self, operator: str, inputs: Sequence[str], output: str, **options: Any) -> None:
        """Add an operator that computes a declared tensor; ``options``: fields of its options in the schema."""
        name, versions = OPERATORS[operator]
        rounding = self.roundings[output]
        code = (operator, versions.get(rounding.zero_point.dtype.name if rounding else "float32", 1))
        if code not in self._codes:
            self._codes.append(code)
        entry = schema.OperatorT()
        entry.opcodeIndex = self._codes.index(code)
        entry.inputs, entry.outputs = [self._index[one] for one in inputs], [self._index[output]]
        if name:
            entry.builtinOptionsType = getattr(schema.BuiltinOptions, name)
            entry.builtinOptions = getattr(schema, f"{name}T")()
            vars(entry.builtinOptions).update(options)
        self._operators.append(entry)

    def content(self, input: str, output: str) -> bytes:
        """Bytes of the file, with these input and output tensors."""
        graph, model = schema.SubGraphT(), schema.ModelT()
        graph.name, graph.tensors, graph.operators = "codecswap", self._tensors, self._operators
        graph.inputs, graph.outputs = [self._index[input]], [self._index[output]]
        model.version, model.description = 3, "codecswap"
        model.subgraphs, model.buffers, model.operatorCodes = [graph], self._buffers, []
        for name, version in self._codes:
            entry = schema.OperatorCodeT()
            entry.builtinCode = entry.deprecatedBuiltinCode = getattr(schema.BuiltinOperator, name)
            entry.version = version
            model.operatorCodes.append(entry)
        builder = flatbuffers.Builder(1 << 20)
        builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
        return bytes(builder.Output())

    def _declare(
        self, name: str, shape: Sequence[int], dtype: np.dtype, rounding: Quantization | None, buffer: int
    ) -> None:
        entry = schema.TensorT()
        entry.name, entry.shape, entry.buffer = name.strip("/"), list(shape), buffer
        entry.type = getattr(schema.TensorType, dtype.name.upper())
        if rounding:
            entry.quantization = schema.QuantizationParametersT()
            entry.quantization.scale = rounding.scale.reshape(-1).astype(np.float32)
            entry.quantization.zeroPoint = rounding.zero_point.reshape(-1).astype(np.int64)
            entry.quantization.quantizedDimension = rounding.axis or 0
        self._index[name] = len(self._tensors)
        self.shapes[name], self.roundings[name] = tuple(shape), rounding
        self._tensors.append(entry)
