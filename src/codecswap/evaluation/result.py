"""Results of an evaluation: each picture with each codec, and means over pictures."""

from dataclasses import dataclass, field
from typing import Literal

from codecswap.metrics.table import METRICS, mean_of_finite


@dataclass(frozen=True)
class Coded:
    """Result of one picture with one codec."""

    picture: str
    """The picture's name."""
    bpp: float
    """Bits per pixel, counted from the bytes."""
    scores: dict[str, float]
    """Metrics of the decoded picture against the original, by name; NaN: not defined."""
    encoding_time: float
    """Seconds from the picture in memory to its bytes."""
    decoding_time: float
    """Seconds from the bytes to the 8-bit picture in memory."""
    against_teacher: dict[str, float] | None = None
    """Metrics of the decoded picture against the teacher's, for students and folders; None without a teacher."""


@dataclass(frozen=True)
class CodecResult:
    """Results of one codec on all pictures."""

    name: str
    """Name in tables."""
    kind: Literal["teacher", "student", "exported", "anchor"]
    same_latents: bool | None = None
    """Whether a student's encoder and entropy model equal the teacher's bit for bit; None for other codecs."""
    same_entropy: bool | None = None
    """Whether a student's entropy model equals the teacher's, so that they can exchange files."""
    coded: list[Coded] = field(default_factory=list)
    """One per picture, in order."""
    curve: str = ""
    """Rate-distortion curve that this codec is a point of; empty: its own."""

    def mean(self) -> dict[str, float]:
        """Means over the pictures, each metric's as `codecswap.metrics.table.METRICS` says.

        Returns: each measured metric by its name, ``NAME_pictures`` (on how many it is defined) where it needs a smallest
            side, ``bpp``, ``encoding_time`` and ``decoding_time`` (seconds), and ``NAME_to_teacher`` where there is a
            teacher to compare with. NaN where a metric is defined on no picture.
        """
        means: dict[str, float] = {}
        for metric in METRICS.values():
            values = [one.scores[metric.name] for one in self.coded if metric.name in one.scores]
            if values or metric.load is None:
                means[metric.name] = metric.average(values)
            if values and metric.smallest_side > 1:
                means[f"{metric.name}_pictures"] = sum(value == value for value in values)
        for name in ("bpp", "encoding_time", "decoding_time"):
            means[name] = mean_of_finite([getattr(one, name) for one in self.coded])
        for metric in METRICS.values():
            against = [one.against_teacher for one in self.coded if one.against_teacher]
            if values := [scores[metric.name] for scores in against if metric.name in scores]:
                means[f"{metric.name}_to_teacher"] = metric.average(values)
        return means
