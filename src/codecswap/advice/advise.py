"""Measure all replacements on one codec, and recommend one."""

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.resources import as_file, files

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from codecswap.codecs.protocol import Codec, encode
from codecswap.config import GdnOptions
from codecswap.data.discovery import list_pictures, position
from codecswap.data.transforms import first_readable
from codecswap.errors import UserError
from codecswap.graph.lower import lower
from codecswap.graph.trace import open_shape, trace
from codecswap.layers.gdn import GDN
from codecswap.layers.upsampling import UpsampleConv2d
from codecswap.metrics import psnr, to_8_bits
from codecswap.swaps import GDN_SWAPS, SWAPS, UNCHANGED, replacing
from codecswap.swaps.apply import has_gdn, swap
from codecswap.swaps.calibrate import calibrate
from codecswap.swaps.closed_form import measure, swap_and_fit
from codecswap.targets.target import load_target

TRANSPOSED = "transposed"
"""Name of the choice without replacement."""
OPERATORS = {TRANSPOSED: ("ConvTranspose",)} | {swap.name: swap.operators for swap in replacing(nn.ConvTranspose2d)}
"""ONNX operators of each choice for the upsampling layers."""
GDN_OPERATORS = {UNCHANGED: ("Conv", "Mul", "Sqrt")} | {
    swap.name: swap.operators for swap in GDN_SWAPS.values() if not swap.trained
}
"""ONNX operators of each choice for inverse GDNs that needs no training."""


@dataclass(frozen=True)
class Choice:
    """Measurements of one replacement, before training."""

    name: str
    """Value of ``--replacement`` (`TRANSPOSED`: unchanged) or ``--gdn``."""
    exact: bool
    """It equals the teacher up to rounding."""
    operators: tuple[str, ...]
    """ONNX operators of these layers."""
    lost: float
    """Loss in dB against the teacher on held-out pictures; for a GDN including the change of the bits."""
    psnr: float
    """PSNR of the decoder against the pictures, in dB."""
    error: float
    """Largest absolute difference from the teacher's reconstruction, for pictures in [0, 1]."""
    multiply_adds: float
    """Multiply-adds of the whole decoder per pixel of the picture."""
    unfolded: float
    """Multiply-adds if layers run at full resolution, as Resize and Conv."""
    pieces: int | None = None
    """Size of a GDN swap, if it has sizes."""


@dataclass(frozen=True)
class Advice:
    """Result of `advise`."""

    pictures: int
    """Number of pictures measured on."""
    upsampling: tuple[Choice, ...]
    """Choices for transposed convolutions."""
    gdn: tuple[Choice, ...]
    """Choices for inverse GDNs without training; empty for a codec without GDNs."""
    other: dict[str, str]
    """ONNX operators of all other layers of the decoder, each with the first layer that needs it."""
    accepted: frozenset[str] | None
    """ONNX operators that the target supports; None if no target was named."""
    codecs: dict[str, Codec]
    """The teacher and its students, by the names of ``upsampling``."""
    refused: tuple[str, ...] = ()
    """Why a replacement that is not exact is not among them, as sentences."""

    @property
    def replacement(self) -> str | None:
        """The exact choice with the fewest multiply-adds that the target supports; None if there is none."""
        return cheapest_exact({choice.name: choice.multiply_adds for choice in self.upsampling}, self.accepted)

    def sentences(self) -> list[str]:
        """Recommendations, as sentences."""
        return [*self.refused, *self._lacking(), self._recommendation()]

    def _lacking(self) -> Iterable[str]:
        if self.accepted is None:
            return
        if self.gdn and (missing := sorted(set(GDN_OPERATORS[UNCHANGED]) - self.accepted)):
            others = [name for name, needed in GDN_OPERATORS.items() if set(needed) <= self.accepted]
            instead = f"add --gdn {others[0]}" if others else "and no --gdn goes without them"
            yield f"Whatever you choose, this target lacks {', '.join(missing)} for the inverse GDNs: {instead}."
        if lacking := {operator: layer for operator, layer in self.other.items() if operator not in self.accepted}:
            where = ", ".join(f"{operator} (first in {layer})" for operator, layer in sorted(lacking.items()))
            yield f"Whatever you choose, this target lacks operators of layers that no swap replaces: {where}."

    def _recommendation(self) -> str:
        exact = [swap for swap in replacing(nn.ConvTranspose2d) if swap.exact]
        needed = [" and ".join(operator for operator in swap.operators if operator != "Conv") for swap in exact]
        if self.accepted is None:
            first, *others = (
                f"{swap.name} where the target has {need}" for swap, need in zip(exact, needed, strict=True)
            )
            also = "".join(f", {other.replace('the target', 'it')}" for other in others)
            return (
                f"{' and '.join(swap.name for swap in exact)} equal the teacher, untrained: use {first}{also}. Name what it "
                "has with --operators, and the cheapest exact choice is named here."
            )
        if (best := self.replacement) == TRANSPOSED:
            return "Keep the transposed convolutions: the target takes them, and nothing exact is cheaper."
        if best:
            return f"Use --replacement {best}: exact, nothing to train, and the cheapest that the target takes."
        if runs := [choice for choice in self.upsampling if set(choice.operators) <= self.accepted]:
            return (
                f"Only --replacement {' or '.join(choice.name for choice in runs)} runs on this target: it starts "
                f"{runs[0].lost:.2f} dB below the teacher. Distill and fine-tune it, or train the encoder too (--unfreeze_all) "
                "if old bitstreams need not decode."
            )
        return "None of these runs on this target: its list has neither ConvTranspose, nor Conv with Resize or DepthToSpace."


