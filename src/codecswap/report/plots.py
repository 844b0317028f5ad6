"""Plots as SVG with real text, in the page's colors, in a wide and a narrow (phone) version."""

import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from codecswap.report.texts import Text, attributes

SIZES = {"wide": (560, 300), "narrow": (350, 250)}
"""Renderings by the CSS class that shows one of them: width and height in CSS pixels."""
FONT = 12
"""Size of text, in CSS pixels."""
COLORS = {
    "#000001": "var(--ink-soft)",
    "#000002": "var(--line)",
    "#010101": "var(--student)",
    "#010102": "var(--teacher)",
    "#010103": "var(--third)",
    "#010104": "var(--jpeg)",
    "#010105": "var(--webp)",
    "#010106": "var(--avif)",
    "#010107": "var(--published)",
}
"""Placeholder colors for matplotlib, and the page's colors that replace them (light and dark theme)."""
_STAND_IN = {color.removeprefix("var(--").removesuffix(")"): code for code, color in COLORS.items()}
DASHES = {"solid": (None, None), "dashed": (6, 4), "dotted": (1.5, 3)}


@dataclass(frozen=True)
class Line:
    """One curve, or one point."""

    name: Text | str
    color: str
    """Name of the color in the page's style sheet."""
    x: Sequence[float]
    y: Sequence[float]
    dash: str = "solid"
    marker: str = ""
    """``o``, ``s``, ``^``, ``D``, ``*`` or none."""

    @property
    def finite(self) -> list[tuple[float, float]]:
        """Points with finite values."""
        points = zip(self.x, self.y, strict=True)
        return [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]


@dataclass(frozen=True)
class Plot:
    """A plot with title, legend and table of values."""

    key: str
    """Unique on the page."""
    title: Text
    described: Text
    """Text description, for screen readers."""
    lines: list[Line]
    across: Text
    """Label of the horizontal axis."""
    unit: str = ""
    """Unit of the vertical axis."""
    digits: int = 2
    """Decimals in the table."""
    borders: list[float] = field(default_factory=list)
    """Positions of the borders between stages."""

    @property
    def empty(self) -> bool:
        """Whether there is nothing to draw."""
        return not any(line.finite for line in self.lines)

    @property
    def drawings(self) -> Markup:
        """Both renderings."""
        return Markup("").join(self._draw(name, *size) for name, size in SIZES.items())

    @property
    def table(self) -> list[tuple[str, list[str]]]:
        """Table of values: x, and a cell per line."""
        places = sorted({x for line in self.lines for x, _ in line.finite})
        values = [dict(line.finite) for line in self.lines]
        return [
            (f"{x:g}" if x == int(x) else f"{x:.3f}", [f"{v[x]:.{self.digits}f}" if x in v else "" for v in values])
            for x in places
        ]

    def _draw(self, name: str, width: int, height: int) -> Markup:
        style: Any = {
            "svg.fonttype": "none",
            "svg.hashsalt": f"{self.key}-{name}",
            "font.size": FONT,
            "axes.edgecolor": _STAND_IN["line"],
            "axes.labelcolor": _STAND_IN["ink-soft"],
            "xtick.color": _STAND_IN["ink-soft"],
            "ytick.color": _STAND_IN["ink-soft"],
            "text.color": _STAND_IN["ink-soft"],
            "grid.color": _STAND_IN["line"],
        }
        with rc_context(style):
            figure = Figure(figsize=(width / 72, height / 72), dpi=72, layout="constrained")
            axes = figure.add_subplot()
            for line in self.lines:
                self._draw_line(axes, line)
            for border in self.borders:
                axes.axvline(border, color=_STAND_IN["ink-soft"], linewidth=1, dashes=(2, 3))
            axes.grid(linewidth=0.8)
            axes.set_axisbelow(True)
            axes.spines[["top", "right"]].set_visible(False)
            axes.locator_params(axis="x", nbins=7 if name == "wide" else 5)
            axes.ticklabel_format(axis="x", style="plain")
            if max((abs(y) for line in self.lines for _, y in line.finite), default=1) < 0.01:
                axes.yaxis.set_major_formatter(_short)
            axes.set_title(self.unit, loc="left", fontsize=FONT)
            file = io.StringIO()
            figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
        return self._on_the_page(file.getvalue(), name)

    @staticmethod
    def _draw_line(axes: Axes, line: Line) -> None:
        points = line.finite
        alone = len(points) == 1
        axes.plot(
            [x for x, _ in points],
            [y for _, y in points],
            color=_STAND_IN[line.color],
            linewidth=2,
            dashes=DASHES[line.dash],
            marker=line.marker or ("o" if alone else ""),
            markersize=10 if alone else 5,
        )

    def _on_the_page(self, drawn: str, name: str) -> Markup:
        """Convert matplotlib's SVG for embedding, with the page's font and colors."""
        body = drawn[drawn.index("<defs>") : drawn.rindex("</svg>")]
        body = re.sub(r"<(metadata|style)\b.*?</\1>", "", body, flags=re.DOTALL)
        body = re.sub(r"\bid=\"([\w.]+)\"", rf'id="{self.key}-{name}-\1"', body)
        body = re.sub(r"(url\(|href=\")#([\w.]+)", rf"\1#{self.key}-{name}-\2", body)
        body = re.sub(r" font-family: [^;\"]*;", "", body)
        for stand_in, color in COLORS.items():
            body = body.replace(stand_in, color)
        width, height = SIZES[name]
        head = Markup(
            '<svg class="{0}" viewBox="0 0 {1} {2}" role="img" aria-labelledby="{3}-{0}-title {3}-{0}-described">'
            '<title id="{3}-{0}-title" {4}>{5}</title><desc id="{3}-{0}-described" {6}>{7}</desc>'
        ).format(
            name,
            width,
            height,
            self.key,
            attributes("text", self.title),
            self.title.to("en"),
            attributes("text", self.described),
            self.described.to("en"),
        )
        return head + Markup(body) + Markup("</svg>")


def _short(value: float, place: float | None = None) -> str:
    """Short text for a small number: 0.00015 is 1.5e-4."""
    digits, exponent = f"{value:.2e}".split("e")
    return f"{float(digits):g}e{int(exponent)}" if value else "0"


def legend_marker(line: Line) -> Markup:
    """Legend marker of a line."""
    dash = {"solid": "none", "dashed": "6 4", "dotted": "1.5 3"}[line.dash]
    shapes = {
        "": "",
        "o": '<circle cx="15" cy="6" r="3.5"/>',
        "s": '<rect x="11.5" y="2.5" width="7" height="7"/>',
        "^": '<path d="M15 1.5 19 9.5H11z"/>',
        "D": '<path d="M15 1 20 6 15 11 10 6z"/>',
        "*": '<path d="M15 0l1.6 4 4.4.3-3.4 2.8 1.1 4.2L15 9l-3.7 2.3 1.1-4.2L9 4.3l4.4-.3z"/>',
    }
    return Markup(
        '<svg class="legend-marker" viewBox="0 0 30 12" aria-hidden="true" style="color: var(--{})">'
        '<path d="M0 6H30" fill="none" stroke="currentColor" stroke-width="2" stroke-dasharray="{}"/>'
        '<g fill="currentColor">{}</g></svg>'
    ).format(Markup(line.color), Markup(dash), Markup(shapes[line.marker]))
