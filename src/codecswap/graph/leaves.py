"""A module tree as leaves in order of execution: PyTorch's own layers, and operators such as ``+`` between them.

`torch.fx` finds them, not `torch.export`: fx keeps each leaf's module, which algorithms change in place, and the path that
names it; export's graph has neither (it flattens modules into functions of lifted weights), takes seconds, not
milliseconds, and fixes sizes or asks for constraints on them. What fx cannot follow, a ``forward`` that branches on values,
no NPU runs either.
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
"""The name that a tree's input has among the leaves'."""


class OneLayer(nn.Module):
    """A module whose parts together are one layer of the codec, written in several operators."""


_ONE_LAYER = (OneLayer, PlainActivation, GDN, UpsampleConv2d, SubpixelConv, MaskedConv)
_IN_PLACE: dict[Any, Callable[..., Any]] = {
    operator.iadd: operator.add,
    operator.isub: operator.sub,
    operator.imul: operator.mul,
    operator.itruediv: operator.truediv,
}
"""Operators that change their first argument, and those that do not."""


@dataclass(frozen=True)
class Read:
    """An argument that is another leaf's output."""

    leaf: str


@dataclass(frozen=True)
class Leaf:
    """One call of a module or of a function."""

    name: str
    """Of its own: the module's path in the tree, ``1.conv1``, with ``@1`` where it is called a second time; or the path
    of the module whose ``forward`` has the operator and its name, ``1/add``."""
    path: str
    """Of the module in the tree, or of the one whose ``forward`` has the operator; empty: the tree itself."""
    layer: str
    """Path of the codec's layer that it belongs to: the outermost module around it that is `OneLayer`, else ``path``."""
    module: nn.Module | None
    """None: a function is called."""
    function: Callable[..., Any] | str
    """What is called: the module; a function; or the name of a tensor's method."""
    arguments: tuple[Any, ...]
    """Numbers, tensors of the tree, and `Read` for outputs of other leaves."""
    options: Mapping[str, Any]
    """Arguments by keyword."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """The leaves whose outputs it reads, or `INPUT`, in the order of its arguments."""
        found: list[str] = []
        _map_reads((self.arguments, self.options), lambda read: found.append(read.leaf))
        return tuple(found)

    def compute(self, values: Mapping[str, Any]) -> Any:
        """Its output, where ``values`` are those of the leaves (and of `INPUT`) that it reads; they are not changed."""
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
    """The leaf whose output is the tree's."""

    def consumers(self, name: str) -> list[Leaf]:
        """The leaves that read an output."""
        return [leaf for leaf in self.steps if name in leaf.inputs]

    def compute(self, x: Tensor) -> dict[str, Any]:
        """Every leaf's output, by name, for an input of the tree, with `INPUT` itself."""
        values: dict[str, Any] = {INPUT: x}
        for leaf in self.steps:
            values[leaf.name] = leaf.compute(values)
        return values

    def shapes(self, shape: Sequence[int]) -> dict[str, tuple[int, ...]]:
        """Shapes of the outputs that are tensors, for an input of this shape; nothing is computed.

        Raises:
            UserError: a leaf cannot take what it is given.
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
    """The leaves of a module of one input and one output.

    Args:
        tree: in evaluation mode.
        prefix: the tree's name in the codec, for messages.

    Raises:
        UserError: a ``forward`` cannot be followed.
    """
    tracer = _Tracer(type(tree).__name__)
    try:
        graph = tracer.trace(tree)
    except Exception as error:  # whatever a forward raises when it is given no numbers
        place = ".".join(filter(None, (prefix, tracer.deepest)))
        reason = str(error).strip().split("\n")[0]
        raise UserError(
            f"The layer {place} ({tracer.kind}) cannot be written in operators of a device, because its forward depends on "
            f"values or shapes ({reason}): write it with layers and operators alone."
        ) from error
    return _collect(tree, graph)


class _Tracer(fx.Tracer):
    """fx's tracer, which also has masks as leaves and knows where it failed."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.deepest, self.kind = "", kind

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        # a subclass that only builds itself differently (``nn.Conv2d``'s forward) is as good a leaf
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
    values: dict[fx.Node, Any] = {}  # what each of fx's nodes stands for
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
            if in_place:  # who reads that tensor from here on, reads what it became
                values |= {other: Read(name) for other, value in values.items() if _same(value, arguments[0])}
    return Leaves(tuple(steps), output)


def _same(value: Any, read: Any) -> bool:
    return isinstance(value, Read) and value == read


def _function(node: fx.Node) -> tuple[Any, bool]:
    """What a node calls, and whether that changes its first argument."""
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
