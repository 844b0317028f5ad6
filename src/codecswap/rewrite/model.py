"""Rewriting the transposed convolutions of a model in memory; everything else in it stays as it is."""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError
from onnx import GraphProto, ModelProto, NodeProto, helper, shape_inference

from codecswap.errors import UserError
from codecswap.rewrite.constants import BiasArrangement, Body, Constants, Source, WeightArrangement, bodies
from codecswap.rewrite.plans import BIAS, FORMS, WEIGHT, Plan, X, Y, phases, subpixel
from codecswap.rewrite.transposed import NotRewritten, Transposed, read

Shape = tuple[int | None, ...]
OLDEST = 7
"""Oldest supported opset; before it, Mul has no broadcasting."""


@dataclass
class Outcome:
    """Result for one ConvTranspose node."""

    name: str
    """Name of the node, or of its output."""
    place: str
    """Function that contains it; empty for the graph."""
    form: str | None = None
    """Its new lowering; None if it was not changed."""
    reason: str = ""
    """Why it was not changed."""
    refused: dict[str, str] = field(default_factory=dict)
    """Impossible lowerings, and why."""
    layer: Transposed | None = None
    element: int = 0
    """ONNX's number of the type of the computation."""
    plan: Plan | None = None
    x: str = ""
    y: str = ""
    """Names of its input and its output."""
    last: str = ""
    """Name of the value to compare: its output, or the output of the QuantizeLinear after it."""
    error: float | None = None
    """Largest relative error of this node alone, measured."""


@dataclass
class _Job:
    """A node to replace."""

    outcome: Outcome
    plan: Plan
    weight: Source
    bias: Source | None
    requantize: NodeProto | None
    """The QuantizeLinear that is the only reader of its output."""


Choice = Callable[[Outcome, Sequence[Plan]], Plan]
"""Chooses among the possible plans of a node; raises NotRewritten if none is acceptable."""


def rewrite_model(model: ModelProto, choose: Choice, folder: Path = Path()) -> list[Outcome]:
    """Replace, in place, every ConvTranspose of a model by another form of the same function.

    Args:
        model: its external data, if it has any, need not be loaded.
        choose: chooses the lowering, e.g. `cheapest`.
        folder: folder of external data.

    Raises:
        UserError: the model has no opset, or one before 7.
    """
    taken = set(_names(model))
    shapes = known_shapes(model)
    outcomes: list[Outcome] = []
    for root, imports in [(model.graph, model.opset_import), *((f, f.opset_import) for f in model.functions)]:
        opset = next((entry.version for entry in imports if entry.domain in ("", "ai.onnx")), None)
        found = [node for body in bodies(root) for node in body.node if is_transposed(node)]
        if not found:
            continue
        if opset is None or opset < OLDEST:
            raise UserError(
                f"The file has opset {opset or 'none'}, and rewriting begins with {OLDEST}: convert it with "
                "onnx.version_converter.convert_version."
            )
        constants = Constants(root, taken, folder)
        known = shapes if root is model.graph else {}
        jobs: dict[str, _Job] = {}
        for node in found:
            outcome = Outcome(node.name or node.output[0], place_of(root), x=node.input[0], y=node.output[0])
            outcomes.append(outcome)
            try:
                if job := _plan(node, constants, opset, known, choose, outcome):
                    jobs[outcome.y] = job
            except NotRewritten as reason:
                outcome.reason = str(reason)
        _apply(model, root, constants, jobs)
    return outcomes


def place_of(root: Body) -> str:
    """The name of a function with its domain; empty for a graph."""
    return "" if isinstance(root, GraphProto) else f"{root.domain}.{root.name}"


def is_transposed(node: NodeProto) -> bool:
    """Whether a node is ONNX's ConvTranspose."""
    return node.op_type == "ConvTranspose" and node.domain in ("", "ai.onnx")


