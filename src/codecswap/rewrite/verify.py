"""Verify that a rewritten model equals the original: node by node, and as a whole."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnxruntime
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from codecswap.errors import UserError
from codecswap.rewrite.alone import extract
from codecswap.rewrite.constants import Constants, bodies
from codecswap.rewrite.model import Outcome, is_transposed, place_of, typical
from codecswap.rewrite.model_file import written
from codecswap.rewrite.runs import GUESSES, Difference, Feeds, difference, random_feeds, session
from codecswap.rewrite.transposed import Transposed

LIMIT = 1e-5
"""Largest relative error of a node in float32, and of a whole model in float32."""
COARSE = {TensorProto.FLOAT16: 1e-2, TensorProto.BFLOAT16: 0.08}
"""The same of whole models in types that round more."""
LEVELS = 0.05
"""The same where activations are quantized: sums in another order may end on the neighboring level."""
SHARE = 1e-3
"""Share of an output of integers (classes, for example) that may differ."""
LEAST = 0.1
"""Errors of a whole model are relative to at least this: probabilities near 0, of random inputs, have none that matter."""
NOISE = 4
"""A whole model may differ by so many times what rounding in other places changes in it."""


@dataclass
class Verified:
    """Result for the whole model."""

    worst: Difference = field(default_factory=lambda: Difference(0.0))
    sizes: list[str] = field(default_factory=list)
    """Shapes of the inputs that were run."""
    skipped: str = ""
    """Why the whole model could not be run, if it could not."""
    noise: float = 0.0
    """What rounding in other places changes, where the whole model differs by more than the limit; else 0."""
    feeds: Feeds | None = None
    """The last inputs."""


def verify_nodes(original: ModelProto, rewritten: ModelProto, outcomes: Sequence[Outcome], folder: Path) -> None:
    """Run each replaced node alone, before and after, in float32 at two sizes; note its error.

    Raises:
        UserError: one differs by more than `LIMIT`; it is named.
    """
    constants: dict[tuple[int, str], Constants] = {}
    for outcome in outcomes:
        if not (outcome.last and outcome.layer and outcome.plan):
            continue
        opened = []
        for model in (original, rewritten):
            key = (id(model), outcome.place)
            if key not in constants:
                root = next((f for f in model.functions if place_of(f) == outcome.place), model.graph)
                constants[key] = Constants(root, set(), folder)
            try:
                opened.append(session(extract(model, outcome.x, outcome.last, constants[key])))
            except Exception as error:  # of ONNX Runtime, which has types of its own for them
                raise UserError(
                    f"ONNX Runtime does not take the node {outcome.name}, so it cannot be checked and nothing is written: "
                    f"{_sentence(error)}."
                ) from None
        outcome.error = 0.0
        for seed, lengths in enumerate(_lengths(outcome.layer, outcome.plan.baked)):
            shape = (outcome.layer.batch or 2, outcome.layer.inputs, *lengths)
            feeds = {outcome.x: np.random.default_rng(seed).standard_normal(shape).astype(np.float32)}
            before, after = (one.run(None, feeds)[0] for one in opened)
            found = difference([outcome.y], [before], [after])
            if not found.real and np.abs(before.astype(int) - after.astype(int)).max() <= 1:
                continue  # sums in another order may end on the neighboring level
            outcome.error = max(outcome.error, found.error)
        if not outcome.error <= LIMIT:
            raise UserError(
                f"The node {outcome.name} in the form {outcome.form} differs from the original by {outcome.error:.1e} "
                f"(relative), more than {LIMIT:.0e}: nothing is written. Please report this file."
            )


def _lengths(layer: Transposed, baked: bool) -> list[tuple[int, ...]]:
    if baked or layer.fixed:
        return [typical(layer)]
    least = layer.least_lengths()
    return [tuple(low + more for low in least) for more in (1, 6)]


def verify_whole(
    original: Path, rewritten: Path, model: ModelProto, outcomes: Sequence[Outcome], given: Feeds | None
) -> Verified:
    """Run both files on random inputs, at two sizes where they are open, and on given ones.

    Args:
        original: as it was read.
        rewritten: as it will be written, in a folder where another file may be written.
        model: that of ``original``.
        outcomes: the replaced nodes, with their errors.
        given: real inputs.

    Raises:
        UserError: the outputs differ by more than the limit, or the given inputs do not go in.
    """
    found = Verified()
    try:  # one session at a time: files may be large
        names, runs = _outputs(original, model, given)
    except _NotRun as reason:
        found.skipped = str(reason)
        return found
    found.sizes = [", ".join(f"{name} {list(values.shape)}" for name, values in feeds.items()) for feeds, _ in runs]
    found.feeds = runs[-1][0]
    after = session(rewritten)
    differences = [difference(names, wanted, after.run(None, feeds), least=LEAST) for feeds, wanted in runs]
    del after
    allowed = [_limit(model) if one.real else SHARE for one in differences]
    if any(one.real and one.error > limit for one, limit in zip(differences, allowed, strict=True)):
        for other in (
            lambda: session(original, optimized=True),
            lambda: _disturbed(original, model, outcomes, rewritten.parent),
        ):
            opened = other()
            noise = [difference(names, wanted, opened.run(None, feeds), least=LEAST).error for feeds, wanted in runs]
            allowed = [
                max(limit, NOISE * more) if one.real else limit
                for one, limit, more in zip(differences, allowed, noise, strict=True)
            ]
            found.noise = max(found.noise, *noise)
            del opened
    for one, limit in zip(differences, allowed, strict=True):
        if not one.error <= limit:
            raise UserError(
                f"The rewritten model differs from the original by {one.error:.1e} at {one.place}, more than "
                f"{limit:.0e}, although every node alone is right: nothing is written. Please report this file."
            )
    found.worst = max(differences, key=lambda one: one.error)
    return found


class _NotRun(Exception):
    """ONNX Runtime does not run a model; the message says why."""


def _outputs(
    path: Path, model: ModelProto, given: Feeds | None
) -> tuple[list[str], list[tuple[Feeds, Sequence[np.ndarray]]]]:
    """Names of a file's outputs, and inputs with their outputs."""
    stored = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in stored]
    try:
        opened = session(path)
        names = [one.name for one in opened.get_outputs()]
    except Exception as error:
        raise _NotRun(_sentence(error)) from None
    runs: list[tuple[Feeds, Sequence[np.ndarray]]] = []
    open_sizes = any(not dim.dim_value for value in inputs for dim in value.type.tensor_type.shape.dim)
    problem = ""
    for seed, guess in enumerate(GUESSES if open_sizes else GUESSES[:2]):
        try:
            feeds = random_feeds(inputs, guess, seed)
            runs.append((feeds, opened.run(None, feeds)))
        except Exception as error:
            problem = _sentence(error)
        if len(runs) == 2:
            break
    if given is not None:
        runs.append((given, _run_given(given, opened)))
    if not runs:
        raise _NotRun(problem)
    return names, runs


