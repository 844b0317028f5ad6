"""Choose the gain with which a picture takes a given number of bytes."""

import math
from collections.abc import Callable

from codecswap.entropy.rates import Rates
from codecswap.errors import UserError

ENCODINGS = 6
"""Most encodings of the latents."""
CLOSE = 0.02
"""A file that is smaller by at most this share is accepted."""
AIM = 0.6 * CLOSE
"""Share below the size that the search aims at, so that small errors of the prediction stay on the right side."""

SLOPE = 0.8
"""Typical slope of the logarithm of the size over that of the gain."""


def encode_to_size(encode: Callable[[float], bytes], rates: Rates, most_bytes: int) -> bytes:
    """The largest file of at most ``most_bytes`` that is found, within 2 % of it where the codec's range of gains allows.

    The logarithm of the size is close to a linear function of the gain's logarithm: each step interpolates between the closest
    sizes below and above. The latents are encoded at most `ENCODINGS` times.

    Args:
        encode: encodes the picture at a gain.
        rates: the codec's.

    Raises:
        UserError: at the smallest gain the file is larger.
    """
    least, most = math.log(rates.gains[0]), math.log(rates.gains[-1])
    aim = math.log(max(1.0, most_bytes * (1 - AIM)))
    low, high = least, most  # closest places whose files are small enough, and too large
    known: list[tuple[float, float]] = []  # logarithms of gain and size
    best: bytes | None = None
    place = (least + most) / 2
    for left in range(ENCODINGS, 0, -1):
        if best is None and left == 1:
            place = least
        gain = math.exp(place) if least < place < most else rates.gains[0 if place <= least else -1]
        found = encode(gain)
        known.append((place, math.log(len(found))))
        if len(found) <= most_bytes:
            best, low = found, place
            if place >= most or len(found) >= (1 - CLOSE) * most_bytes:
                break
        elif place <= least:
            raise UserError(
                f"The smallest file that this codec can make of the picture has {len(found):,} bytes, at gain "
                f"{rates.gains[0]:.4g}, more than {most_bytes:,}: ask for more, or take a codec of fewer bits."
            )
        else:
            high = place
        place = _next(known, aim)
        if {low, high} <= {one[0] for one in known}:  # both are measured: stay between them
            edge = 0.05 * (high - low)
            place = min(max(place, low + edge), high - edge)
        place = min(max(place, least), most)
    assert best is not None
    return best


def _next(known: list[tuple[float, float]], aim: float) -> float:
    """Where a straight line through the two points whose sizes are closest to the aim has that size."""
    first, *others = sorted(known, key=lambda one: abs(one[1] - aim))
    second = next((one for one in others if one[0] != first[0]), None)
    slope = SLOPE if second is None else (first[1] - second[1]) / (first[0] - second[0])
    return first[0] + (aim - first[1]) / min(max(slope, SLOPE / 16), SLOPE * 4)
