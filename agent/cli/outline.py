# SPDX-License-Identifier: Apache-2.0
"""A tree as lines that can be folded and searched. Pure: agent.cli.follow draws it.

    mode  = commands | typing                  "/" begins typing, Enter and Escape end it
    lines = the rows that no folded task hides

Folded are tasks, by their numbers and start, so that a later picture of the same tree is folded alike. The cursor
stays with its task, too. A search looks at all rows, and unfolds what hides the one that it finds.
"""

import re
from collections.abc import Sequence
from typing import Final

from agent.cli.scroll import COMMANDS, Viewport
from exporters.drawing.colours import columns
from exporters.drawing.treeview import Row

HELP: Final = (
    "arrows PgUp PgDn Home End   move",
    "Enter   fold or unfold",
    "left    fold, or go to the parent",
    "right   unfold      *   unfold all",
    "/ search   n N   next, previous",
    "s g b   colour by session, group, both",
    "q quit     any key: back to the tree",
)
"""The keys, for a screen of 40 columns and 8 rows."""

FOLDED: Final = "+"
"""The mark in the branch of a folded task."""

_SGR: Final = re.compile(r"\x1b\[[0-9;]*m")
_ENDS: Final = "\x1b[0m"
_CURSOR: Final = "\x1b[7m"


