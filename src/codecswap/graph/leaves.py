"""The leaves of a module tree in order of execution: PyTorch's own layers, and the operators between them, such as ``+``.

`torch.fx` finds them, not PyTorch's exporter: fx keeps each leaf's module, which algorithms change in place, and its path.
Export's graph has neither (it turns modules into functions of lifted weights), takes seconds instead of milliseconds, and
fixes sizes. A ``forward`` that branches on values cannot be traced; no NPU runs it either.
"""

import copy
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from codecswap.errors import UserError
from codecswap.layers.gdn import GDN, PlainActivation
from codecswap.layers.upsampling import ConstantMask, MaskedConv, SubpixelConv, UpsampleConv2d

INPUT = "input"
"""Name of the tree's input, beside the names of the leaves."""


class OneLayer(nn.Module):
    """Base class of modules that are one layer of the codec and are written as several operators."""


_ONE_LAYER = (OneLayer, PlainActivation, GDN, UpsampleConv2d, SubpixelConv, MaskedConv)
_IN_PLACE: dict[Any, Callable[..., Any]] = {
    operator.iadd: operator.add,
    operator.isub: operator.sub,
    operator.imul: operator.mul,
    operator.itruediv: operator.truediv,
}
"""In-place operators, and the same operators out of place."""


@dataclass(frozen=True)
class Read:
    """An argument that is another leaf's output."""

    leaf: str


@dataclass(frozen=True)
class Leaf:
    """One call of a module or of a function."""

    name: str
    """Unique name: the module's path in the tree, ``1.conv1``, with ``@1`` for its second call; or, for an operator, the path
    of the module whose ``forward`` calls it and the operator's name, ``1/add``."""
    path: str
    """Path of the module, or of the module whose ``forward`` calls the operator; empty for the tree itself."""
    layer: str
    """Path of the codec's layer: the outermost enclosing module that is one layer (`OneLayer`), else ``path``."""
    module: nn.Module | None
    """None where a function is called."""
    function: Callable[..., Any] | str
    """The callable: the module, a function, or the name of a tensor method."""
    arguments: tuple[Any, ...]
    """Numbers, tensors of the tree, and `Read` for outputs of other leaves."""
    options: Mapping[str, Any]
    """Keyword arguments."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the leaves (or `INPUT`) whose outputs it reads, in the order of its arguments."""
        found: list[str] = []
        _map_reads((self.arguments, self.options), lambda read: found.append(read.leaf))
        return tuple(found)

    def compute(self, values: Mapping[str, Any]) -> Any:
        """Compute its output from ``values``, the outputs of other leaves (and `INPUT`) by name; they are not changed."""
        arguments, options = _map_reads((self.arguments, dict(self.options)), lambda read: values[read.leaf])
        if getattr(self.module, "inplace", False):
            arguments = (arguments[0].clone(), *arguments[1:])
        if isinstance(self.function, str):
            return getattr(arguments[0], self.function)(*arguments[1:], **options)
        return self.function(*arguments, **options)


@dataclass(frozen=True)
class Leaves:
    """A tree's leaves in an order in which they can be computed."""

    steps: tuple[Leaf, ...]
    output: str
    """Name of the leaf whose output is the tree's output."""

    def consumers(self, name: str) -> list[Leaf]:
        """The leaves that read the output of leaf ``name``."""
        return [leaf for leaf in self.steps if name in leaf.inputs]

    def compute(self, x: Tensor) -> dict[str, Any]:
        """Compute the outputs of all leaves, by name, for the input ``x``; `INPUT` is included."""
        values: dict[str, Any] = {INPUT: x}
        for leaf in self.steps:
            values[leaf.name] = leaf.compute(values)
        return values

    def shapes(self, shape: Sequence[int]) -> dict[str, tuple[int, ...]]:
        """Shapes of all outputs that are tensors, for an input of this shape; no values are computed.

        Raises:
            UserError: a leaf cannot take the shape of its input.
        """
        found: dict[str, Any] = {INPUT: torch.empty(tuple(shape), device="meta")}
        for leaf in self.steps:
            function = leaf.function if leaf.module is None else _on_meta(leaf.module)
            arguments = fx.node.map_aggregate(
                leaf.arguments, lambda one: one.to("meta") if isinstance(one, Tensor) else one
            )
            try:
                found[leaf.name] = replace(leaf, function=function, arguments=arguments).compute(found)
            except (RuntimeError, TypeError, ValueError) as error:
                sides = "x".join(map(str, shape))
                raise UserError(f"The layer {leaf.layer} cannot take an input of the shape {sides}: {error}") from None
        return {name: tuple(value.shape) for name, value in found.items() if isinstance(value, Tensor)}


