"""Which replacement does this user need? The three side by side, measured on this teacher."""

from importlib.resources import as_file, files

import torch
from torch import Tensor, nn

from codecswap.codecs.protocol import Codec, encode
from codecswap.codecs.source import Teacher
from codecswap.config import AdviseOptions
from codecswap.console import say, show_table, track
from codecswap.data.discovery import list_pictures, position
from codecswap.data.transforms import first_readable
from codecswap.errors import UserError
from codecswap.layers.gdn import GDN
from codecswap.layers.upsampling import SubpixelConv2d, UpsampleConv2d
from codecswap.metrics import psnr, to_8_bits
from codecswap.swaps.apply import swap
from codecswap.swaps.calibrate import calibrate

CHOICES = ("transposed", "subpixel", "masked", "upsample")
"""What a decoder's upsampling can be made of; ``transposed`` is the teacher as it is."""
OPERATORS = {
    "transposed": ("ConvTranspose",),
    "subpixel": ("Conv", "DepthToSpace"),
    "masked": ("Resize", "Mul", "Conv"),
    "upsample": ("Resize", "Conv"),
}
"""ONNX operators of the upsampling layers."""
IGDN_OPERATORS = ("Conv", "Mul", "Sqrt")
"""ONNX operators of the inverse GDN between them."""


def multiply_adds(decoder: nn.Module, *, folded: bool = True) -> float:
    """Multiply-adds of a synthesis transform per pixel of the picture, biases left out.

    Args:
        decoder: a ``g_s`` of layers that each double the side of what they get, with GDNs between them.
        folded: count upsample and masked layers as they train and export at low resolution, not at full resolution.
    """
    doublings = sum(isinstance(m, UpsampleConv2d | SubpixelConv2d | nn.ConvTranspose2d) for m in decoder.children())
    total, share = 0.0, 4.0**-doublings  # positions per pixel where the latents are
    for layer in decoder.children():
        if isinstance(layer, GDN):
            total += share * layer.gamma.numel()
        elif isinstance(layer, nn.ConvTranspose2d):
            total, share = total + share * layer.weight.numel(), 4 * share
        elif isinstance(layer, SubpixelConv2d):
            total, share = total + share * layer.conv.weight.numel(), 4 * share
        elif isinstance(layer, UpsampleConv2d):
            weight = layer.folded_weight() if folded else layer.conv.weight
            total, share = total + share * weight.numel() * (1 if folded else 4), 4 * share
    return total


def cheapest_exact(costs: dict[str, float], accepted: set[str] | None) -> str | None:
    """The exact choice with the fewest multiply-adds of those whose operators are all accepted (None: all are)."""
    possible = [name for name in costs if name != "upsample" and (accepted is None or set(OPERATORS[name]) <= accepted)]
    return min(possible, key=lambda name: costs[name], default=None)


@torch.no_grad()
def main(options: AdviseOptions, typed: set[str]) -> int:
    """``codecswap advise``: measure, print the table, and say what to do."""
    source = Teacher.of(options)
    teacher = source.load()
    calibration, measured = _halves(options.images)
    seen, latents = encode(teacher, calibration), encode(teacher, measured)
    wanted = teacher.g_s(latents)
    rows, costs, lost = [], {}, 0.0
    students: dict[str, Codec] = {name: swap(teacher, name)[0] for name in CHOICES[1:]}
    calibrate(teacher, students["upsample"], seen)
    for name in track("Compare", CHOICES, unit="choices"):
        student = students.get(name, teacher)
        shown = student.g_s(latents)
        score = psnr(to_8_bits(shown), measured).mean().item()
        lost = psnr(to_8_bits(wanted), measured).mean().item() - score
        costs[name] = multiply_adds(student.g_s)
        plain = multiply_adds(student.g_s, folded=False)
        exact = "the teacher" if name == "transposed" else f"yes, {(shown - wanted).abs().max().item():.0e}"
        rows.append(
            [
                name,
                exact if name != "upsample" else "no",
                f"{score:.2f}",
                f"{costs[name] / 1e3:.1f}" + (f" ({plain / 1e3:.1f} plain)" if plain > costs[name] else ""),
                ", ".join(OPERATORS[name]),
                "none" if name != "upsample" else "distil + fine-tune",
            ]
        )
    title = f"{source.name}, measured on {len(measured)} pictures"
    columns = ["--replacement", "exact?", "start, dB", "10^3 multiply-adds/pixel", "ONNX operators", "training"]
    show_table(title, columns, rows)
    say(f"The inverse GDNs between them need {', '.join(IGDN_OPERATORS)}.")
    _recommend(costs, options.operators, lost)
    return 0


def _recommend(costs: dict[str, float], operators: str | None, lost: float) -> None:
    accepted = {name.strip() for name in operators.split(",")} if operators else None
    best = cheapest_exact(costs, accepted)
    if accepted is not None and (missing := sorted(set(IGDN_OPERATORS) - accepted)):
        say(f"Whatever you choose, this target lacks {', '.join(missing)} for the inverse GDNs.")
    if accepted is None:
        say(
            "subpixel and masked equal the teacher, untrained: use subpixel where the target has DepthToSpace, masked "
            "where it has Resize and Mul. Name what it has with --operators, and the cheapest exact choice is named here."
        )
    elif best == "transposed":
        say("Keep the transposed convolutions: the target takes them, and nothing exact is cheaper.")
    elif best:
        say(f"Use --replacement {best}: exact, nothing to train, and the cheapest that the target takes.")
    elif set(OPERATORS["upsample"]) <= (accepted or set()):
        say(
            f"Only --replacement upsample runs on this target: it starts {lost:.2f} dB below the teacher. Distil and fine-tune "
            "it, or train the encoder too (--unfreeze_all) if old bitstreams need not decode."
        )
    else:
        say(
            "None of the four runs on this target: its list has neither ConvTranspose, nor Conv with Resize or DepthToSpace."
        )


def _halves(images: str | None) -> tuple[Tensor, Tensor]:
    """Crops to calibrate on and crops to measure on, each ``(n, 3, 224, 224)``; by default the package's photographs."""
    if images is None:
        with as_file(files("codecswap") / "assets" / "photos") as photos:
            sides = [list_pictures(photos / side, "") for side in ("train", "val")]
            return first_readable(sides[0], len(sides[0]))[0], first_readable(sides[1], len(sides[1]))[0]
    paths = sorted(list_pictures(images, "--images"), key=position)
    crops, _ = first_readable(paths, 512)
    if len(crops) < 2:
        raise UserError(f"{images} has fewer than two pictures that can be read: half calibrates, half measures.")
    return crops[::2], crops[1::2]
