"""Format numbers for the report; a missing value is a dash."""

import math


def number(value: float | None, digits: int, unit: str = "") -> str:
    """A figure with its unit."""
    if value is None or math.isnan(value):
        return "–"
    return "∞" if math.isinf(value) else f"{value:.{digits}f}{unit}"


def signed(value: float, digits: int, unit: str = "") -> str:
    """A difference with its sign (a typographic minus); zero has none."""
    shown = number(abs(value), digits, unit)
    if math.isnan(value) or float(f"{value:.{digits}f}") == 0:
        return shown
    return ("−" if value < 0 else "+") + shown


def duration(seconds: float) -> str:
    """Hours, minutes and seconds."""
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}"
