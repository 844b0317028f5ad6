"""``codecswap rewrite`` as a function: an ONNX file in, an ONNX file out, verified in between."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from codecswap.errors import UserError
from codecswap.rewrite.measured import fastest
from codecswap.rewrite.model import Choice, Outcome, cheapest, rewrite_model, typical
from codecswap.rewrite.model_file import read_model, written
from codecswap.rewrite.plans import native
from codecswap.rewrite.runs import Feeds, milliseconds, session
from codecswap.rewrite.verify import Verified, verify_nodes, verify_whole

AMPLIFIED = "This model amplifies rounding: last bits of weights change the original's output by {:.0e}, too."
MEASURED = "cpu"
"""The target whose form is measured, node by node."""


@dataclass(frozen=True)
class NodeReport:
    """One ConvTranspose node."""

    name: str
    function: str
    """The function of the model that it is in; empty: the graph."""
    form: str | None
    """Its new lowering; None if it was not changed."""
    reason: str
    """Why it was not changed."""
    kernel: str
    """``16 -> 8, 4x4, stride 2``: channels, kernel and stride."""
    lengths: list[int] = field(default_factory=list)
    """Spatial lengths of the input that multiply-adds are counted for: the file's, or 64 where it has none."""
    output_lengths: list[int] = field(default_factory=list)
    operators: list[str] = field(default_factory=list)
    multiply_adds: tuple[int, int] | None = None
    """Before and after, for one item of a batch."""
    parameters: tuple[int, int] | None = None
    error: float | None = None
    """Largest relative error of the node alone, in float32."""


@dataclass(frozen=True)
class Rewritten:
    """Result of `rewrite`."""

    output: Path | None
    """The written file; None if nothing was changed."""
    nodes: list[NodeReport]
    error: float
    """Largest relative error of the whole model."""
    place: str
    """Output with that error."""
    runs: list[str]
    """Shapes of the inputs that were run."""
    skipped: str
    """Why the whole model could not be run, if it could not."""
    notes: list[str]
    milliseconds: tuple[float, float] | None = None
    """Before and after."""

    def as_json(self) -> dict[str, Any]:
        """For ``--report``."""
        return {**asdict(self), "output": self.output and str(self.output)}


def rewrite(
    path: Path,
    output: Path,
    *,
    form: str | None = None,
    operators: Sequence[str] | None = None,
    target: str | None = None,
    inputs: Path | Mapping[str, np.ndarray] | None = None,
    timed: bool = False,
) -> Rewritten:
    """Write a copy of an ONNX file whose transposed convolutions have another form, after checking that it computes the same.

    Args:
        path: the file.
        output: the file to write; external data goes to NAME.data beside it, if the original has any.
        form: ``subpixel`` (the default), ``masked``, ``phases`` or ``native``.
        operators: ONNX names; each node gets the cheapest form that has no others.
        target: a name or TOML file that says the same for an NPU; ``cpu``: the fastest form, measured here.
        inputs: real inputs to verify on too: arrays by name, or an .npz file of them.
        timed: also measure both files.

    Raises:
        UserError: the file cannot be read, there is nothing in it to rewrite, or the result is not the same function.
    """
    original = read_model(path)
    if output.exists() and output.samefile(path):
        raise UserError(f"{output} is the file that is read: name another one with --output.")
    feeds = _load_inputs(inputs) if isinstance(inputs, Path) else inputs
    choose, notes = _choice(form, operators, target)
    model = deepcopy(original)
    try:
        outcomes = rewrite_model(model, choose, path.parent)
    except (
        ValueError,
        TypeError,
        KeyError,
        IndexError,
        RecursionError,
        OverflowError,
        MemoryError,
        DecodeError,
    ) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{path} is damaged, or not an ONNX file as ONNX defines it ({reason}): export it again."
        ) from None
    if not outcomes:
        raise UserError(f"{path} has no ConvTranspose: there is nothing to rewrite.")
    if not any(outcome.last for outcome in outcomes):
        return Rewritten(None, [_report(one) for one in outcomes], 0.0, "", [], "", notes)
    verify_nodes(original, model, outcomes, path.parent)
    times = None
    with written(model, path, output) as made:
        found = verify_whole(path, made, original, outcomes, dict(feeds) if feeds is not None else None)
        if timed and found.feeds:
            before, after = milliseconds([(session(one, optimized=True), found.feeds) for one in (path, made)])
            times = (before, after)
    return _rewritten(output, outcomes, found, notes, times)


def _rewritten(
    output: Path, outcomes: Sequence[Outcome], found: Verified, notes: list[str], times: tuple[float, float] | None
) -> Rewritten:
    worst = found.worst
    if found.noise:
        notes = [*notes, AMPLIFIED.format(found.noise)]
    nodes = [_report(outcome) for outcome in outcomes]
    return Rewritten(output, nodes, worst.error, worst.place, found.sizes, found.skipped, notes, times)


def _report(outcome: Outcome) -> NodeReport:
    layer, plan = outcome.layer, outcome.plan
    if layer is None:
        return NodeReport(outcome.name, outcome.place, None, outcome.reason, "")
    kernel = f"{layer.inputs} -> {layer.outputs}, {_by(layer.weight_shape[2:])}, stride {_by(layer.strides)}"
    kernel += f", {layer.groups} groups" if layer.groups > 1 else ""
    if plan is None:
        return NodeReport(outcome.name, outcome.place, None, outcome.reason, kernel)
    lengths, before = typical(layer), native(layer, plan.opset)
    return NodeReport(
        outcome.name,
        outcome.place,
        outcome.form,
        "",
        kernel,
        list(lengths),
        list(layer.output_lengths(lengths)),
        [node.op_type for node in plan.nodes],
        (before.multiply_adds(lengths), plan.multiply_adds(lengths)),
        (before.parameters, plan.parameters),
        outcome.error,
    )


def _by(lengths: Sequence[int]) -> str:
    return "x".join(map(str, lengths))


def _choice(form: str | None, operators: Sequence[str] | None, target: str | None) -> tuple[Choice, list[str]]:
    """The function that chooses the lowering, and notes of the target's file."""
    if target == MEASURED and not form:
        return fastest, []
    if target is None or target == MEASURED:
        return cheapest(form, frozenset(operators) if operators else None), []
    from codecswap.targets.target import load_target

    chosen = load_target(target)
    allowed = chosen.operators | frozenset(operators or ())
    return cheapest(form or chosen.form, allowed, chosen.limits), list(chosen.notes)


def _load_inputs(path: Path) -> Feeds:
    if not path.is_file():
        raise UserError(f"There is no file {path}: --inputs is an .npz file of arrays named like the model's inputs.")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (ValueError, OSError, KeyError, EOFError, AttributeError, MemoryError) as error:
        raise UserError(f"{path} cannot be read as an .npz file ({' '.join(str(error).split())[:100]}).") from None
