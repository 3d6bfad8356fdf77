# SPDX-License-Identifier: Apache-2.0
"""A tree on a screen, refreshed again and again.

The tree is refreshed every second, and soon after an event where a daemon sends them; a change without an event (stop
and continue, say) shows within a second. Where a refresh is costly (many tasks, no daemon), it comes less often, so
that all refreshes take a tenth of a CPU, but at least every ten seconds. After a refusal the old tree stays, with the
message; the end of the root or of the daemon ends the program. A cgroup with several topmost processes shows all their
trees, one below the other.
"""

import time
from typing import TYPE_CHECKING, Final

from agent.cli import outline, terminal
from agent.cli.screen import Screen
from agent.errors import CkptreeError, HostError, NoDaemonError, NoSuchRootError
from agent.proc import users
from agent.proc.commands import Commands
from agent.protocol.client import Subscription
from exporters.drawing import treeview

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from agent.cli.sources import Taken
    from agent.model import Snapshot

INTERVAL_S: Final = 1.0
SOON_S: Final = 0.1
"""The least time between a drawing and the next one that an event causes."""

_FINAL: Final = {kind.exit_code for kind in (NoDaemonError, NoSuchRootError, HostError)}
_AT_ONCE_S: Final = 0.001  # to take an event that has arrived already
_HEARING_S: Final = 0.02  # to take all of them
SHARE: Final = 0.1
"""The share of a CPU's time that refreshes may take, the daemon's part included."""

LONGEST_S: Final = 10.0
"""The longest pause between two refreshes, however long they take."""

_TINTED: Final[dict[str, treeview.Tinted]] = {"b": "session and group", "s": "session", "g": "group"}
_HELP: Final = "?: help, q: quit"
_BAR: Final = "\x1b[7m"


class Follower:
    """The shown part of a tree, and the time of its next refresh.

    Args:
        name: of the root, for people.
        ask: takes a snapshot of each tree, as images.
        events: of the tree; None: the source has no events.
    """

    def __init__(self, name: str, ask: "Callable[[], Sequence[Taken]]", events: Subscription | None = None) -> None:
        self._name = name
        self._ask = ask
        self._events = events
        self._commands = Commands()
        self._outline = outline.Outline()
        self._abilities = terminal.abilities()
        self._tinted: treeview.Tinted = "session and group"
        self._trouble = ""
        self._due = self._soonest = 0.0
        self._snapshots: list[Snapshot] = []
        self._columns = 0

    def refresh(self) -> None:
        """Take the snapshots again.

        Raises:
            CkptreeError: the root or the daemon is gone; at the first call, any error.
        """
        begin = time.process_time()
        elsewhere = 0.0
        try:
            answers = self._ask()
        except CkptreeError as error:
            if not self._snapshots or error.exit_code in _FINAL:
                raise
            self._trouble = str(error)
        else:
            self._trouble = ""
            elsewhere = sum(answer.elapsed_ns for answer in answers) / 1e9
            self._snapshots = self._commands.added((each.load(), each.outer) for each in answers)
            self._render()
        cost = time.process_time() - begin + elsewhere
        rest, now = min(cost * (1 / SHARE - 1), LONGEST_S), time.monotonic()
        self._due, self._soonest = now + max(INTERVAL_S, rest), now + max(SOON_S, rest)

    def run(self, screen: Screen) -> None:
        """Show the tree until a key ends it, or the terminal hangs up."""
        while True:
            if time.monotonic() >= self._due:
                self.refresh()
            width, height = screen.size
            rows = max(height - 1, 1)
            if width != self._columns:
                self._columns = width
                self._render()
            screen.draw([*self._outline.seen(rows), self._bar(width, rows)][:height])
            keys = screen.wait(self._due - time.monotonic(), self._events)
            if self._events is not None and self._hear(self._events):
                self._due = min(self._due, self._soonest)
            if keys is None or not all(self._press(key, rows) for key in keys):
                return

    def _hear(self, events: Subscription) -> bool:
        """Take the events that have arrived; return True if there was any."""
        heard = False
        deadline = time.monotonic() + _HEARING_S
        try:
            while time.monotonic() < deadline and (event := events.next_within(_AT_ONCE_S)) is not None:
                heard = True
                if event.kind == "exec" and event.task is not None:
                    self._commands.forget(event.task.pid)
                if event.kind == "end":
                    self._events = None
        except CkptreeError:  # the next refresh meets the reason
            self._events, heard = None, True
        return heard

    def _press(self, key: str, rows: int) -> bool:
        """Act on a key; return False if it ends the program."""
        shown = self._outline
        if key in _TINTED and not (shown.typing or shown.helping):
            self._tinted = _TINTED[key]
            self._render()
        elif not shown.press(key, rows):
            return key not in ("q", "Q")
        return True

    def _render(self) -> None:
        able = self._abilities
        width = self._columns or able["width"] or 80
        rows: list[treeview.Row] = []
        for each in self._snapshots:
            rows += [treeview.Row("")] if rows else []
            rows += treeview.rows(
                each,
                unicode=able["unicode"],
                color=able["color"],
                width=width,
                tinted=self._tinted,
                names=users.names(each.boot_id),
            )
        self._outline.show(rows)

    def _bar(self, width: int, rows: int) -> str:
        shown = self._outline
        if shown.typing:
            return _BAR + outline.bar([shown.prompt], width)
        place = shown.viewport.place(shown.height, rows)
        colours = f"colours: {self._tinted}" if self._abilities["color"] else ""
        return _BAR + outline.bar([self._name, self._trouble or shown.said, place, _HELP, colours], width)
