"""CompressAI's modules, imported without what its package loads besides: data sets, point clouds, PyTorch Geometric, pandas.

Their import takes longer than everything else. They are replaced by empty modules while CompressAI is imported, so that
a program can still import the real ones later.
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
"""Modules that CompressAI imports but does not need for the modules below; packages before their modules."""


@contextmanager
def _stand_ins() -> Iterator[None]:
    """Replace `UNUSED` by empty modules, except those that are already imported."""
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
