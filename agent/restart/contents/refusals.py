# SPDX-License-Identifier: Apache-2.0
"""The objects of an image that cannot be restored, each with its reason."""

from agent.model import Tag
from agent.record import NamedTuple


class ContentRefusal(NamedTuple):
    """An object that cannot be restored.

    Attributes:
        tag: of its task in the image; 0: of no task in particular.
        pid: of the task in the root's namespace.
        kind: of the object, as in ``file``.
        identity: of the object within its kind, as in ``7``.
        rule: a word for the reason.
        text: the reason, and what to do.
    """

    tag: Tag
    pid: int
    kind: str
    identity: str
    rule: str
    text: str

    def __str__(self) -> str:
        where = f"task {self.tag} ({self.pid})" if self.tag else f"process {self.pid}"  # the tree may lack a process
        return f"{where}: {self.kind} {self.identity}: {self.text}"

    @property
    def document(self) -> dict[str, object]:
        """The refusal as JSON has it."""
        return {
            "tag": self.tag,
            "pid": self.pid,
            "kind": self.kind,
            "id": self.identity,
            "rule": self.rule,
            "text": self.text,
        }


class Refused(Exception):  # noqa: N818 - it becomes a ContentRefusal, not an error of its own
    """A part that cannot be restored: its kind, identity, rule and text."""

    def __init__(self, kind: str, identity: str, rule: str, text: str) -> None:
        super().__init__(text)
        self.refusal = kind, identity, rule, text
