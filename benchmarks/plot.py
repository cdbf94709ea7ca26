"""Bars on a logarithmic scale, as SVG: times of machines against a peer's, which is the line at 1.

Text and rules have a colour that a reader's light or dark background both bear.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from math import ceil, floor, log10

from attrs import frozen

LEFT, WIDTH, BAR, GAP, TOP, RIGHT = 220, 460, 9, 10, 54, 60
COLOURS = ("#1f77b4", "#2ca02c", "#8c8c8c", "#d95f02", "#9467bd", "#17becf")
INK, RULE = "#7d7d7d", "#7d7d7d55"


@frozen
class Row:
    """A label, and a ratio for each machine that has one."""

    label: str
    ratios: Mapping[str, float]


def svg(title: str, machines: Sequence[str], rows: Sequence[Row]) -> str:
    """The picture.  ValueError without a ratio to show."""
    every = [ratio for row in rows for ratio in row.ratios.values()]
    if not every:
        raise ValueError("no ratios")
    low, high = min(-1, floor(log10(min(every)))), max(1, ceil(log10(max(every))))

    def x(ratio: float) -> float:
        return LEFT + (log10(ratio) - low) / (high - low) * WIDTH

    colours = {machine: COLOURS[number % len(COLOURS)] for number, machine in enumerate(machines)}
    height = TOP + sum(len(row.ratios) * BAR + GAP for row in rows) + 24
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{LEFT + WIDTH + RIGHT}" height="{height}" '
        f'viewBox="0 0 {LEFT + WIDTH + RIGHT} {height}" '
        f'font-family="sans-serif" font-size="12" fill="{INK}">',
        f"<title>{escape(title)}</title>",
    ]
    at = 8.0
    for machine in machines:
        lines.append(f'<rect x="{at:g}" y="8" width="10" height="10" fill="{colours[machine]}"/>')
        lines.append(f'<text x="{at + 14:g}" y="17">{escape(machine)}</text>')
        at += 30 + 7 * len(machine)
    for power in range(low, high + 1):
        weight = "2" if power == 0 else "1"
        place = f'x1="{x(10**power):.1f}" x2="{x(10**power):.1f}"'
        colour = INK if power == 0 else RULE
        lines.append(
            f'<line {place} y1="{TOP - 8}" y2="{height - 20}" stroke="{colour}" stroke-width="{weight}"/>'
        )
        lines.append(
            f'<text x="{x(10**power):.1f}" y="{TOP - 14}" text-anchor="middle">{10**power:g}×</text>'
        )
    y = TOP
    for row in rows:
        middle = y + len(row.ratios) * BAR / 2 + 4
        lines.append(f'<text x="{LEFT - 8}" y="{middle:g}" text-anchor="end">{escape(row.label)}</text>')
        for machine, ratio in row.ratios.items():
            begin, end = sorted((x(1), x(ratio)))
            lines.append(
                f'<rect x="{begin:.1f}" y="{y}" width="{max(end - begin, 1):.1f}" height="{BAR - 1}" '
                f'fill="{colours[machine]}"/>'
            )
            # Behind a bar to the right; behind the line for one to the left, so that labels stay apart.
            lines.append(f'<text x="{end + 4:.1f}" y="{y + BAR - 1}" font-size="9">{ratio:.2f}</text>')
            y += BAR
        y += GAP
    return "\n".join([*lines, "</svg>"]) + "\n"