def leaves(tree: nn.Module, prefix: str = "") -> Leaves:
    """Trace a module of one input and one output into leaves.

    Args:
        tree: in evaluation mode.
        prefix: the tree's name in the codec, for messages.

    Raises:
        UserError: a ``forward`` cannot be traced, e.g. because it branches on values.
    """
    tracer = _Tracer(type(tree).__name__)
    try:
        graph = tracer.trace(tree)
    except Exception as error:  # a forward may raise anything on symbolic inputs
        place = ".".join(filter(None, (prefix, tracer.deepest)))
        reason = str(error).strip().split("\n")[0]
        raise UserError(
            f"The layer {place} ({tracer.kind}) cannot be written in operators of a device, because its forward depends on "
            f"values or shapes ({reason}): write it with layers and operators alone."
        ) from error
    return _collect(tree, graph)


class _Tracer(fx.Tracer):
    """A tracer that treats masks as leaves, too, and records where it failed."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.deepest, self.kind = "", kind

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        # a subclass with the same forward (e.g. of ``nn.Conv2d``) is a leaf, too
        own = isinstance(m, ConstantMask) or any(
            base.__module__.startswith("torch.nn.modules") and base.forward is type(m).forward
            for base in type(m).__mro__
            if issubclass(base, nn.Module) and base not in (nn.Module, nn.Sequential)
        )
        return own or super().is_leaf_module(m, module_qualified_name)

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        try:
            return super().call_module(m, forward, args, kwargs)
        except Exception:
            path = self.path_of_module(m)
            if not self.deepest.startswith(path):
                self.deepest, self.kind = path, type(m).__name__
            raise


def _collect(tree: nn.Module, graph: fx.Graph) -> Leaves:
    modules, parameters = dict(tree.named_modules()), dict(tree.named_parameters()) | dict(tree.named_buffers())
    values: dict[fx.Node, Any] = {}  # value of each fx node
    steps: list[Leaf] = []
    taken: dict[str, int] = {}
    output = INPUT
    for node in graph.nodes:
        if node.op == "placeholder":
            values[node] = Read(INPUT)
        elif node.op == "get_attr":
            values[node] = parameters[node.target]
        elif node.op == "output":
            output = values[node.args[0]].leaf
        else:
            stack = [path for path, _ in (node.meta.get("nn_module_stack") or {}).values()]
            path = node.target if node.op == "call_module" else stack[-1] if stack else ""
            module = modules[path] if node.op == "call_module" else None
            arguments = fx.node.map_arg(node.args, values.__getitem__)
            if isinstance(module, nn.Identity | nn.Dropout | nn.Dropout2d):
                values[node] = arguments[0]
                continue
            function, in_place = (module, getattr(module, "inplace", False)) if module else _function(node)
            base = path if module else f"{path}/{_label(function)}"
            taken[base] = taken.get(base, -1) + 1
            name = f"{base}@{taken[base]}" if taken[base] else base
            options = dict(fx.node.map_arg(dict(node.kwargs), values.__getitem__))
            in_place |= bool(options.pop("inplace", False))
            steps.append(Leaf(name, path, _layer(path, modules), module, function, arguments, options))
            values[node] = Read(name)
            if in_place:  # later readers of this tensor read the changed one
                values |= {other: Read(name) for other, value in values.items() if _same(value, arguments[0])}
    return Leaves(tuple(steps), output)


def _same(value: Any, read: Any) -> bool:
    return isinstance(value, Read) and value == read


def _function(node: fx.Node) -> tuple[Any, bool]:
    """The callable of a node, and whether it changes its first argument in place."""
    target: Any = node.target
    if target in _IN_PLACE:
        return _IN_PLACE[target], True
    if isinstance(target, str) and target.endswith("_") and not target.endswith("__"):
        return target.removesuffix("_"), True
    return target, False


def _label(function: Any) -> str:
    return function if isinstance(function, str) else function.__name__


def _layer(path: str, modules: Mapping[str, nn.Module]) -> str:
    parts = path.split(".")
    around = (".".join(parts[:count]) for count in range(1, len(parts) + 1))
    return next((one for one in around if isinstance(modules[one], _ONE_LAYER)), path)


def _map_reads(given: Any, change: Callable[[Read], Any]) -> Any:
    return fx.node.map_aggregate(given, lambda one: change(one) if isinstance(one, Read) else one)


def _on_meta(module: nn.Module) -> nn.Module:
    """A copy whose parameters have shapes and no values."""
    tensors = [*module.parameters(), *module.buffers()]
    return copy.deepcopy(module, {id(one): nn.Parameter(one.to("meta"), requires_grad=False) for one in tensors})
