# SPDX-License-Identifier: Apache-2.0
"""The legend of a drawn tree: all signs that occur in it, with their colours."""

from collections.abc import Mapping
from typing import Final

from agent.model import Snapshot, TaskState
from exporters.content.wording import ALARM, Subject
from exporters.drawing import labels
from exporters.drawing.labels import badge, hexadecimal, text_cell

DEAD: Final = (TaskState.ZOMBIE, TaskState.DEAD_LEADER)
DARK: Final = "#333333"
LINE: Final = "#555555"
BIRTH: Final = "#0057d9"
STOPPED: Final = "#ffd500"
"""The ground of what is stopped: no id has a bright colour, and no other badge has dark text on a colour."""


def legend(seen: Mapping[str, int], snapshot: Snapshot) -> str:
    """Return the legend; `seen` counts the signs of the drawing, by their kind or state."""
    green, blue = "#cce7cc", "#005fff"
    box = {"border": "2", "color": blue, "bgcolor": green}
    signs = [
        (True, text_cell("1 comm", box), "a process: filled with its session's colour, framed with its group's"),
        (True, text_cell("1", box, bold=True), "leads the session or group"),
        (seen["like"], text_cell("9 × comm", box), "siblings that differ in nothing but their pids"),
        (seen["thread"], text_cell("{2 comm}"), "a thread"),
        (
            seen[Subject.SESSION] + seen[Subject.GROUP],
            badge("session 1", blue),
            "leads a session or group, or is in another one than its parent",
        ),
        (
            seen[TaskState.ZOMBIE],
            state_badge(TaskState.ZOMBIE, "zombie"),
            "has exited, its parent has not waited for it yet; the frame is dashed",
        ),
        (
            seen[TaskState.DEAD_LEADER],
            state_badge(TaskState.DEAD_LEADER, "dead leader"),
            "has exited, its threads live on; the frame is dashed",
        ),
        (seen[TaskState.STOPPED], state_badge(TaskState.STOPPED, "stopped"), "stopped by a signal"),
        (seen[Subject.SUBREAPER], badge("subreaper", DARK), "adopts the orphans below it"),
        (
            seen["ghost"],
            text_cell("3 no task", {"border": "2", "style": "dotted", "color": LINE, "bgcolor": "white"}, italic=True),
            "a pid that is only the session or group of others, dotted lines lead to them",
        ),
        (
            seen["ancestor"],
            text_cell("4 gone", {"border": "1", "style": "dotted", "color": BIRTH, "bgcolor": "white"}, italic=True),
            "is gone; others were born of it",
        ),
        (len(snapshot.tasks) > 1, text_cell("──▶", ink=LINE), "parent to child"),
        (
            seen["birth edge"],
            text_cell("- - ▶", ink=BIRTH),
            "creator to child, where the parent is another one",
        ),
        (
            len(snapshot.namespaces) > 1,
            text_cell("[ ]", {"bgcolor": "#f5f5f5", "border": "1"}),
            "a box around: a pid namespace, the darker the deeper",
        ),
    ]
    return labels.legend([(sign, text) for shown, sign, text in signs if shown])


def state_badge(state: TaskState | None, text: str) -> str:
    """Return the badge of a state, in a colour that no session or group has."""
    return badge(text, hexadecimal(ALARM)) if state in DEAD else badge(text, STOPPED, ink="black")
