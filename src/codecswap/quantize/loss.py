"""What quantization loses, and when that is too much to keep silent about."""

from dataclasses import dataclass

MOST_DECIBELS, MOST_BITS = 1.0, 0.05
"""A loss beyond these (PSNR in dB, share of the bits) is a failure."""
BAD_LOSS = 3
"""Exit code of commands whose files lose more."""


@dataclass(frozen=True)
class Loss:
    """Quantized against float, on pictures that were not calibrated on."""

    decibels: float
    """PSNR that is lost, positive."""
    bits: float = 0.0
    """Bits that are added, as a share of the float codec's."""

    @property
    def acceptable(self) -> bool:
        """Whether it is within `MOST_DECIBELS` and `MOST_BITS`; not if it is no number."""
        return self.decibels <= MOST_DECIBELS and self.bits <= MOST_BITS

    def __str__(self) -> str:
        if not self.decibels < float("inf"):
            return "gives values that are no numbers"
        more = f" and takes {self.bits:.1%} more bits" if self.bits >= 0.0005 else ""
        return f"loses {self.decibels:.2f} dB{more}"


def complaint(what: str, loss: Loss, reason: str, remedies: list[str]) -> str:
    """One line about a loss that is not acceptable.

    Args:
        what: what was written, e.g. ``The encoder in w8a8``.
        reason: where most of it comes from, a clause; empty if unknown.
        remedies: what to do, clauses.
    """
    return (
        f"{what} {loss}{f': {reason}' if reason else ''} (more than {MOST_DECIBELS:g} dB or {MOST_BITS:.0%} of the bits is a "
        f"failure). The files stay; do not use them. Try {', or '.join(remedies)}."
    )
