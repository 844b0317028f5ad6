"""Encoder and decoder as ONNX files that NPU converters read: few operators, one old opset, nothing dead."""

import copy
import warnings
from pathlib import Path
from typing import Literal

import onnx
import torch
from torch import Tensor, nn

from codecswap.codecs.protocol import Codec, HyperCodec
from codecswap.config import Form
from codecswap.errors import UserError
from codecswap.files import atomic_write
from codecswap.graph import onnx_graph as graph
from codecswap.graph.lower import lower

DecoderInput = Literal["latents", "symbols"]
"""What a decoder takes: rounded latents y_hat, or the integers ``y_hat - median`` that the entropy coder gives."""


class _Decoder(nn.Module):
    def __init__(self, g_s: nn.Module, medians: Tensor | None) -> None:
        super().__init__()
        self.medians: Tensor | None
        self.register_buffer("medians", medians)
        self.g_s = g_s

    def forward(self, x: Tensor) -> Tensor:
        return self.g_s(x if self.medians is None else x + self.medians)


class _HyperEncoder(nn.Module):
    def __init__(self, codec: HyperCodec) -> None:
        super().__init__()
        self.codec = codec

    def forward(self, y: Tensor) -> Tensor:
        return self.codec.hyper_latents(y)


class _Encoder(nn.Module):
    def __init__(self, g_a: nn.Module) -> None:
        super().__init__()
        self.g_a = g_a

    def forward(self, x: Tensor) -> Tensor:
        return self.g_a(x)


def export_decoder(
    codec: Codec,
    path: str | Path,
    *,
    opset: int = 13,
    height: int | None = None,
    width: int | None = None,
    form: Form = "native",
    input: DecoderInput = "latents",
) -> None:
    """Write the synthesis transform of a teacher or a student: ``(B, M, H/16, W/16) -> picture (B, 3, H, W)``.

    The picture's values are not clamped to [0, 1]. The codec is left as it is.

    Args:
        codec: on any device, float32.
        path: the file; it is replaced whole.
        opset: version of ONNX's operator set, 11 to 20.
        height, width: of the picture, in pixels, multiples of 16: fixed in the graph, with a batch of one. None: dynamic.
        form: ``native`` (ConvTranspose; Resize and Conv, with Mul by a constant mask between them for ``masked``; Conv
            and DepthToSpace for ``subpixel``), ``masked`` or ``subpixel``: every such layer rewritten, exactly.
        input: ``latents`` (rounded, y_hat) or ``symbols`` (the integers ``y_hat - median``, as floats).

    Raises:
        UserError: the form needs a fixed size or does not fit a layer; or the input is none of this codec.
    """
    size = latent_size(height, width, codec.factor)
    if input == "symbols" and codec.hyper_factor > 1:
        raise UserError(
            "--input symbols is for a factorized prior; this codec's symbols have means of their own: leave it out."
        )
    center = None
    if input == "symbols":
        center = torch.from_numpy(codec.entropy_tables().medians).view(1, -1, 1, 1)
    write_decoder(lower(codec.g_s, form, size), codec.M, path, opset=opset, size=size, input=input, center=center)


def export_encoder(
    codec: Codec,
    path: str | Path,
    *,
    opset: int = 13,
    height: int | None = None,
    width: int | None = None,
) -> None:
    """Write the analysis transform: ``picture (B, 3, H, W) in [0, 1] -> latents y (B, M, H/16, W/16)``, before rounding.

    Sides are multiples of 16; whoever feeds it pads. Arguments and errors as in `export_decoder`.
    """
    write_encoder(
        lower(codec.g_a), path, opset=opset, size=latent_size(height, width, codec.factor), factor=codec.factor
    )


def export_hyper_encoder(
    codec: HyperCodec, path: str | Path, *, opset: int = 13, height: int | None = None, width: int | None = None
) -> None:
    """Write the hyper-analysis: ``latents y (B, M, h, w) -> hyper-latents z (B, N, h/4, w/4)``, before rounding.

    Sides of the latents are multiples of 4. Arguments as in `export_decoder`.
    """
    size, factor = latent_size(height, width, codec.factor), codec.hyper_factor
    example = torch.zeros(1, codec.M, *(size or (2 * factor, 3 * factor)))
    axes = {
        "latents": {0: "batch", 2: "rows", 3: "columns"},
        "hyper_latents": {0: "batch", 2: "hyper_rows", 3: "hyper_columns"},
    }
    _export(_HyperEncoder(copy.deepcopy(codec).cpu()), example, Path(path), opset, axes, dynamic=size is None)


