"""Lightning, imported without what it loads besides: torchmetrics (with torchvision, scipy, matplotlib), torch._dynamo, and the
counter of operations, which imports Triton.

Their import takes three times as long as Lightning's own. They are replaced by empty modules meanwhile, so that a program can
still import the real ones later; what is already imported is left alone. The same for PyTorch's optimizers, which import
torch._dynamo to keep it from tracing them.
"""

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from types import ModuleType
from typing import Any

import torch


class Metric(torch.nn.Module):
    """Stands for torchmetrics' class: Lightning asks whether what is logged is one. Training logs none."""


class OptimizedModule(torch.nn.Module):
    """Stands for torch._dynamo's class: Lightning asks whether a model is one. Training compiles only parts of it."""


class FlopCounterMode:
    """Stands for PyTorch's class, and makes one when Lightning summarizes a model, which training does not ask for."""

    def __new__(cls, *given: Any, **more: Any) -> Any:
        from torch.utils import flop_counter

        return flop_counter.FlopCounterMode(*given, **more)


def _stand_ins() -> dict[str, ModuleType]:
    torchmetrics, dynamo, flops = map(ModuleType, ("torchmetrics", "torch._dynamo", "torch.utils.flop_counter"))
    vars(torchmetrics).update(Metric=Metric, MetricCollection=Metric, __version__=version("torchmetrics"))
    vars(dynamo).update(OptimizedModule=OptimizedModule, disable=lambda function=None, *given, **more: function)
    vars(flops).update(FlopCounterMode=FlopCounterMode)
    return {module.__name__: module for module in (torchmetrics, dynamo, flops)}


@contextmanager
def _without_extras() -> Iterator[None]:
    """Replace modules that are not imported yet."""
    missing = {name: module for name, module in _stand_ins().items() if name not in sys.modules}
    sys.modules.update(missing)
    try:
        with warnings.catch_warnings():  # of deprecations, not our user's to mend
            warnings.simplefilter("ignore")
            yield
    finally:
        for name in missing:
            del sys.modules[name]
        if "torch._dynamo" in missing and "_dynamo" in vars(torch):
            del torch._dynamo


def _leave_optimizers_alone() -> None:
    """Optimizers' methods run as they are, instead of wrapped by torch._dynamo, which is imported for it at their first call.

    `torch.compile` is used for decoders only, never for a function that has an optimizer in it.
    """
    for method in vars(torch.optim.Optimizer).values():
        if (inner := getattr(method, "__wrapped__", None)) and not hasattr(inner, "__dynamo_disable"):
            vars(inner)["__dynamo_disable"] = inner


with _without_extras():
    import lightning.pytorch as L
    from lightning.pytorch.callbacks import RichProgressBar
    from lightning.pytorch.loggers import Logger, WandbLogger
    from lightning.pytorch.plugins.io import TorchCheckpointIO
    from lightning.pytorch.utilities.exceptions import MisconfigurationException
_leave_optimizers_alone()

__all__ = ["L", "Logger", "MisconfigurationException", "RichProgressBar", "TorchCheckpointIO", "WandbLogger"]
