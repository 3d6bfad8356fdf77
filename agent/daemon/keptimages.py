# SPDX-License-Identifier: Apache-2.0
"""The images of trees, and what is kept of each for the next image of the same tree."""

from collections.abc import Collection

from agent.capture.recent import MOST_TREES, Recent
from agent.model import Dialect, Snapshot
from agent.table.objects import TaskStruct
from exporters import registry
from exporters.image import checkpoint


class KeptImages:
    """The maker of images. It takes the time as an argument.

    Attributes:
        asked: the roots of the trees that were asked for last, each with the time of that.
    """

    def __init__(self) -> None:
        self.asked: dict[TaskStruct, float] = {}
        self._writers: Recent[TaskStruct, checkpoint.Writer] = Recent(checkpoint.Writer)

    def make(self, root: TaskStruct, snapshot: Snapshot, fmt: str, dialect: Dialect, now_s: float) -> bytes:
        """Return the image of a snapshot of the tree below a task.

        Args:
            root: the task.
            snapshot: of its tree.
            fmt, dialect: of the image.
            now_s: of a clock that does not go back.
        """
        asked = self.asked
        asked.pop(root, None)  # entered again, behind all others
        asked[root] = now_s
        if len(asked) > MOST_TREES:
            del asked[next(iter(asked))]
        if fmt != "ckpt":
            return registry.image(snapshot, fmt, dialect)
        return self._writers.of(root, len(snapshot.tasks)).dumps(snapshot, dialect)

    def forget_before(self, since_s: float) -> Collection[TaskStruct]:
        """Free what is kept of the trees that nobody has asked for since then, or that are gone; return the roots of
        the others.
        """
        self.asked = {root: at for root, at in self.asked.items() if at > since_s and root.pid.task is root}
        self._writers.retain(self.asked)
        return self.asked
