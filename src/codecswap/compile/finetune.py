"""``codecswap finetune --quantized``: the decoder trains in the integers of a device."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx

from codecswap.codecs.protocol import Codec
from codecswap.compile import TOOLCHAINS
from codecswap.compile.toolchain import Scheme
from codecswap.config import FinetuneOptions, QuantizeOptions
from codecswap.console import say
from codecswap.errors import UserError
from codecswap.export.backends.onnx_qdq import read_qdq
from codecswap.export.operators import load_target
from codecswap.layers.upsampling import UpsampleConv2d
from codecswap.quantize.command import quantize
from codecswap.quantized.precision import PRECISIONS
from codecswap.quantized.synthesis import QuantizedSynthesis
from codecswap.training.loop import train


def finetune(options: FinetuneOptions) -> int:
    """``codecswap finetune`` with ``--quantized``."""
    _scheme(options)  # a wrong --target is said before anything else
    return train(options, in_integers)


def in_integers(codec: Codec, options: FinetuneOptions, pictures: Sequence[np.ndarray]) -> QuantizedSynthesis:
    """A student's decoder as `codecswap quantize`, or `codecswap compile` for a target, would write it.

    Args:
        codec: it is left as it is.
        options: with ``quantized``.
        pictures: to calibrate on, ``(3, H, W)``, float32 in [0, 1].

    Raises:
        UserError: the target is unknown, or has no such precision.
    """
    scheme, toolchain, form = _scheme(options)
    if any(isinstance(layer, UpsampleConv2d) and layer.masked for layer in codec.g_s.modules()):
        form = "subpixel"  # a mask has one size
    height, width = (side - side % codec.multiple for side in pictures[0].shape[1:])
    cut = [picture[:, :height, :width] for picture in pictures]
    with tempfile.TemporaryDirectory() as folder:
        given = scheme.options.replace(output=Path(folder), part="decoder", form=form or "native")  # type: ignore[arg-type]
        made = quantize(codec, "", "", cut, given, show=False, adapt=scheme.adapt)
        transform = read_qdq(onnx.load(Path(folder) / "decoder.onnx"))
    say(f"The decoder trains in integers ({given.precision}): weights, their scales and biases.")
    medians = codec.entropy_tables().medians if made.split_inputs else np.zeros(codec.M)
    assert options.quantized
    return QuantizedSynthesis(transform, made.split_inputs, medians, precision=options.quantized, target=toolchain)


def _scheme(options: FinetuneOptions) -> tuple[Scheme, str | None, str | None]:
    """How the options' target is quantized for, its toolchain, and the form that it takes."""
    assert options.quantized
    if options.target is None:
        return Scheme(QuantizeOptions(precision=options.quantized)), None, None
    target = load_target(options.target)
    known = [name for name in target.precisions if name in PRECISIONS] if target.toolchain in TOOLCHAINS else []
    if options.quantized not in known:
        raise UserError(
            f"--target {options.target} takes no {options.quantized}: it takes {' or '.join(known) or 'nothing in integers'}."
        )
    assert target.toolchain
    return TOOLCHAINS[target.toolchain].scheme(options.quantized), target.toolchain, target.form