@torch.no_grad()
def advise(
    codec: Codec,
    target: str | None = None,
    *,
    operators: Iterable[str] | None = None,
    images: str | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Advice:
    """Measure every replacement of a codec's transposed convolutions and of its inverse GDNs, without training.

    Args:
        codec: a teacher with transforms of any shape.
        target: name of an NPU, as for ``codecswap compile``; its list of ONNX operators is used.
        operators: supported ONNX operators, instead of a target.
        images: folder of pictures, half for calibration and half for measuring; None: photographs inside the package.
        progress: called with the number of choices measured and their total.

    Returns: the choices with what they lose (dB) and cost (multiply-adds per pixel), and what to do in words.

    Raises:
        UserError: there is no such target, the folder has too few pictures, or a layer has no ONNX operator.
    """
    accepted = frozenset(load_target(target).operators) if target else None
    accepted = frozenset(operators) if operators is not None else accepted
    other = other_operators(codec)
    calibration, measured = _halves(images)
    seen, latents = encode(codec, calibration), encode(codec, measured)
    names = [*OPERATORS, *(GDN_OPERATORS if has_gdn(codec) else ())]
    codecs: dict[str, Codec] = {}
    upsampling, gdns, refused = [], [], []

    def choice(made: Codec, name: str, exact: bool, needed: tuple[str, ...], pieces: int | None = None) -> Choice:
        shown = made.g_s(latents)
        score = psnr(to_8_bits(shown), measured).mean().item()
        lost = measure(codec, made, measured.split(8)).decibels
        error = (shown - wanted).abs().max().item()
        cost, unfolded = (multiply_adds(made.g_s, latents[:1], folded=folded) for folded in (True, False))
        return Choice(name, exact, needed, lost, score, error, cost, unfolded, pieces)

    wanted = codec.g_s(latents)
    for name, needed in OPERATORS.items():
        try:
            made = codec if name == TRANSPOSED else swap(codec, name)[0]
        except UserError as error:
            if is_exact(name):
                raise
            refused.append(str(error))
            continue
        if not is_exact(name):
            calibrate(codec, made, seen)
        codecs[name] = made
        upsampling.append(choice(made, name, is_exact(name), needed))
        progress(len(upsampling), len(names))
    for name in names[len(OPERATORS) :]:
        made, _, pieces = swap_and_fit(codec, name, "decoder", calibration, tolerance=GdnOptions.gdn_tolerance)
        exact = name == UNCHANGED or GDN_SWAPS[name].exact
        gdns.append(choice(made, name, exact, GDN_OPERATORS[name], pieces))
        progress(len(upsampling) + len(gdns), len(names))
    return Advice(len(measured), tuple(upsampling), tuple(gdns), other, accepted, codecs, tuple(refused))


def multiply_adds(decoder: nn.Module, latents: Tensor, *, folded: bool = True) -> float:
    """Multiply-adds of a synthesis transform (convolutions and matrix products) per pixel of the picture.

    Args:
        decoder: a module tree of any shape.
        latents: ``(B, M, h, w)``, of any values.
        folded: count upsample and masked layers at low resolution, as they are trained and exported.
    """
    decoder = copy.deepcopy(decoder).to("meta")
    for layer in decoder.modules():
        if isinstance(layer, UpsampleConv2d):
            layer.fold = folded
    with FlopCounterMode(display=False) as counter:
        picture = decoder(latents.to("meta"))
    counts = counter.get_flop_counts()["Global"]
    operations = sum(
        count for operator, count in counts.items() if operator != torch.ops.aten.mm
    )  # which folds kernels
    return operations / 2 / picture[:, 0].numel()  # the counter counts a multiply-add as two


def other_operators(codec: Codec) -> dict[str, str]:
    """ONNX operators of a decoder's layers that no swap replaces, each with the first layer that needs it.

    Raises:
        UserError: a layer has no ONNX operator.
    """
    shape = open_shape("latents", codec.M, None)
    graph = trace(lower(codec.g_s), input="latents", shape=shape, output="picture", prefix="g_s")
    found: dict[str, str] = {}
    for step in graph.operations:
        if not isinstance(codec.get_submodule(step.layer), GDN | nn.ConvTranspose2d):
            found.setdefault(step.operator, step.layer)
    return found


def is_exact(choice: str) -> bool:
    """Whether a choice is exact."""
    return choice == TRANSPOSED or SWAPS[choice].exact


def cheapest_exact(costs: dict[str, float], accepted: frozenset[str] | None) -> str | None:
    """The exact choice with the fewest multiply-adds whose operators are all accepted (None: all are)."""
    possible = [name for name in costs if is_exact(name) and (accepted is None or set(OPERATORS[name]) <= accepted)]
    return min(possible, key=lambda name: costs[name], default=None)


def _halves(images: str | None) -> tuple[Tensor, Tensor]:
    """Crops for calibration and crops for measuring, each ``(n, 3, 224, 224)``; by default the package's photographs."""
    if images is None:
        with as_file(files("codecswap") / "assets" / "photos") as photos:
            sides = [list_pictures(photos / side, "") for side in ("train", "val")]
            return first_readable(sides[0], len(sides[0]))[0], first_readable(sides[1], len(sides[1]))[0]
    paths = sorted(list_pictures(images, "--images"), key=position)
    crops, _ = first_readable(paths, 512)
    if len(crops) < 2:
        raise UserError(f"{images} has fewer than two pictures that can be read: half calibrates, half measures.")
    return crops[::2], crops[1::2]