def cheapest(
    form: str | None = None,
    operators: frozenset[str] | None = None,
    limits: Mapping[str, Mapping[str, Sequence[Any]]] | None = None,
) -> Choice:
    """A choice by rule.

    Args:
        form: the form wanted; where it does not go and ``operators`` is given, another one.
        operators: those that may be used; of several forms the one with the fewest multiply-adds, then operators, is taken.
        limits: per operator, attributes and the values that they may have.
    """

    def choose(outcome: Outcome, plans: Sequence[Plan]) -> Plan:
        if operators is None:
            wanted = form or "subpixel"
            if (found := next((plan for plan in plans if plan.form == wanted), None)) is None:
                raise NotRewritten(outcome.refused[wanted])
            return found
        fit = [plan for plan in plans if accepted(plan, operators, limits or {})]
        if not fit:
            raise NotRewritten(f"no form of it has only the operators {', '.join(sorted(operators))[:200]}")
        return min(fit, key=lambda plan: (plan.form != form, plan.multiply_adds(typical(plan.layer)), len(plan.nodes)))

    return choose


def accepted(plan: Plan, operators: frozenset[str], limits: Mapping[str, Mapping[str, Sequence[Any]]]) -> bool:
    """Whether a target has all operators of a plan, with those attributes."""
    for node in plan.nodes:
        values = {one.name: helper.get_attribute_value(one) for one in node.attribute}
        for name, allowed in limits.get(node.op_type, {}).items():
            value = values.get(name)
            if value is not None and (value.decode() if isinstance(value, bytes) else value) not in allowed:
                return False
    return plan.operators <= operators


def typical(layer: Transposed, open_length: int = 64) -> tuple[int, ...]:
    """Input lengths of a layer, with one put in where they are open."""
    least = layer.least_lengths()
    return tuple(length or max(open_length, low) for length, low in zip(layer.lengths, least, strict=True))


def candidates(layer: Transposed, opset: int) -> tuple[list[Plan], dict[str, str]]:
    """The plans that a layer can have, and for the forms that it cannot have the reason."""
    builds: list[tuple[str, Callable[[], Plan]]] = [
        (name, partial(build, layer, opset)) for name, build in FORMS.items()
    ]
    if layer.groups == 1 and math.prod(layer.strides) > 1:
        builds += [("subpixel", partial(subpixel, layer, opset, mode="DCR"))]
        builds += [("phases", partial(phases, layer, opset, split=True))]
    plans: list[Plan] = []
    reasons: dict[str, str] = {}
    for name, build in builds:
        try:
            plans.append(build())
        except (NotRewritten, ValueError) as reason:
            reasons.setdefault(name, str(reason))
    return plans, reasons


def known_shapes(model: ModelProto) -> dict[str, Shape]:
    """The shapes of values, nested ones too, as far as ONNX infers them."""
    with suppress(Exception):  # too large, or something in it that ONNX does not know: then the file says what is known
        model = shape_inference.infer_shapes(model)
    found: dict[str, Shape] = {}
    for body in bodies(model.graph):
        assert isinstance(body, GraphProto)
        for value in [*body.input, *body.output, *body.value_info]:
            if value.type.tensor_type.HasField("shape"):
                dims = value.type.tensor_type.shape.dim
                found[value.name] = tuple(dim.dim_value if dim.dim_value > 0 else None for dim in dims)
    return found


