"""The chart of the docs: a probe's rate by the number of components, as SVG that light and dark pages can show."""

import math
from collections.abc import Iterable, Mapping
from html import escape
from typing import Final

WIDTH, HEIGHT = 760, 420
LEFT, RIGHT, TOP, BOTTOM = 64, 190, 48, 52
GREY: Final = "#7d8590"
"""Readable on white and on black, as the colours of the lines are."""

LINES: Final = {
    "raw": ("raw ASGI, constant bytes", GREY, "2 4"),
    "starlette": ("bare Starlette = 100 %", GREY, "7 4"),
    "short": ("otel_health, verdict alone", "#2da44e", ""),
    "routes": ("otel_health, every name", "#2da44e", "4 3"),
    "svcs": ("svcs", "#bf8700", ""),
    "probirka": ("probirka", "#8250df", ""),
    "pulsecheck": ("pulsecheck", "#1f83d6", ""),
    "fast-healthchecks": ("fast-healthchecks", "#d1490e", ""),
    "django-health-check": ("django-health-check", "#c94f9b", ""),
}
"""Each line's label, colour and dashes."""

Point = tuple[float, float]


def chart(table: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """Draw every kind's rate in percent of bare Starlette's; both axes are logarithmic.

    Args:
        table: For each number of components and kind, `of_starlette`.
    """
    numbers = sorted(table, key=int)
    shares = {
        kind: [(int(number), table[number][kind]["of_starlette"]) for number in numbers if kind in table[number]]
        for kind in LINES
    }
    lowest = min(share for points in shares.values() for _, share in points)
    decades = range(math.floor(math.log10(lowest)), 1)
    across = (0.0, math.log10(max(int(numbers[-1]), 10)))
    up = (float(decades[0]), math.log10(2.5))

    def place(number: float, share: float) -> Point:
        x = LEFT + (math.log10(number) - across[0]) / (across[1] - across[0]) * (WIDTH - LEFT - RIGHT)
        y = HEIGHT - BOTTOM - (math.log10(share) - up[0]) / (up[1] - up[0]) * (HEIGHT - TOP - BOTTOM)
        return round(x, 1), round(y, 1)

    parts = [_text((LEFT, 24), "A probe's rate in % of bare Starlette's constant answer", size=15)]
    for decade in decades:
        x, y = place(1, 10**decade)
        parts.append(f'<line x1="{x}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}" stroke="{GREY}" stroke-opacity=".25"/>')
        parts.append(_text((LEFT - 10, y + 4), f"{10 ** (decade + 2):g} %", anchor="end"))
    for number in numbers:
        x, _ = place(int(number), 1)
        parts.append(_text((x, HEIGHT - BOTTOM + 20), f"{int(number):,}", anchor="middle"))
    parts.append(_text(((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 10), "components", anchor="middle"))
    drawn = {kind: [place(*point) for point in points] for kind, points in shares.items() if points}
    heights = _spread({kind: points[-1][1] for kind, points in drawn.items()})
    for kind, points in drawn.items():
        label, colour, dashes = LINES[kind]
        path = " ".join(f"{x},{y}" for x, y in points)
        look = f'stroke="{colour}" stroke-width="{3 if label.startswith("otel") else 1.6}" stroke-dasharray="{dashes}"'
        parts.append(f'<polyline points="{path}" fill="none" {look}/>')
        parts.append(_text((points[-1][0] + 8, heights[kind] + 4), label, colour=colour))
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
            'font-family="system-ui, sans-serif" role="img">',
            "<title>A probe's rate by the number of components</title>",
            *parts,
            "</svg>\n",
        ]
    )


def _spread(heights: Mapping[str, float], apart: float = 16.0) -> dict[str, float]:
    """Labels that would cover each other, moved down."""
    placed: dict[str, float] = {}
    last = -math.inf
    for kind in sorted(heights, key=lambda kind: heights[kind]):
        last = placed[kind] = max(heights[kind], last + apart)
    return placed


def _text(at: Iterable[float], text: str, *, anchor: str = "start", size: int = 12, colour: str = GREY) -> str:
    x, y = at
    return f'<text x="{x:g}" y="{y:g}" fill="{colour}" font-size="{size}" text-anchor="{anchor}">{escape(text)}</text>'
