# SPDX-License-Identifier: Apache-2.0
"""Text to man(7), for groff and mandoc.

text  = block { blank line block }           the form of this project's docstrings
block = verbatim                             if all of its lines are indented
      | heading, a line of dashes below it
      | item { item }                        lines that begin with "* "
      | prose                                filled; words between two backquotes are bold
"""

import re
import textwrap
from collections.abc import Iterable, Sequence
from typing import Final

_CODE: Final = re.compile(r"``(.+?)``|`(.+?)`")
_MODULE: Final = re.compile(r" \((?:agent|exporters)(?:\.\w+)+\)")  # such a reference is for readers of the code
_WIDTH: Final = 78
_RULE: Final = re.compile(r"[-=~]{3,}\Z")


class Page:
    """A page under construction.

    Args:
        name: its name.
        section: of the manual.
        about: half a sentence for NAME.
        source: the program and its version.
        date: year, month and day, with dashes.
    """

    def __init__(self, name: str, section: int, about: str, source: str, date: str) -> None:
        self.file = f"{name}.{section}"
        self._lines = ['.\\" SPDX-License-Identifier: Apache-2.0', f'.TH {name.upper()} {section} {date} "{source}"']
        self.heading("name")
        self._lines.append(f"{escaped(name)} \\- {escaped(about)}")

    def heading(self, text: str) -> None:
        """Begin a section."""
        self._lines.append(f".SH {escaped(text.upper())}")

    def subheading(self, text: str) -> None:
        """Begin a subsection."""
        self._lines.append(f".SS {escaped(text)}")

    def tagged(self, tag: str, text: str) -> None:
        """Add a tag, as an option, and its text. The tag is roff already; the text is not."""
        self._lines += [".TP", tag, *_filled(text)]

    def usage(self, lines: Iterable[str]) -> None:
        """Add lines of a synopsis, which are roff already."""
        for line in lines:
            self._lines += [line, ".br"]
        self._lines.pop()

    def verbatim(self, lines: Iterable[str]) -> None:
        """Add lines as they are."""
        self._lines += [".RS 4", ".nf", *[_safe(escaped(line)) for line in lines], ".fi", ".RE"]

    def paragraph(self, lines: Sequence[str]) -> None:
        """Add a paragraph: one line of prose, or several lines that stay as they are."""
        self._paragraph()
        if len(lines) > 1:
            self.verbatim(lines)
        else:
            self._lines += _filled(lines[0])

    def text(self, text: str) -> None:
        """Add the blocks of a text."""
        for block in _blocks(text):
            self._block(block)

    def _paragraph(self) -> None:
        """Begin a paragraph, unless a heading has just begun one."""
        if not self._lines[-1].startswith((".SH", ".SS")):
            self._lines.append(".PP")

    def _block(self, lines: list[str]) -> None:
        if all(line.startswith("  ") for line in lines):
            self._paragraph()
            self.verbatim(textwrap.dedent("\n".join(lines)).split("\n"))
        elif len(lines) > 1 and _RULE.match(lines[1]):
            self.subheading(lines[0])
            if lines[2:]:
                self._block(lines[2:])
        elif lines[0].startswith("* "):
            for item in re.split(r"(?m)^\* ", "\n".join(lines))[1:]:
                self._lines += [".IP \\(bu 2", *_filled(item)]
        else:
            self._paragraph()
            self._lines += _filled(" ".join(lines))

    def __str__(self) -> str:
        return "\n".join(self._lines) + "\n"


def _blocks(text: str) -> list[list[str]]:
    blocks: list[list[str]] = []
    for block in re.split(r"\n\s*\n", _MODULE.sub("", text).strip("\n")):
        lines = [line.rstrip() for line in block.split("\n") if line.strip() != "::"]
        if lines:
            blocks.append(lines)
    return blocks


def _filled(text: str) -> list[str]:
    """Return prose as roff: a new line for each sentence, and no line longer than `_WIDTH`."""
    sentences = re.split(r"(?<=[.:;!?]) +(?=[A-Z`(])", " ".join(_MODULE.sub("", text).split()))
    return [
        _safe(line)
        for sentence in sentences
        for line in textwrap.wrap(_marked(sentence), _WIDTH, break_long_words=False, break_on_hyphens=False)
    ]


def _marked(text: str) -> str:
    parts = []
    at = 0
    for found in _CODE.finditer(text):
        parts += [escaped(text[at : found.start()]), bold(found[1] or found[2])]
        at = found.end()
    return "".join([*parts, escaped(text[at:])])


def bold(text: str) -> str:
    """Return a text in bold, as roff."""
    return rf"\fB{escaped(text)}\fR"


def italic(text: str) -> str:
    """Return a text in italics, as roff."""
    return rf"\fI{escaped(text)}\fR"


def escaped(text: str) -> str:
    """Quote a text for roff; a dash stays the keyboard's, because readers copy options."""
    return (
        text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq").replace("~", "\\(ti").replace("^", "\\(ha")
    )


def _safe(line: str) -> str:
    """Quote a line that roff would take for a request."""
    return "\\&" + line if line.startswith((".", "\\(aq")) else line
