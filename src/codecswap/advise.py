"""Which replacement does this user need? The three side by side, measured on this teacher."""

import copy
from importlib.resources import as_file, files

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from codecswap.codecs.protocol import Codec, encode
from codecswap.codecs.source import Teacher
from codecswap.config import AdviseOptions, GdnOptions
from codecswap.console import say, show_table, track
from codecswap.data.discovery import list_pictures, position
from codecswap.data.transforms import first_readable
from codecswap.errors import UserError, how_to_install
from codecswap.layers.upsampling import UpsampleConv2d
from codecswap.metrics import psnr, to_8_bits
from codecswap.swaps import GDN_SWAPS, KEPT, SWAPS, replacing
from codecswap.swaps.apply import swap
from codecswap.swaps.calibrate import calibrate
from codecswap.swaps.closed_form import measure, swap_and_fit

TRANSPOSED = "transposed"
"""The teacher as it is."""
OPERATORS = {TRANSPOSED: ("ConvTranspose",)} | {swap.name: swap.operators for swap in replacing(nn.ConvTranspose2d)}
"""What a decoder's upsampling can be made of, and the ONNX operators of these layers."""
GDN_OPERATORS = {KEPT: ("Conv", "Mul", "Sqrt")} | {
    swap.name: swap.operators for swap in GDN_SWAPS.values() if not swap.trained
}
"""What the inverse GDNs between them can be made of without training, and the ONNX operators."""


def multiply_adds(decoder: nn.Module, latents: Tensor, *, folded: bool = True) -> float:
    """Multiply-adds of a synthesis transform per pixel of the picture, those of its convolutions.

    Args:
        latents: ``(B, M, h, w)``, of any values.
        folded: count upsample and masked layers as they train and export at low resolution, not at full resolution.
    """
    decoder = copy.deepcopy(decoder).to("meta")
    for layer in decoder.modules():
        if isinstance(layer, UpsampleConv2d):
            layer.fold = folded
    with FlopCounterMode(display=False) as counter:
        picture = decoder(latents.to("meta"))
    operations = counter.get_flop_counts()["Global"][torch.ops.aten.convolution]
    return operations / 2 / picture[:, 0].numel()  # it counts a multiplication and an addition as two


def is_exact(choice: str) -> bool:
    """Whether a choice equals the teacher."""
    return choice == TRANSPOSED or SWAPS[choice].exact


def cheapest_exact(costs: dict[str, float], accepted: set[str] | None) -> str | None:
    """The exact choice with the fewest multiply-adds of those whose operators are all accepted (None: all are)."""
    possible = [name for name in costs if is_exact(name) and (accepted is None or set(OPERATORS[name]) <= accepted)]
    return min(possible, key=lambda name: costs[name], default=None)


@torch.no_grad()
def main(options: AdviseOptions) -> int:
    """``codecswap advise``: measure, print the table, and say what to do."""
    source = Teacher.of(options)
    teacher = source.load()
    calibration, measured = _halves(options.images)
    seen, latents = encode(teacher, calibration), encode(teacher, measured)
    wanted = teacher.g_s(latents)
    at_best = psnr(to_8_bits(wanted), measured).mean().item()
    rows, costs, lost = [], {}, {}
    students: dict[str, Codec] = {name: swap(teacher, name)[0] for name in OPERATORS if name != TRANSPOSED}
    for student in students.values():
        calibrate(teacher, student, seen)
    for name in track("Compare", OPERATORS, unit="choices"):
        student = students.get(name, teacher)
        shown = student.g_s(latents)
        score = psnr(to_8_bits(shown), measured).mean().item()
        lost[name] = at_best - score
        costs[name] = multiply_adds(student.g_s, latents[:1])
        plain = multiply_adds(student.g_s, latents[:1], folded=False)
        exact = "the teacher" if name == TRANSPOSED else f"yes, {(shown - wanted).abs().max().item():.0e}"
        rows.append(
            [
                name,
                exact if is_exact(name) else "no",
                f"{score:.2f}",
                f"{costs[name] / 1e3:.1f}" + (f" ({plain / 1e3:.1f} plain)" if plain > costs[name] else ""),
                ", ".join(OPERATORS[name]),
                "none" if is_exact(name) else "distill + fine-tune",
            ]
        )
    title = f"{source.name}, measured on {len(measured)} pictures"
    columns = ["--replacement", "exact?", "start, dB", "10^3 multiply-adds/pixel", "ONNX operators", "training"]
    show_table(title, columns, rows)
    _show_gdn(teacher, calibration, measured)
    accepted = {name.strip() for name in options.operators.split(",")} if options.operators else None
    if options.target:
        try:
            from codecswap.compile.compare import compare
        except ModuleNotFoundError as error:
            raise UserError(f"--target needs {error.name}, which is not installed: {how_to_install('npu')}.") from None
        choices = {name: students.get(name, teacher) for name in OPERATORS}
        accepted = compare(choices, source.name, options.target, [name for name in OPERATORS if is_exact(name)])
        if accepted is None:
            return 0
    _recommend(costs, accepted, lost)
    return 0


