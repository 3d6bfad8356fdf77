# SPDX-License-Identifier: Apache-2.0
"""Coloured text for a terminal: its width in columns, its folding into lines, and its escape sequences.

    span   = text of one style                       the style is a list of SGR parameters, "1;38;5;28", or nothing
    phrase = spans that belong together              a name, a remark
    line   = phrases with a separator between them   folded at a separator, else at a blank, else anywhere

Width is counted before colouring, in columns and not in characters: East Asian wide characters take two columns,
combining ones none.
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from typing import TypeAlias

from agent.record import NamedTuple, record
from exporters.content.wording import Tint

BOLD = "1"

_PIECE = re.compile(r" *[^ ]+| +$")
_WIDE = ("W", "F")


class Span(NamedTuple):
    """A text of one style; the style is SGR parameters, or empty."""

    text: str
    style: str = ""


Phrase: TypeAlias = tuple[Span, ...]


@record
class Ink:
    """The abilities of a terminal.

    Attributes:
        color: True if it obeys colour sequences.
        unicode: True if it shows more than ASCII.
    """

    color: bool
    unicode: bool

    def of(self, tint: Tint) -> str:
        """Return the style for a colour."""
        return f"38;5;{tint.code}"

    def spoken(self, phrases: Sequence[Phrase]) -> Sequence[Phrase]:
        """Return the phrases in characters that the terminal shows."""
        if self.unicode or all(span.text.isascii() for phrase in phrases for span in phrase):
            return phrases
        return [
            tuple([Span(span.text.encode("ascii", "backslashreplace").decode("ascii"), span.style) for span in phrase])
            for phrase in phrases
        ]

    def line(self, spans: Sequence[Span]) -> str:
        """Return spans as text with the terminal's escape sequences."""
        if not self.color:
            return "".join([span.text for span in spans])
        return "".join([f"\x1b[{style}m{text}\x1b[0m" if style and text else text for text, style in spans])


def columns(text: str) -> int:
    """Return the width of a text in columns of a terminal."""
    if text.isascii():
        return len(text)
    return sum(map(_columns, text))


def width(phrase: Phrase) -> int:
    """Return the width of a phrase in columns of a terminal."""
    return sum([columns(span.text) for span in phrase])


def shortened(text: str, most: int, more: str) -> str:
    """Return a text in at most so many columns; `more` stands at the end of one that was cut."""
    if columns(text) <= most:
        return text
    cut = text[: max(most - columns(more), 0)]
    while columns(cut) + columns(more) > most and cut:
        cut = cut[:-1]
    return cut + more


def fold(phrases: Sequence[Phrase], between: str, first: int, rest: int) -> Iterator[list[Span]]:
    """Yield lines of phrases, at least one.

    Args:
        phrases: the phrases to write.
        between: separator of phrases; left out at the end of a line.
        first, rest: columns of the first line and of the others, at least 2.
    """
    line: list[Span] = []
    used, room = 0, first
    for phrase in phrases:
        wide = width(phrase)
        gap = columns(between) if line else 0
        if line and used + gap + wide <= room:
            line += (Span(between), *phrase)
            used += gap + wide
            continue
        if line:
            yield line
            line, used, room = [], 0, rest
        if wide <= room:
            line, used = list(phrase), wide
            continue
        for piece in _pieces(phrase, rest):
            if line and used + columns(piece.text) > room:
                yield line if line[-1].text.strip(" ") else line[:-1]
                line, used, room = [], 0, rest
            start = piece.text if line else piece.text.lstrip(" ")
            if start:
                line.append(Span(start, piece.style))
                used += columns(start)
    yield line


def _pieces(phrase: Phrase, room: int) -> Iterator[Span]:
    """Yield words, each with the blanks before it; a word wider than a line is cut."""
    for text, style in phrase:
        for found in _PIECE.findall(text):
            part, used = "", 0
            for char in found if columns(found) > room else ():
                if used + _columns(char) > room:
                    yield Span(part, style)
                    part, used = "", 0
                part += char
                used += _columns(char)
            yield Span(part or found, style)


def _columns(char: str) -> int:
    if unicodedata.category(char) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in _WIDE else 1