def _plan(
    node: NodeProto,
    constants: Constants,
    opset: int,
    shapes: Mapping[str, Shape],
    choose: Choice,
    outcome: Outcome,
) -> _Job | None:
    if len(node.input) < 2:
        raise NotRewritten("it has no weight")
    weight = constants.source(node.input[1], "its weight")
    bias = constants.source(node.input[2], "its bias") if len(node.input) > 2 and node.input[2] else None
    layer = outcome.layer = read(node, weight.shape, shapes.get(node.input[0]))
    if bias and bias.shape != (layer.outputs,):
        raise NotRewritten(f"its bias has the shape {list(bias.shape)} and its weight {layer.outputs} outputs")
    outcome.element = _element(weight, constants)
    plans, outcome.refused = candidates(layer, opset)
    plan = choose(outcome, plans)
    if plan.form == "native" and not _to_mend(node):
        outcome.form, outcome.plan = plan.form, plan
        return None
    users = [user for body in bodies(constants.root) for user in body.node if outcome.y in user.input]
    outputs = {value.name for body in bodies(constants.root) if isinstance(body, GraphProto) for value in body.output}
    alone = len(users) == 1 and outcome.y not in outputs and users[0].op_type == "QuantizeLinear"
    requantize = _one_scale(users[0], constants) if alone else None
    job = _Job(outcome, plan, weight, bias, requantize)
    outcome.form, outcome.plan, outcome.last = plan.form, plan, requantize.output[0] if requantize else outcome.y
    return job


def _to_mend(node: NodeProto) -> bool:
    values = {one.name: helper.get_attribute_value(one) for one in node.attribute}
    return bool(
        values.get("auto_pad", b"NOTSET") != b"NOTSET"
        or values.get("output_shape")
        or any(values.get("output_padding", []))
    )


def _one_scale(node: NodeProto, constants: Constants) -> NodeProto | None:
    """The node, if it has one scale for the whole tensor."""
    try:
        shape = constants.source(node.input[1], "").shape
    except NotRewritten:
        return None
    return node if math.prod(shape) == 1 else None


def _element(source: Source, constants: Constants) -> int:
    """The type of a constant after its steps."""
    element = source.tensor.data_type
    for step in source.steps:
        if step.op_type == "Cast":
            element = next((one.i for one in step.attribute if one.name == "to"), element)
        elif step.op_type == "DequantizeLinear":
            element = constants.source(step.input[1], "the scale of its weight").tensor.data_type
    return element


def _apply(model: ModelProto, root: Body, constants: Constants, jobs: Mapping[str, _Job]) -> None:
    old_inputs = {tensor.name for tensor in getattr(root, "initializer", ())}
    replaced: set[str] = set()
    for body in bodies(root):  # the innermost first: rebuilding a list of nodes makes those of its old graphs invalid
        if not any(is_transposed(node) and node.output[0] in jobs for node in body.node):
            continue
        nodes: list[NodeProto] = []
        for node in body.node:
            job = jobs.get(node.output[0]) if is_transposed(node) else None
            if job is None:
                nodes.append(node)
                continue
            try:
                replacing = _written(node, job, constants, root)
            except (NotRewritten, ValueError, TypeError, OSError, DecodeError) as reason:
                job.outcome.form, job.outcome.plan, job.outcome.reason = None, None, " ".join(str(reason).split())[:200]
                nodes.append(node)
                continue
            nodes += replacing
            if job.plan.form != "native":
                replaced.update(*(source.names for source in (job.weight, job.bias) if source))
                for source in (job.weight, job.bias):
                    replaced.update(name for step in (source.steps if source else ()) for name in step.input)
        copies = [deepcopy(node) for node in nodes]
        del body.node[:]
        body.node.extend(copies)
    if constants.prelude:
        copies = [*constants.prelude, *(deepcopy(node) for node in root.node)]
        del root.node[:]
        root.node.extend(copies)
    if replaced:
        _remove_unused(root, replaced)
    if isinstance(root, GraphProto) and model.ir_version < 4:  # there, initializers are inputs too
        for tensor in root.initializer:
            if tensor.name not in old_inputs:
                root.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))


