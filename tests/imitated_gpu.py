"""A GPU for machines without one: tensors that say they are on ``cuda:0``, whose values are on the CPU.

Mixing them with tensors on the CPU is an error, as on a GPU, and so is reading one as an array without copying it first. There
are no gradients: PyTorch looks for the driver then.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map, tree_map_only

DEVICE, NO_NUMBER = torch.device("cuda:0"), torch.device("cuda")
BETWEEN_DEVICES = {"_to_copy", "to", "copy_"}
IN_PLACE = (torch.Tensor.__setitem__, torch.Tensor.copy_)
NUMBERS = (torch.Tensor.__int__, torch.Tensor.__float__, torch.Tensor.__bool__, torch.Tensor.__index__)
ASK_THE_DRIVER = (torch.Tensor.__getitem__, *IN_PLACE, *NUMBERS)
"""Methods that do so before they become an operator; they may read tensors on either device."""
INDEXED = {"index", "index_put_", "index_put", "_index_put_impl_"}
"""Their indices may be on the CPU."""


class OnGpu(torch.Tensor):
    """A tensor that says it is on the GPU."""

    values: torch.Tensor

    @staticmethod
    def __new__(cls, values: torch.Tensor) -> "OnGpu":
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            values.size(),
            strides=values.stride(),
            storage_offset=values.storage_offset(),
            dtype=values.dtype,
            device=DEVICE,
        )
        made.values = values
        return made

    def __repr__(self) -> str:
        return f"OnGpu({self.values})"

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with torch._C.DisableTorchFunctionSubclass():
            if func not in ASK_THE_DRIVER or not isinstance(args[0], OnGpu):
                return func(*args, **(kwargs or {}))
            result = func(*tree_map_only(OnGpu, lambda each: each.values, args))
            return args[0] if func in IN_PLACE else OnGpu(result) if isinstance(result, torch.Tensor) else result

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return compute(func, args, kwargs or {})


class Gpu(TorchDispatchMode):
    """Makes tensors for the device where one is asked for."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return compute(func, args, kwargs or {})


class Numbered(TorchFunctionMode):
    """The number of the device where none is given: PyTorch asks the driver for it."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        args, kwargs = tree_map(_numbered, args), tree_map(_numbered, kwargs or {})
        if func is torch.tensor and kwargs.get("device") == DEVICE:  # it takes memory there without an operator
            return OnGpu(func(*args, **kwargs | {"device": "cpu"}))
        return func(*args, **kwargs)


def _numbered(given: Any) -> Any:
    return DEVICE if isinstance(given, str | torch.device) and given in ("cuda", NO_NUMBER) else given


def compute(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Compute an operator on the values; its result is where its inputs are."""
    name = func.overloadpacket.__name__
    device = next((each for each in tree_leaves((args, kwargs)) if isinstance(each, torch.device)), None)
    tensors = [each for each in tree_leaves((args, kwargs)) if isinstance(each, torch.Tensor)]
    there = [isinstance(each, OnGpu) for each in tensors]
    if name in INDEXED and not there[0]:
        assert not any(there), "a tensor on the CPU is indexed by one on the GPU"
    elif any(there) and name not in (*BETWEEN_DEVICES, *INDEXED):
        others = [each for each in tensors if not isinstance(each, OnGpu) and each.dim()]
        if others:
            raise RuntimeError(f"{func}: tensors on cuda:0 and on the CPU, {tuple(others[0].shape)}")
    plain = tree_map_only(OnGpu, lambda each: each.values, (args, kwargs))
    plain = tree_map_only(torch.device, lambda _: torch.device("cpu"), plain)
    result = func(*plain[0], **plain[1])
    if name == "copy_":
        return args[0]
    on_gpu = any(there) if device is None else torch.device(device).type == "cuda"
    if not on_gpu:
        return result.clone() if name in BETWEEN_DEVICES and any(there) else result
    result = tree_map_only(torch.Tensor, lambda each: each if isinstance(each, OnGpu) else OnGpu(each), result)
    return return_and_correct_aliasing(func, args, kwargs, result) if all(there) and name != "to" else result


@contextmanager
def imitated_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine with this GPU."""
    run = threading.Thread.run

    def run_here(self: threading.Thread) -> None:  # modes are a thread's own
        with Numbered(), Gpu(), torch.no_grad():
            run(self)

    with monkeypatch.context() as patch, Numbered(), Gpu(), torch.no_grad():
        patch.setattr(threading.Thread, "run", run_here)
        patch.setattr(torch.cuda, "_lazy_init", lambda: None)
        patch.setattr(torch.__future__, "_overwrite_module_params_on_conversion", True)
        patch.setattr(torch.cuda, "is_available", lambda: True)
        patch.setattr(torch.cuda, "device_count", lambda: 1)
        patch.setattr(torch.cuda, "get_device_name", lambda *given: "Imitated")
        patch.setattr(torch.cuda, "synchronize", lambda *given: None)
        yield