def _disturbed(
    original: Path, model: ModelProto, outcomes: Sequence[Outcome], folder: Path
) -> onnxruntime.InferenceSession:
    """The original with the weights of the replaced nodes off by as much, at random, as their new forms were found to be.

    A model may enlarge such errors without limit: phases of sound, or levels of activations that are quantized as they come.
    """
    disturbed = deepcopy(model)
    errors = {(one.place, one.y): one for one in outcomes if one.last and one.layer}
    random = np.random.default_rng(0)
    for root in (disturbed.graph, *disturbed.functions):
        for body in bodies(root):
            nodes: list[NodeProto] = []
            for node in body.node:
                one = errors.get((place_of(root), node.output[0])) if is_transposed(node) else None
                if one is not None and one.layer:
                    dtype = helper.tensor_dtype_to_np_dtype(one.element)
                    error = max(one.error or 0, float(np.finfo(dtype).eps))
                    factors = (1 + error * random.choice((-1, 1), one.layer.weight_shape)).astype(dtype)
                    name = f"{one.y}_disturbed"
                    nodes.append(
                        helper.make_node("Constant", [], [f"{name}_by"], value=numpy_helper.from_array(factors))
                    )
                    nodes.append(helper.make_node("Mul", [node.input[1], f"{name}_by"], [name]))
                    node.input[1] = name
                nodes.append(node)
            copies = [deepcopy(node) for node in nodes]
            del body.node[:]
            body.node.extend(copies)
    with written(disturbed, original, folder / "disturbed.onnx") as path:
        return session(path)


def _run_given(given: Feeds, opened: onnxruntime.InferenceSession) -> Sequence[np.ndarray]:
    wanted = {one.name: one for one in opened.get_inputs()}
    if set(given) != set(wanted):
        raise UserError(
            f"--inputs has {', '.join(given) or 'nothing'}, and the model's inputs are {', '.join(wanted)}."
        )
    try:
        return opened.run(None, given)
    except Exception as error:
        raise UserError(f"The model does not take the arrays of --inputs: {_sentence(error)}.") from None


def _limit(model: ModelProto) -> float:
    kinds: set[int] = set()
    quantized = False
    for root in (model.graph, *model.functions):
        for body in bodies(root):
            kinds.update(tensor.data_type for tensor in getattr(body, "initializer", ()))
            quantized |= any("Quantize" in node.op_type or node.op_type.startswith("QLinear") for node in body.node)
    kinds.update(value.type.tensor_type.elem_type for value in model.graph.input)
    return max([LIMIT, *(coarse for kind, coarse in COARSE.items() if kind in kinds), *([LEVELS] if quantized else [])])


def _sentence(error: Exception) -> str:
    return " ".join(str(error).split())[:300].rstrip(".")