def write_decoder(
    g_s: nn.Module,
    channels: int,
    path: str | Path,
    *,
    opset: int,
    size: tuple[int, int] | None,
    input: str,
    center: Tensor | None = None,
) -> None:
    """Write a lowered synthesis transform (`codecswap.graph.lower.lower`) as it is.

    Args:
        channels: of its input.
        size: height and width of its input, in latents; None: dynamic.
        input: the input's name.
        center: ``(1, M, 1, 1)``, added to the input.
    """
    example = torch.zeros(1, channels, *(size or (4, 6)))
    axes = {input: {0: "batch", 2: "rows", 3: "columns"}, "picture": _PICTURE}
    _export(_Decoder(g_s.cpu(), center), example, Path(path), opset, axes, dynamic=size is None)


def write_encoder(g_a: nn.Module, path: str | Path, *, opset: int, size: tuple[int, int] | None, factor: int) -> None:
    """Write a lowered analysis transform as it is; ``size`` is that of its output, ``factor`` its pixels per latent."""
    example = torch.zeros(1, 3, *(factor * side for side in size or (4, 6)))
    axes = {"picture": _PICTURE, "latents": {0: "batch", 2: "rows", 3: "columns"}}
    _export(_Encoder(g_a.cpu()), example, Path(path), opset, axes, dynamic=size is None)


def latent_size(height: int | None, width: int | None, factor: int) -> tuple[int, int] | None:
    """A fixed size of pictures in latents of a codec's ``factor``; None where it is open."""
    return (height // factor, width // factor) if height and width else None


_PICTURE = {0: "batch", 2: "height", 3: "width"}
"""Names of a picture's axes."""


def _export(
    module: nn.Module, example: Tensor, path: Path, opset: int, axes: dict[str, dict[int, str]], *, dynamic: bool
) -> None:
    """Write a module with one input and one output, whose names and axes' names are ``axes``."""
    input, output = axes

    def write(beside: Path) -> None:
        with warnings.catch_warnings():  # the exporter announces its successor, which writes other opsets
            warnings.simplefilter("ignore")
            torch.onnx.export(
                module.eval(),
                (example,),
                str(beside),
                input_names=[input],
                output_names=[output],
                opset_version=opset,
                dynamic_axes=axes if dynamic else None,
                dynamo=False,
            )
        model = onnx.load(beside)
        _simplify(model)
        _check(model, path, opset)
        onnx.save(model, beside)

    with atomic_write(path) as beside:
        write(beside)


def _simplify(model: onnx.ModelProto) -> None:
    """Turn Constant nodes into stored tensors, equal ones into one, and take out Identity: not every converter reads them.

    The exporter keeps equal weights (zero biases, say) once and points at them with Identity; here each layer gets its own.
    """
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    stored: dict[bytes, str] = {}
    renamed: dict[str, str] = {}
    for node in list(model.graph.node):  # in topological order
        if node.op_type == "Constant":
            tensor = node.attribute[0].t
            content = tensor.SerializeToString()
            if content not in stored:
                stored[content] = f"constant.{len(stored)}"
                model.graph.initializer.add().CopyFrom(tensor)
                model.graph.initializer[-1].name = stored[content]
            renamed[node.output[0]] = stored[content]
        elif node.op_type == "Identity" and node.input[0] in weights:
            model.graph.initializer.add().CopyFrom(weights[node.input[0]])
            model.graph.initializer[-1].name = node.output[0]
        elif node.op_type == "Identity":
            renamed[node.output[0]] = renamed.get(node.input[0], node.input[0])
        else:
            node.input[:] = [renamed.get(name, name) for name in node.input]
            continue
        model.graph.node.remove(node)


def _check(model: onnx.ModelProto, path: Path, opset: int) -> None:
    """Hold a written graph against what was promised."""
    onnx.checker.check_model(model, full_check=True)
    if (written := graph.opset(model)) != opset:
        raise UserError(f"The exporter wrote opset {written} into {path}, not {opset}: name another --opset.")
    if unused := graph.dead(model):
        raise RuntimeError(f"{path} holds what no output depends on: {', '.join(unused)}")
