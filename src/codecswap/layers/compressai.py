"""CompressAI's modules, imported without what its package loads besides: data sets, point clouds, PyTorch Geometric, pandas.

Those take longer to import than all the rest. Stand-ins take their places while CompressAI is imported, and go again, so that
a program that wants the real ones gets them when it imports them.
"""

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

UNUSED = (
    "compressai.datasets",
    "compressai.transforms",
    "torch_geometric",  # two registries of transforms
    "torch_geometric.transforms",
    "torchvision",
    "torchvision.transforms",
    "scipy.stats",  # the quantile of a Gaussian; scipy imports it when it is first asked for
)
"""What CompressAI imports and does not use until it is asked for more than the modules below; a package before its modules."""


@contextmanager
def _stand_ins() -> Iterator[None]:
    """Put empty modules in the places of `UNUSED`, but for those that a program has imported already."""
    missing = {name: ModuleType(name) for name in UNUSED if name not in sys.modules}
    sys.modules.update(missing)
    for name in missing:
        parent, _, child = name.rpartition(".")
        if parent in missing:
            setattr(missing[parent], child, missing[name])
    try:
        with warnings.catch_warnings():  # of deprecations, not our user's to mend
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, stand_in in missing.items():
            del sys.modules[name]
            parent, _, child = name.rpartition(".")
            if parent in sys.modules and vars(sys.modules[parent]).get(child) is stand_in:
                delattr(sys.modules[parent], child)


with _stand_ins():
    from compressai import models, zoo
    from compressai.entropy_models import EntropyBottleneck
    from compressai.layers import GDN, GDN1

__all__ = ["GDN", "GDN1", "EntropyBottleneck", "models", "zoo"]