def _written(node: NodeProto, job: _Job, constants: Constants, root: Body) -> list[NodeProto]:
    """The nodes that replace one."""
    plan = job.plan
    hint = node.name or node.output[0]
    if plan.form == "native":
        mended = deepcopy(node)
        kept = [one for one in node.attribute if one.name not in ("auto_pad", "output_shape", "output_padding", "pads")]
        del mended.attribute[:]
        mended.attribute.extend(
            [*kept, *(one for one in plan.nodes[0].attribute if one.name in ("pads", "output_padding"))]
        )
        return [mended]
    before: list[NodeProto] = []
    names = {X: node.input[0], Y: node.output[0], "": ""}
    for number, kernel in plan.kernels.items():
        how = WeightArrangement(kernel, plan.layer.groups)
        names[WEIGHT + number] = constants.rearranged(job.weight, how, f"{hint}_{plan.form}_weight", before)
        if job.bias:
            names[BIAS + number] = constants.rearranged(
                job.bias, BiasArrangement(kernel), f"{hint}_{plan.form}_bias", before
            )
    for name, values in plan.tensors.items():
        if name == plan.mask:
            values = values.astype(helper.tensor_dtype_to_np_dtype(job.outcome.element))
        key = (values.dtype.str, values.shape, values.tobytes())
        if key not in constants.made:
            constants.made[key] = constants.store(values, f"{hint}_{'mask' if name == plan.mask else 'shape'}", root)
        names[name] = constants.made[key]
    written = []
    for planned in plan.nodes:
        new = deepcopy(planned)
        for output in planned.output:
            if output not in names:
                names[output] = constants.unique(f"{hint}_{planned.op_type}_output")
        new.input[:] = [names[name] for name in planned.input if not name.startswith(BIAS) or name in names]
        new.output[:] = [names[name] for name in planned.output]
        new.name = constants.unique(f"{hint}_{planned.op_type}")
        new.domain = node.domain
        written.append(new)
    first = next(new for new in written if new.op_type == "Conv")
    first.doc_string = node.doc_string
    first.metadata_props.extend(node.metadata_props)
    if job.requantize is not None and plan.form != "masked":
        written = list(_requantized(written, job.requantize, constants, hint))
    return before + written


def _requantized(
    nodes: Sequence[NodeProto], quantize: NodeProto, constants: Constants, hint: str
) -> Iterator[NodeProto]:
    """Quantize after each node as the node behind the last one does, which changes nothing and keeps all in integers."""
    renamed: dict[str, str] = {}
    for node in nodes:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        yield node
        if node is nodes[-1]:
            return
        levels, value = (constants.unique(f"{node.output[0]}_{what}") for what in ("levels", "dequantized"))
        for operator, source, result in (
            ("QuantizeLinear", node.output[0], levels),
            ("DequantizeLinear", levels, value),
        ):
            new = deepcopy(quantize)
            new.op_type, new.name = operator, constants.unique(f"{hint}_{operator}")
            new.input[0], new.output[0] = source, result
            if operator == "DequantizeLinear":
                kept = [one for one in new.attribute if one.name == "axis"]
                del new.attribute[:]
                new.attribute.extend(kept)
            yield new
        renamed[node.output[0]] = value


def _remove_unused(root: Body, names: set[str]) -> None:
    """Remove constants of these names, and nodes that make them, which nothing uses any more."""
    while True:
        used = Counter(name for body in bodies(root) for node in body.node for name in node.input)
        for body in bodies(root):
            used.update(body.output if not isinstance(body, GraphProto) else (value.name for value in body.output))
        gone = False
        for body in bodies(root):
            for index in reversed(range(len(body.node))):
                outputs = body.node[index].output
                if outputs and all(name in names and not used[name] for name in outputs):
                    del body.node[index]
                    gone = True
            if isinstance(body, GraphProto):
                for kept in (body.initializer, body.input):  # initializers may be inputs too
                    for index in reversed(range(len(kept))):
                        if kept[index].name in names and not used[kept[index].name]:
                            del kept[index]
        if not gone:
            return


def _names(model: ModelProto) -> Iterator[str]:
    for root in (model.graph, *model.functions):
        for body in bodies(root):
            for node in body.node:
                yield node.name
                yield from node.input
                yield from node.output
            if isinstance(body, GraphProto):
                yield from (value.name for value in [*body.input, *body.output, *body.initializer])
            else:
                yield from [*body.input, *body.output]
