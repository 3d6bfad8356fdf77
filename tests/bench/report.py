# SPDX-License-Identifier: Apache-2.0
"""Writer of figures: between the marks of docs/benchmarks.md that have their name, and into pictures beside it.

A picture is plain SVG without a background; its greys and its one colour are visible on white and on black.
"""

import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Protocol

from tests.bench.figures import table

TOP = Path(__file__).parents[2]
DOCS = TOP / "docs"
PAGE = DOCS / "benchmarks.md"

_OWN, _OTHER, _INK, _RULE = "#2f9e6e", "#8a93a6", "#808080", "#80808055"
_FONT = 'font-family="system-ui, sans-serif" font-size="13"'
_WIDTH, _ROW = 760, 26
_LABEL, _RIGHT = 250, 130  # of a bar chart: room for names on the left, for figures on the right
_PLOT_LEFT, _PLOT_TOP, _PLOT_HEIGHT, _PLOT_RIGHT = 64, 40, 300, 210


_SHOWN = 10  # faults of one outcome


class Outcome(Protocol):
    """The result of one part of a measurement.

    Attributes:
        wrong: the faults, one line each.
    """

    wrong: list[str]

    def cells(self) -> list[str]:
        """Return its cells of the table."""

    def said(self) -> str:
        """Return its figures and the number of its faults in words."""


def tell(name: str, head: Sequence[str], outcomes: Iterable[tuple[str, Outcome]], *, write: bool) -> int:
    """Print each outcome as it comes, and then the table of all.

    Args:
        name: of the measurement, and of its marks in docs/benchmarks.md.
        head: of the table.
        outcomes: each with the name of its part.
        write: True to put the table into the page, too.

    Returns:
        1 where there was a fault, 0 otherwise.
    """
    rows, wrong = [], 0
    for part, outcome in outcomes:
        rows.append([part, *outcome.cells()])
        wrong += len(outcome.wrong)
        print(f"{name}: {part}: {outcome.said()}", file=sys.stderr)
        for line in outcome.wrong[:_SHOWN]:
            print(f"  {line}", file=sys.stderr)
    text = table(head, rows)
    print(text)
    if write:
        splice(text, name)
    return int(wrong > 0)


def splice(text: str, name: str, path: Path = PAGE) -> None:
    """Put a text between ``<!-- begin NAME -->`` and ``<!-- end NAME -->``.

    Raises:
        ValueError: the file does not have both marks once, in this order.
    """
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    whole = path.read_text()
    if whole.count(begin) != 1 or whole.count(end) != 1 or whole.index(begin) > whole.index(end):
        raise ValueError(f"{path} needs the marks {begin} and {end}, once each and in this order")
    head, _, rest = whole.partition(begin)
    _, _, tail = rest.partition(end)
    path.write_text(f"{head}{begin}\n{text.strip()}\n{end}{tail}")


def draw(name: str, svg: str) -> None:
    """Write a picture below docs/."""
    (DOCS / f"{name}.svg").write_text(svg)


def _svg(height: int, title: str, parts: Sequence[str]) -> str:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}" '
        f'role="img" {_FONT}>\n<title>{escape(title)}</title>\n'
        f'<text x="8" y="20" fill="{_INK}" font-weight="600">{escape(title)}</text>\n'
    )
    return head + "\n".join(parts) + "\n</svg>\n"


def _text(x: float, y: float, words: str, *, anchor: str = "start", colour: str = _INK) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" fill="{colour}" text-anchor="{anchor}">{escape(words)}</text>'


def bars(title: str, groups: Mapping[str, Sequence[tuple[str, float, str]]], *, own: str) -> str:
    """Draw horizontal bars of shares from 0 to 1, below a heading for each group.

    Args:
        title: above it all.
        groups: by heading, (name, share, text behind the bar).
        own: names that begin so are drawn in colour.
    """
    room = _WIDTH - _LABEL - _RIGHT
    parts: list[str] = []
    y = 34
    for heading, rows in groups.items():
        y += _ROW
        parts.append(_text(8, y - 8, heading))
        for name, share, words in rows:
            colour = _OWN if name.startswith(own) else _OTHER
            length = max(1.5, share * room)
            parts += [
                _text(_LABEL - 8, y + 17, name, anchor="end"),
                f'<rect x="{_LABEL}" y="{y + 4}" width="{length:.1f}" height="{_ROW - 8}" rx="2" fill="{colour}"/>',
                _text(_LABEL + length + 6, y + 17, words, colour=colour),
            ]
            y += _ROW
    return _svg(y + 12, title, parts)


def lines(title: str, curves: Mapping[str, Mapping[float, float]], axes: tuple[str, str], *, own: str) -> str:
    """Draw curves over logarithmic axes, each with its name at its end.

    Args:
        title: above it all.
        curves: by name, y by x; all positive.
        axes: the names of x and y.
        own: names that begin so are drawn in colour.
    """
    xs = [x for curve in curves.values() for x in curve]
    ys = [y for curve in curves.values() for y in curve.values()]
    left, right = math.log10(min(xs)), math.log10(max(xs))
    low, high = math.floor(math.log10(min(ys))), math.ceil(math.log10(max(ys)))
    width, bottom = _WIDTH - _PLOT_LEFT - _PLOT_RIGHT, _PLOT_TOP + _PLOT_HEIGHT

    def at(x: float, y: float) -> tuple[float, float]:
        across = (math.log10(x) - left) / ((right - left) or 1)
        up = (math.log10(y) - low) / ((high - low) or 1)
        return _PLOT_LEFT + across * width, bottom - up * _PLOT_HEIGHT

    parts = []
    for power in range(low, high + 1):
        _, y = at(min(xs), 10.0**power)
        parts.append(f'<path d="M{_PLOT_LEFT} {y:.1f}h{width}" stroke="{_RULE}"/>')
        parts.append(_text(_PLOT_LEFT - 8, y + 4, f"{10.0**power:g}", anchor="end"))
    parts += [_text(at(x, 10.0**low)[0], bottom + 18, f"{x:g}", anchor="middle") for x in sorted(set(xs))]
    parts.append(_text(_PLOT_LEFT + width / 2, bottom + 38, axes[0], anchor="middle"))
    parts.append(_text(8, _PLOT_TOP - 4, axes[1]))
    taken: list[float] = []
    for name, curve in sorted(curves.items(), key=lambda pair: -max(pair[1].values())):
        colour = _OWN if name.startswith(own) else _OTHER
        points = [at(x, y) for x, y in sorted(curve.items())]
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
        parts.append(
            f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="{2.5 if colour == _OWN else 1.5}"/>'
        )
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="{colour}"/>' for x, y in points]
        end = points[-1][1] + 4
        end = max([end, *(other + 15 for other in taken[-1:])])  # from the top down, so that no name covers another
        taken.append(end)
        parts.append(_text(points[-1][0] + 8, end, name, colour=colour))
    return _svg(bottom + 52, title, parts)
