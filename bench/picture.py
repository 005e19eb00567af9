"""A picture of measured times: two bars for each job, to the median, with a line to the slowest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, LEFT, BAR, GAP, TOP = 760, 258, 16, 18, 44
STOCK, OURS = "#b8b5ad", "#4f43dd"
FONT = "font-family='system-ui, sans-serif' font-size='13'"


@dataclass(frozen=True)
class Pair:
    """The times of one job, in seconds.

    Attributes:
        label: What it is.
        stock: The median and the highest of the one.
        ours: Of the other.
    """

    label: str
    stock: tuple[float, float]
    ours: tuple[float, float]


def draw(title: str, pairs: Sequence[Pair]) -> str:
    """The picture as SVG."""
    scale = (WIDTH - LEFT - 70) / max(max(pair.stock[1], pair.ours[1]) for pair in pairs)
    height = TOP + len(pairs) * (2 * BAR + GAP) + 26
    parts = [
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {height}' role='img'>",
        f"<title>{escape(title)}</title>",
        f"<rect width='{WIDTH}' height='{height}' fill='white'/>",
        f"<text x='16' y='26' {FONT} font-weight='600'>{escape(title)}</text>",
    ]
    y = TOP
    for pair in pairs:
        middle = y + BAR + 5
        parts.append(
            f"<text x='{LEFT - 12}' y='{middle}' {FONT} text-anchor='end'>"
            f"{escape(pair.label)}</text>"
        )
        for (median, high), colour in ((pair.stock, STOCK), (pair.ours, OURS)):
            end, whisker = LEFT + scale * median, LEFT + scale * high
            parts += [
                f"<rect x='{LEFT}' y='{y}' width='{end - LEFT:.1f}' height='{BAR - 2}'"
                f" fill='{colour}'/>",
                f"<path d='M{end:.1f} {y + BAR / 2 - 1}H{whisker:.1f}' stroke='#333'/>",
                f"<text x='{whisker + 6:.1f}' y='{y + BAR - 4}' {FONT}>{median:.2f} s</text>",
            ]
            y += BAR
        y += GAP
    legend = "".join(
        f"<rect x='{x}' y='{y}' width='12' height='12' fill='{colour}'/>"
        f"<text x='{x + 18}' y='{y + 11}' {FONT}>{name}</text>"
        for x, colour, name in (
            (LEFT, STOCK, "Dagster's documented deployment"),
            (LEFT + 260, OURS, "this stack"),
        )
    )
    return "\n".join([*parts, legend, "</svg>"]) + "\n"
