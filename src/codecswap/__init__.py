"""codecswap: swap the transposed convolutions of a learned image codec for layers that NPUs run, and train it back.

The public API, imported when it is first used (so that a device without PyTorch can import the package):

- `load_codec`: a pretrained codec, from CompressAI's zoo, a local file or the package.
- `swap`: a student with other layers in place of the transposed convolutions.
- `calibrate`: the closed-form start of such a student, fitted on real latents.
- `distill`, `finetune`: train a student towards its teacher, and towards the pictures.
- `advise`: every replacement side by side, measured without training.
- `save_student`, `load_student`: a student in a file.
- `export`: a codec as a folder of ONNX files and entropy tables, which codes without PyTorch.
- `quantize`: a codec with 8- and 16-bit integers, in memory or as such a folder.
- `compile`: the decoder for an NPU, measured in its arithmetic where its compiler is installed.
- `open_codec`: such a folder, without PyTorch. It and codecs in PyTorch have ``compress(picture)`` and ``decompress(bytes)``.
- `UserError`: what all of these raise for wrong input, with one sentence.
- `encode`: the rounded latents that a bitstream carries.
- `evaluate`: PSNR, MS-SSIM and bits per pixel from real bytes.
- `ms_ssim`, `psnr`: the metrics, per picture.
"""

import importlib
import os
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from codecswap.advice.advise import advise
    from codecswap.codecs.protocol import encode
    from codecswap.codecs.source import load_codec
    from codecswap.compile.compiler import compile
    from codecswap.errors import UserError
    from codecswap.evaluation.evaluate import evaluate
    from codecswap.export.codec import export, quantize
    from codecswap.inference.runtime import open_codec
    from codecswap.metrics import ms_ssim, psnr
    from codecswap.students.checkpoint import load_student, save_student
    from codecswap.swaps.apply import swap
    from codecswap.swaps.calibrate import calibrate
    from codecswap.training.train import distill, finetune

os.environ.setdefault(
    "ORT_DISABLE_TELEMETRY", "1"
)  # ONNX Runtime 1.32 writes an id to the home folder and reports to its makers

__version__ = "0.1.0"
__all__ = [
    "UserError",
    "advise",
    "calibrate",
    "compile",
    "distill",
    "encode",
    "evaluate",
    "export",
    "finetune",
    "load_codec",
    "load_student",
    "ms_ssim",
    "open_codec",
    "psnr",
    "quantize",
    "save_student",
    "swap",
]

_HOMES = {
    "UserError": "errors",
    "advise": "advice.advise",
    "calibrate": "swaps.calibrate",
    "compile": "compile.compiler",
    "distill": "training.train",
    "encode": "codecs.protocol",
    "evaluate": "evaluation.evaluate",
    "export": "export.codec",
    "finetune": "training.train",
    "load_codec": "codecs.source",
    "load_student": "students.checkpoint",
    "ms_ssim": "metrics",
    "open_codec": "inference.runtime",
    "psnr": "metrics",
    "quantize": "export.codec",
    "save_student": "students.checkpoint",
    "swap": "swaps.apply",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'codecswap' has no attribute {name!r}")
    return getattr(importlib.import_module(f"codecswap.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)


class _Package(ModuleType):
    """A package whose functions of the API stay, although folders of some of their names (``export``) are imported."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in _HOMES or not isinstance(value, ModuleType):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