def _show_gdn(teacher: Codec, calibration: Tensor, measured: Tensor) -> None:
    """The inverse GDNs' table: closed form, on the teacher's own decoder."""
    shape, rows = teacher.g_a(measured[:1]), []
    for name, operators in GDN_OPERATORS.items():
        made, _, pieces = swap_and_fit(teacher, name, "decoder", calibration, tolerance=GdnOptions.gdn_tolerance)
        lost = measure(teacher, made, measured.split(8)).decibels
        rows.append(
            [
                f"{name}, {pieces} pieces" if pieces else name,
                "the teacher" if name == KEPT else "yes" if GDN_SWAPS[name].exact else "no",
                f"{lost:.3f}",
                f"{multiply_adds(made.g_s, shape) / 1e3:.1f}",
                ", ".join(operators),
            ]
        )
    columns = ["--gdn", "exact?", "lost, dB", "10^3 multiply-adds/pixel, decoder", "ONNX operators"]
    show_table("The inverse GDNs between them, without training", columns, rows)


def _recommend(costs: dict[str, float], accepted: set[str] | None, lost: dict[str, float]) -> None:
    best = cheapest_exact(costs, accepted)
    if accepted is not None and (missing := sorted(set(GDN_OPERATORS[KEPT]) - accepted)):
        others = [name for name, needed in GDN_OPERATORS.items() if set(needed) <= accepted]
        instead = f"add --gdn {others[0]}" if others else "and no --gdn goes without them"
        say(f"Whatever you choose, this target lacks {', '.join(missing)} for the inverse GDNs: {instead}.")
    exact = [swap for swap in replacing(nn.ConvTranspose2d) if swap.exact]
    needed = [" and ".join(operator for operator in swap.operators if operator != "Conv") for swap in exact]
    if accepted is None:
        first, *others = (f"{swap.name} where the target has {need}" for swap, need in zip(exact, needed, strict=True))
        also = "".join(f", {other.replace('the target', 'it')}" for other in others)
        say(
            f"{' and '.join(swap.name for swap in exact)} equal the teacher, untrained: use {first}{also}. Name what it has "
            "with --operators, and the cheapest exact choice is named here."
        )
    elif best == TRANSPOSED:
        say("Keep the transposed convolutions: the target takes them, and nothing exact is cheaper.")
    elif best:
        say(f"Use --replacement {best}: exact, nothing to train, and the cheapest that the target takes.")
    elif runs := [name for name in lost if set(OPERATORS[name]) <= accepted]:
        say(
            f"Only --replacement {' or '.join(runs)} runs on this target: it starts {lost[runs[0]]:.2f} dB below the "
            "teacher. Distill and fine-tune it, or train the encoder too (--unfreeze_all) if old bitstreams need not decode."
        )
    else:
        say(
            "None of these runs on this target: its list has neither ConvTranspose, nor Conv with Resize or DepthToSpace."
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
