"""Quantize a float graph: estimate ranges of activations on real pictures, and choose scales of weights and biases."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor

from codecswap.quantize.clipping import Range, clipped_ranges
from codecswap.quantize.float_and_rounded import is_inside
from codecswap.quantized.compute import compute
from codecswap.quantized.precision import WIDE, Precision
from codecswap.quantized.representation import Constant, Operation, Quantization, TransformGraph

CONVOLUTIONS = {"Conv": 0, "ConvTranspose": 1}
"""Operators with int8 weights, and the axis of the weight that has one scale per output channel."""
MOVING = {"DepthToSpace", "Reshape", "Resize", "Slice", "Transpose"}
"""Operators that only move values: their output has the quantization of their input."""
UNIT = {"Sigmoid", "Softmax"}
"""Operators with results in [0, 1]."""
UNIT_SCALES = {"uint8": 1 / 256, "int8": 1 / 256, "uint16": 1 / 65536, "int16": 1 / 32768}
"""Scales of their outputs that TFLite requires."""
COMPUTED = {"Add", "Sub", "Mul", "Div", "MatMul"}
"""Operators whose constants are quantized like activations."""
LARGEST_BIAS = 1 << 30
"""Largest int32 bias: half of the range is left for the sum of products (9 * 320 products of 8 bits need a tenth)."""
HEADROOM = 2
"""16-bit ranges get this headroom: losing the lowest bit costs nothing, clipping does."""
SMALLEST_SCALE = 1e-20
"""Scale of weights that are all zero."""
LEAST_DIVISOR = 2
"""Smallest value, in quantization steps, that a tensor may have which is divided by, or whose root is."""


def quantize_graph(
    graph: TransformGraph,
    feeds: Sequence[np.ndarray],
    precision: Precision,
    *,
    known: Mapping[str, Quantization] = MappingProxyType({}),
    gdns: Collection[str] = (),
    keep: Collection[str] = (),
    wide: Collection[str] = (),
    clip: bool = False,
    weight: Tensor | None = None,
    signals: Mapping[str, tuple[Range, Range]] = MappingProxyType({}),
) -> TransformGraph:
    """Quantize a float graph: int8 weights per channel, activations per tensor, int32 biases.

    Inputs and outputs of operators that only move or clip values share a scale; a Relu that then changes nothing is removed.

    Args:
        graph: graph of a lowered transform (`codecswap.graph.trace`).
        feeds: inputs to estimate ranges on, ``(B, C, H, W)`` each.
        precision: types of the activations and bits of the weights; int16 is symmetric around 0.
        known: fixed quantization of tensors and weights, by name; one of the tensors that share a scale is enough.
        gdns: GDN layers, e.g. ``g_s.1``: tensors that only they read have the precision's type for the inside of GDNs.
        keep: layers (or modules) left in float. Inputs and outputs of other layers are rounded.
        wide: layers (or modules) whose outputs have 16 bits.
        clip: clip rare large values of 8-bit norms and roots of GDNs where that lowers the error of the output
            (`clipped_ranges`).
        weight: weights of its squared errors; None: 1.
        signals: ranges of the 8-bit tensors before and after inverse GDNs, and of their roots, by layer.
    """
    graph = _with_own_weights(graph)
    found, inner = estimate_ranges(graph, feeds), inner_tensors(graph, gdns)
    steps = [step for step in graph.operations if not is_inside(step.layer, keep)]
    touched = {name for step in steps for name in (*step.inputs, step.output)} & found.keys()
    widened = {step.output for step in graph.operations if is_inside(step.layer, wide)}
    activations: dict[str, Quantization] = {}
    kinds: dict[_Group, str] = {}
    for group in _groups(graph):
        chosen = next((known[name] for name in group.tensors if name in known), None)
        if chosen is None:
            kind = precision.inside if inner.issuperset(group.tensors) else precision.between
            kinds[group] = WIDE.get(kind, kind) if widened & group.tensors else kind
        else:
            activations |= dict.fromkeys(group.tensors & touched, chosen)
    fixed = _around(graph, signals)
    if clip:
        narrow = [group for group, kind in kinds.items() if kind in WIDE and not group.unit]
        squares = {step.output for step in graph.operations if step.operator == "Mul"}
        names = (
            touched & inner - squares - fixed.keys() & {name for group in narrow for name in group.tensors - group.cut}
        )
        found |= clipped_ranges(graph, feeds, {name: found[name] for name in names}, weight)
    for group, kind in kinds.items():
        if kind in WIDE and (known_range := next((fixed[name] for name in group.tensors if name in fixed), None)):
            found |= dict.fromkeys(group.tensors, known_range)
        chosen = group.rounding(found, kind)
        activations |= dict.fromkeys(group.tensors & touched, chosen)
    constants = dict(graph.constants)
    for step in steps:
        if step.operator in CONVOLUTIONS:
            constants |= _weights(graph, step, activations, precision, known)
        elif step.operator in COMPUTED:
            for name in constants.keys() & set(step.inputs):
                values = graph.constants[name].values
                rounding = quantization_of_range(float(values.min()), float(values.max()), precision.between)
                constants[name] = Constant(rounding.quantize(values), rounding)
    return _folded(replace(graph, constants=constants, activations=activations))


def _around(graph: TransformGraph, signals: Mapping[str, tuple[Range, Range]]) -> dict[str, Range]:
    """Ranges of the factors and of the product of inverse GDNs."""
    roots = {step.output for step in graph.operations if step.operator == "Sqrt"}
    found: dict[str, Range] = {}
    for step in graph.operations:
        if step.layer in signals and step.operator == "Mul" and roots & set(step.inputs):
            around, root = signals[step.layer]
            found |= {name: root if name in roots else around for name in (*step.inputs, step.output)}
        elif step.layer in signals and step.operator == "Mul":
            found[step.output] = (0.0, max(limit**2 for limit in signals[step.layer][0]))
    return found


@torch.no_grad()
def estimate_ranges(graph: TransformGraph, feeds: Iterable[np.ndarray]) -> dict[str, Range]:
    """Estimate the range (smallest and largest value, including 0) of each computed tensor, in float."""
    found: dict[str, Range] = {}

    def look(name: str, values: Tensor) -> Tensor:
        low, high = found.get(name, (0.0, 0.0))
        found[name] = min(low, values.min().item()), max(high, values.max().item())
        return values

    for feed in feeds:
        compute(graph, torch.from_numpy(feed), each=look)
    return found


@torch.no_grad()
def coarse_divisors(graph: TransformGraph, feeds: Iterable[np.ndarray], kind: str) -> list[str]:
    """Layers that divide by a tensor which would be rounded to 0, or nearly: the norm of a GDN with a wide range.

    Args:
        graph, feeds: as in `quantize_graph`.
        kind: type of the tensors inside GDNs.
    """
    made = {step.output: step for step in graph.operations}
    divisors: dict[str, str] = {}
    for step in graph.operations:
        name = {"Div": step.inputs[-1], "Reciprocal": step.inputs[0]}.get(step.operator)
        while name in made:
            divisors[name] = step.layer
            name = made[name].inputs[0] if made[name].operator == "Sqrt" else None
    least, most = dict.fromkeys(divisors, np.inf), dict.fromkeys(divisors, 0.0)

    def look(name: str, values: Tensor) -> Tensor:
        if name in divisors:
            size = values.abs()
            least[name], most[name] = min(least[name], size.min().item()), max(most[name], size.max().item())
        return values

    for feed in feeds if divisors else ():
        compute(graph, torch.from_numpy(feed), each=look)
    steps = np.iinfo(kind).max - np.iinfo(kind).min
    coarse = [name for name in divisors if least[name] < LEAST_DIVISOR * most[name] / steps]
    return list(dict.fromkeys(divisors[name] for name in coarse))


def inner_tensors(graph: TransformGraph, layers: Collection[str]) -> set[str]:
    """Tensors computed in one of ``layers``, e.g. ``g_s.1``, and read only there."""
    read_outside = {graph.output}
    made: dict[str, str] = {}
    for step in graph.operations:
        read_outside.update(name for name in step.inputs if made.get(name, step.layer) != step.layer)
        made[step.output] = step.layer
    return {name for name, layer in made.items() if layer in layers and name not in read_outside}


def quantization_of_range(low: float, high: float, kind: str) -> Quantization:
    """The finest quantization of dtype ``kind`` whose range includes ``low``, ``high`` and 0."""
    low, high, limits = min(low, 0.0), max(high, 0.0), np.iinfo(kind)
    if kind == "int16":  # symmetric around 0
        return Quantization(np.array(max(-low, high) / limits.max or 1, np.float32), np.array(0, kind))
    scale = (high - low) / (limits.max - limits.min) or 1.0
    return Quantization(np.array(scale, np.float32), np.array(np.rint(limits.min - low / scale), kind))


@dataclass(frozen=True)
class _Group:
    """Tensors that share a scale."""

    tensors: frozenset[str]
    cut: frozenset[str]
    """Tensors that only a Relu reads: their ranges do not count."""
    unit: bool
    """Values are in [0, 1]."""

    def rounding(self, found: Mapping[str, Range], kind: str) -> Quantization:
        """Quantization for the estimated ranges."""
        if self.unit:
            return Quantization.fixed(UNIT_SCALES[kind], -32768 if kind == "int16" else 0, kind)
        room = HEADROOM if np.iinfo(kind).bits == 16 else 1
        low, high = zip(*(found[name] for name in self.tensors - self.cut), strict=True)
        return quantization_of_range(room * min(low), room * max(high), kind)


def _groups(graph: TransformGraph) -> list[_Group]:
    """All computed tensors, in groups that share a scale."""
    readers = Counter(name for step in graph.operations for name in set(step.inputs))
    readers[graph.output] += 1
    cut: set[str] = set()
    for step in reversed(graph.operations):
        moves = step.operator in MOVING and step.output in cut
        if readers[step.inputs[0]] == 1 and (moves or step.operator == "Relu"):
            cut.add(step.inputs[0])
    group_of = {name: {name} for name in (graph.input, *(step.output for step in graph.operations))}
    made = {step.output: step.operator for step in graph.operations if step.operator not in MOVING}
    for step in graph.operations:
        joined = [name for name in step.inputs if name in group_of] if step.operator == "Concat" else []
        if step.operator in MOVING or step.inputs[0] in cut or is_mask(graph, step):
            joined = [next(name for name in step.inputs if name in group_of)]
        for name in joined:
            group = group_of[name] | group_of[step.output]
            group_of |= dict.fromkeys(group, group)
    groups = {id(group): group for group in group_of.values()}.values()
    return [
        _Group(
            frozenset(group),
            frozenset(group & cut),
            graph.input not in group and {made[name] for name in group if name in made} <= UNIT,
        )
        for group in groups
    ]


def is_mask(graph: TransformGraph, step: Operation) -> bool:
    """Whether an operation multiplies by a constant of zeros and ones."""
    constants = [graph.constants[name].values for name in step.inputs if name in graph.constants]
    return step.operator == "Mul" and len(constants) == 1 and bool(np.isin(constants[0], (0, 1)).all())


def _weights(
    graph: TransformGraph,
    step: Operation,
    activations: Mapping[str, Quantization],
    precision: Precision,
    known: Mapping[str, Quantization],
) -> dict[str, Constant]:
    """Quantize the weights and the bias of a convolution.

    The scale of a bias is its input's scale times its weights' scale. If the weights are very small, e.g. in a GDN whose
    row of gamma is almost zero, the bias would exceed int32; their scale is then increased.
    """
    given, name, bias_name = (*step.inputs, "")[:3]
    weight, axis, groups = graph.constants[name].values, CONVOLUTIONS[step.operator], step.attributes.get("group", 1)
    outputs = weight.shape[axis] * (groups if axis else 1)
    bias = graph.constants[bias_name].values.astype(np.float64) if bias_name else np.zeros(outputs)
    largest = np.abs(weight).max(tuple({0, 1, 2, 3} - {axis})) / precision.weight_levels
    unit = activations[given].scale
    floor = np.abs(bias) / (unit.astype(np.float64) * LARGEST_BIAS)
    if axis and groups > 1:  # the groups of a transposed convolution share scales
        floor = floor.reshape(groups, -1).max(0)
    chosen = np.where(largest > 0, known[name].scale if name in known else 0, 0)
    scale = np.maximum.reduce([chosen, largest, floor, np.full_like(floor, SMALLEST_SCALE)]).astype(np.float32)
    rounding = Quantization(scale, np.zeros(scale.shape, np.int8), axis)
    made = {name: Constant(rounding.quantize(weight), rounding)}
    if bias_name:
        scales = unit * (np.tile(scale, groups) if axis else scale)
        of_bias = Quantization(scales, np.zeros(scales.shape, np.int32), 0)
        made[bias_name] = Constant(of_bias.quantize(bias), of_bias)
    return made


def _folded(graph: TransformGraph) -> TransformGraph:
    """Remove each Relu whose input's quantization already clips at 0."""
    readers = Counter(name for step in graph.operations for name in set(step.inputs))
    activations, operations = dict(graph.activations), list[Operation]()
    for step in graph.operations:
        given, rounding = step.inputs[0], activations.get(step.output)
        place = next((at for at, one in enumerate(operations) if one.output == given), None)
        shared = rounding is not None and rounding is activations.get(given) and rounding.range[0] >= 0
        if step.operator == "Relu" and shared and readers[given] == 1 and place is not None and given != graph.output:
            operations[place] = replace(operations[place], output=step.output)
            del activations[given]
        else:
            operations.append(step)
    return replace(graph, operations=tuple(operations), activations=activations)


def _with_own_weights(graph: TransformGraph) -> TransformGraph:
    """Copy shared weights and biases, so that each convolution has its own: their scales depend on its input."""
    constants, operations, taken = dict(graph.constants), [], set[str]()
    for step in graph.operations:
        if step.operator in CONVOLUTIONS:
            names = [f"{name}@{step.name}" if name in taken else name for name in step.inputs]
            constants |= {new: constants[old] for new, old in zip(names, step.inputs, strict=True) if old in constants}
            taken.update(names[1:])
            step = replace(step, inputs=tuple(names))
        operations.append(step)
    return replace(graph, operations=tuple(operations), constants=constants)
