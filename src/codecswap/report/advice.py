"""Recommend an exact replacement if a student loses quality, for the page and the terminal."""

import shlex
from dataclasses import dataclass
from typing import Any

from codecswap.config import ZOO
from codecswap.report.measurements import NEGLIGIBLE, Comparison
from codecswap.report.texts import Text, text
from codecswap.swaps import SWAPS

FULL_SIZE = 128
"""Smallest N of a codec that is called full-size: the zoo has 128 and 192."""


@dataclass(frozen=True)
class Advice:
    """A recommendation."""

    sentences: list[Text]
    command: str
    """Command line that writes the decoder with the smallest loss."""


def advise(comparison: Comparison, codec: dict[str, Any]) -> Advice | None:
    """Name the untrained replacements that lose less than the student did on the same pictures.

    Args:
        comparison: includes measurements of the exact replacements.
        codec: values of ``teacher``, ``model``, ``quality`` and ``metric`` of the run.

    Returns: None if the student loses nothing, or no replacement loses less.
    """
    teacher = comparison.teacher.mean()["psnr"]
    lost = teacher - comparison.student.mean()["psnr"]
    losses = {name: teacher - result.mean()["psnr"] for name, result in comparison.exact.items()}
    better = {name: loss for name, loss in losses.items() if loss < lost - NEGLIGIBLE}
    if lost < NEGLIGIBLE or not better:
        return None
    sentences = [text("advice_same_pictures", count=str(len(comparison.teacher.coded)))]
    for name, loss in better.items():
        values = {
            "name": name,
            "operators": ", ".join(SWAPS[name].operators),
            "decibels": f"{loss:.2f}",
            "psnr": f"{teacher - loss:.2f}",
        }
        sentences.append(text("advice_nothing" if loss < NEGLIGIBLE else "advice_less", **values))
    checkpoint = comparison.checkpoint
    if not SWAPS[checkpoint.replacement].exact and comparison.student.same_latents:
        size = "full" if checkpoint.student.N >= FULL_SIZE else "small"
        sentences.append(text(f"advice_reach_{size}", name=checkpoint.replacement))
    sentences.append(text("advice_do"))
    return Advice(sentences, export_command(codec, min(better, key=lambda name: round(better[name], 2))))


def export_command(codec: dict[str, Any], replacement: str, output: str = "codec") -> str:
    """The command line that writes a teacher with a replacement, e.g. ``codecswap export --teacher tiny ...``."""
    if codec.get("teacher"):
        named = ["--teacher", str(codec["teacher"])]
    else:
        named = ["--model", str(codec["model"])] if codec.get("model", ZOO) != ZOO else []
        named += ["--quality", str(codec.get("quality", 8)), "--metric", str(codec.get("metric", "mse"))]
    return shlex.join(["codecswap", "export", *named, "--replacement", replacement, "--output", output])
