# SPDX-License-Identifier: Apache-2.0
"""What a look at the table found last, for as long as it is still so.

Theory
------
Only records change the table, and of those an answer that says what the table holds already changes nothing. So the number
of all others (`Recall.news`) is the table's version: what was found at a version is found again at that version. A
selection lives longer: it is the same while its signature is (`agent.select.signature`), whatever happened elsewhere on
the host.
"""

from agent import select
from agent.model import Mode
from agent.objects import EXITED, Task
from agent.stream import Stream
from agent.table import ProcessTable


class Recall:
    """The last walk, selection and comparison of one table.

    Args:
        table: looked at.
        stream: whose records change it.
    """

    def __init__(self, table: ProcessTable, stream: Stream) -> None:
        self._table = table
        self._stream = stream
        self._selected: tuple[object, list[object], select.Selection, int] | None = None
        self._walked: tuple[Task, int, list[Task], list[Task]] | None = None
        self._compared: tuple[int, bytes, list[Task]] | None = None

    @property
    def news(self) -> int:
        """Records that changed the table, or may have: while it stays the same, so does the table."""
        return self._stream.records - self._table.confirmed

    def forget(self) -> None:
        """Let go of all of it."""
        self._selected = self._walked = self._compared = None

    def members(self, root: Task) -> list[Task]:
        """The tree below a task."""
        if self._walked is None or self._walked[:2] != (root, self.news):
            members = select.members(root)
            self._walked = root, self.news, members, [task for task in members if task.flags & EXITED]
        return self._walked[2]

    def exited(self, root: Task) -> list[Task]:
        """Those of the tree that run no more."""
        self.members(root)
        return self._walked[3] if self._walked is not None else []

    def select(self, root: Task, mode: Mode, *, without_entered: bool) -> select.Selection:
        """See `agent.select.select`, which also says what it raises."""
        key = (root, mode, without_entered)
        news = self.news
        tasks = self.members(root)
        if self._selected is not None:
            last_key, signature, chosen, last_news = self._selected
            if last_key == key and last_news == news:
                return chosen
            if last_key == key and select.signature(root, mode, tasks, chosen.outsiders) == signature:
                self._selected = (key, signature, chosen, news)
                return chosen
        chosen = select.select(root, mode, without_entered=without_entered)
        self._selected = (key, select.signature(root, mode, tasks, chosen.outsiders), chosen, news)
        return chosen

    def differing(self, rows: bytes) -> list[tuple[int, int]]:
        """The questions that a walk gives reason to ask: see `ProcessTable.differing`.

        Args:
            rows: struct sweep_row, one after the other.
        """
        table, news = self._table, self.news
        if self._compared is not None and self._compared[0] == news and self._compared[1] == rows:
            return [table.question(task) for task in self._compared[2]]
        questions = table.differing(rows)
        doubted = [table.asked(question) for question in questions]
        strangers = doubted.count(None)
        self._compared = None if strangers else (news, rows, [task for task in doubted if task is not None])
        return questions
