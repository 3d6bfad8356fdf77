# SPDX-License-Identifier: Apache-2.0
"""Texts and tables in graphviz's labels that hold together in every font.

graphviz measures a text in one font, and the reader of the picture may have another: a text that graphviz fitted into
its frame would then touch it. So each cell is at least as wide as its text in DejaVu Sans, which is wider than Arial,
Helvetica, Liberation Sans and the like, and each text is one run: graphviz places the runs of a line by its own
measure, and they would run into each other.
"""

import math
import unicodedata
from collections.abc import Iterable, Mapping
from html import escape as escape_html
from types import MappingProxyType
from typing import Final

from exporters.content.wording import Tint

FONTS: Final = "Helvetica,Arial,Liberation Sans,DejaVu Sans,sans-serif"
"""The families of a picture: the first ones have the same widths, and graphviz knows those even without fonts."""

POINTS: Final = 10
SMALL: Final = 9

_PADDING: Final = 2
_BOLD: Final = 1.13  # widening of names and numbers
_WIDEST: Final = 1.0
# Advance widths of DejaVu Sans, in hundredths of the font's size.
_CHARS: Final = {
    28: "ijl", 30: "IJ", 32: " ,.·\xa0", 34: "/:;\\|", 36: "f", 37: "-", 40: "()[]t", 41: "!", 42: "r", 46: '"',
    50: "*_`'", 53: "sz", 54: "?", 55: "c", 56: "L", 58: "Fk", 60: "vxy", 61: "P", 62: "TYaeo",
    64: "$0123456789ESbdghnpqu{}", 66: "K", 69: "ABVXZ", 70: "CR", 74: "U", 75: "N", 76: "H", 77: "D", 78: "&G",
    79: "OQ", 82: "w", 84: "#+<=>^~×", 87: "M", 96: "%", 98: "m", 99: "W",
}  # fmt: skip
_WIDTHS: Final = {char: hundredths / 100 for hundredths, chars in _CHARS.items() for char in chars}


def width(text: str, points: int = POINTS, *, bold: bool = False) -> int:
    """Return the width in points that a text has at most in the fonts of a picture."""
    ems = sum([_WIDTHS.get(char) or _unlisted(char) for char in text])
    return math.ceil(ems * points * (_BOLD if bold else 1))


def _unlisted(char: str) -> float:
    return 0.0 if unicodedata.category(char) in ("Mn", "Me") else _WIDEST


def text_cell(
    text: str,
    frame: Mapping[str, str] = MappingProxyType({}),
    *,
    bold: bool = False,
    small: bool = False,
    italic: bool = False,
    ink: str = "",
) -> str:
    """Return the cell of one text; `frame` has the attributes of the cell, and `ink` is the colour of the text."""
    points = SMALL if small else POINTS
    made = quoted(text)
    for tag, on in (("b", bold), ("i", italic)):
        made = f"<{tag}>{made}</{tag}>" if on and made else made
    font = {"color": ink} if ink else {}
    font |= {"point-size": str(points)} if small else {}
    if font and made:
        made = f"<font{_attributes(font)}>{made}</font>"
    return cell(made, width=str(width(text, points, bold=bold) + 2 * _PADDING), **frame)


def badge(text: str, color: str = "", ink: str = "white") -> str:
    """Return the cell of a remark, `ink` on its colour if it has one."""
    if not color:
        return text_cell(text, small=True)
    return text_cell(text, {"bgcolor": color}, small=True, ink=ink)


def cell(content: str, **attributes: str) -> str:
    """Return a cell with markup in it."""
    return f'<td align="left"{_attributes(attributes)}>{content}</td>'


def table(rows: Iterable[str], **attributes: str) -> str:
    """Return a table of rows, each of one or more cells."""
    said = {"cellborder": "0", "cellspacing": "0", "cellpadding": str(_PADDING)} | attributes
    return f"<table{_attributes(said)}>{''.join([f'<tr>{row}</tr>' for row in rows])}</table>"


def node(id_: str, label: str, about: Iterable[str] = ()) -> str:
    """Return the line of a node: its table, and the lines of its tooltip."""
    tooltip = "&#10;".join(map(escape_html, about)).replace("\\", "\N{REVERSE SOLIDUS OPERATOR}")
    return f'{id_} [shape=plain, label=<{label}>, tooltip="{tooltip or id_}"]\n'


def legend(signs: Iterable[tuple[str, str]]) -> str:
    """Return the box of a legend: cells of signs, and their meanings."""
    rows = [sign + text_cell(meaning, small=True) for sign, meaning in signs]
    return (
        'subgraph cluster_legend {\ngraph [label="legend", style=solid, color="#bbbbbb", bgcolor=white]\n'
        f"{node('legend', table(rows, border='0', cellspacing='3'))}}}\n"
    )


def quoted(text: str) -> str:
    """Return a text for a label."""
    return escape_html(text).replace("\\", "\\\\")


def hexadecimal(tint: Tint, light: float = 0.0) -> str:
    """Return a colour mixed with white; `light` is the share of white, 0 to 1."""
    return "#" + "".join([f"{round(part + (0xFF - part) * light):02x}" for part in tint.rgb])


def _attributes(attributes: Mapping[str, str]) -> str:
    return "".join([f' {key}="{value}"' for key, value in attributes.items()])