class Outline:
    """The lines of a tree, what is folded, the cursor, and the search.

    Attributes:
        viewport: the visible part.
        helping: True while the keys are shown in place of the tree.
        typing: True while the text to search for is typed.
        said: the result of the last search, where it found nothing.
    """

    def __init__(self) -> None:
        self.viewport = Viewport()
        self.helping = self.typing = False
        self.said = ""
        self._rows: Sequence[Row] = ()
        self._shown: list[int] = []
        self._folded: set[object] = set()
        self._typed = ""
        self._wanted = ""

    @property
    def height(self) -> int:
        """The count of lines that are not hidden."""
        return len(self._shown)

    @property
    def prompt(self) -> str:
        """The search as it is typed."""
        return f"/{_text(self._typed)}"

    def show(self, rows: Sequence[Row]) -> None:
        """Take a new picture of the tree; the cursor stays on its task, or at its place where that is gone."""
        before = self._at() if self._rows else None
        self._rows = rows
        self._hide()
        places = (place for place, index in enumerate(self._shown) if rows[index].key is not None)
        if before is None:
            self.viewport.cursor = next(places, 0)
        elif before.key is not None:
            same = (place for place, index in enumerate(self._shown) if rows[index].key == before.key)
            self.viewport.cursor = next(same, self.viewport.cursor)

    def seen(self, rows: int) -> list[str]:
        """Return the visible lines, the cursor's in reverse, filled up with empty ones."""
        if self.helping:
            return [*HELP[:rows], *[""] * (rows - len(HELP))]
        found = []
        for place in self.viewport.seen(len(self._shown), rows):
            line = self._line(self._shown[place])
            if place == self.viewport.cursor and line:
                line = _CURSOR + line.replace(_ENDS, _ENDS + _CURSOR) + _ENDS
            found.append(line)
        return found + [""] * (rows - len(found))

    def press(self, key: str, rows: int) -> bool:
        """Act on a key; return False if it has no meaning here.

        Args:
            key: from scroll.Keyboard.
            rows: count of visible rows.
        """
        if self.typing:
            self._type(key)
            return True
        if self.helping:
            self.helping = False
            return True
        self.said = ""
        key = COMMANDS.get(key, key)
        row = self._at()
        match key:
            case "?":
                self.helping = True
            case "/":
                self.typing, self._typed = True, ""
            case "n" | "N":
                self._find(backwards=key == "N")
            case "*":
                self._folded.clear()
                self._hide(row)
            case "enter" if row.key in self._folded:
                self._unfold(row)
            case "enter":
                self._fold(row)
            case "right":
                self._unfold(row)
            case "left":
                if row.key in self._folded or not self._fold(row):
                    self._to_parent()
            case _:
                return self.viewport.press(key, len(self._shown), rows)
        return True

    # ---- folding ---------------------------------------------------------------------------------------------------

    def _at(self) -> Row:
        """Return the row that the cursor is on."""
        if not self._shown:
            return Row("")
        return self._rows[self._shown[min(self.viewport.cursor, len(self._shown) - 1)]]

    def _hide(self, stay: Row | None = None) -> None:
        """List the rows that no folded task hides; the cursor goes to the row `stay`."""
        shown, under = [], None
        for index, row in enumerate(self._rows):
            if under is not None and row.generation > under:
                continue
            under = row.generation if row.key is not None and row.key in self._folded else None
            shown.append(index)
        self._shown = shown
        if stay is not None:
            self.viewport.cursor = next((place for place, index in enumerate(shown) if self._rows[index] is stay), 0)

    def _fold(self, row: Row) -> bool:
        """Fold the task of a row; return False if it has no children, or is the root."""
        if row.key is None or not any(each.key == row.key and each.sign >= 0 for each in self._rows):
            return False
        self._folded.add(row.key)
        self._hide(row)
        return True

    def _unfold(self, row: Row) -> None:
        self._folded.discard(row.key)
        self._hide(row)

    def _to_parent(self) -> None:
        """Move the cursor to the task above."""
        cursor = self.viewport.cursor
        generation = self._at().generation
        for place in range(min(cursor, len(self._shown)) - 1, -1, -1):
            row = self._rows[self._shown[place]]
            if 0 <= row.generation < generation:
                self.viewport.cursor = self._first_line(place)
                return

    def _first_line(self, place: int) -> int:
        """Return the place of the first line of a task that has several."""
        key = self._rows[self._shown[place]].key
        while place and self._rows[self._shown[place - 1]].key == key:
            place -= 1
        return place

    def _line(self, index: int) -> str:
        row = self._rows[index]
        if row.sign < 0 or row.key not in self._folded:
            return row.text
        return row.text[: row.sign] + FOLDED + row.text[row.sign + 1 :]

    # ---- search ----------------------------------------------------------------------------------------------------

    def _type(self, key: str) -> None:
        if key == "enter":
            self.typing = False
            self._wanted = _text(self._typed) or self._wanted
            self._find(backwards=False)
        elif key == "\x1b" or (key == "backspace" and not self._typed):
            self.typing = False
        elif key == "backspace":
            self._typed = _text(self._typed)[:-1].encode().decode("latin-1")
        elif key == "\x15":  # ^U
            self._typed = ""
        elif len(key) == 1 and key >= " ":
            self._typed += key

    def _find(self, *, backwards: bool) -> None:
        """Move to the next line with the text, from the cursor on, and around the end; capitals count if it has any."""
        wanted = self._wanted
        if not wanted or not self._rows:
            return
        cares = wanted != wanted.lower()
        here = self._shown[min(self.viewport.cursor, len(self._shown) - 1)]
        count = len(self._rows)
        for step in range(1, count + 1):
            index = (here + (-step if backwards else step)) % count
            plain = _SGR.sub("", self._rows[index].text)
            if wanted in (plain if cares else plain.lower()):
                self._reveal(index)
                return
        self.said = f"no line has {wanted}"

    def _reveal(self, index: int) -> None:
        """Unfold the tasks that hide a row, and move to it."""
        row, under = self._rows[index], self._rows[index].generation
        for above in reversed(self._rows[:index]):
            if 0 <= above.generation < under:
                self._folded.discard(above.key)
                under = above.generation
        self._hide(row)


def bar(parts: Sequence[str], width: int) -> str:
    """Return the parts of a bar that are not empty, cut and filled up to a width in columns."""
    text = " " + "  ".join([part for part in parts if part])
    while columns(text) > width - 1:
        text = text[:-1]
    return text + " " * (width - columns(text))


def _text(typed: str) -> str:
    """Return the text of typed bytes, each a character of latin-1."""
    return typed.encode("latin-1", "replace").decode("utf-8", "replace")
