# SPDX-License-Identifier: Apache-2.0
"""Losses: properties of the original that a rebuilt tree does not have, though its plan is proven."""

from collections.abc import Iterator, Sequence

from agent.model import Snapshot, Tag

_CORE_DUMPED = 0x80  # WCOREFLAG
_SHOWN = 10


def losses(snapshot: Snapshot, *, with_contents: bool = False) -> Iterator[str]:
    """Yield a line for each kind of loss, with the numbers of the tasks as the image has them.

    Args:
        snapshot: of the original.
        with_contents: contents follow: by them processes share again what they shared, or are refused. CRIU's images do not
            tell of a thread that does not share with its leader.
    """
    of_leaders = {task.pid: task.shares for task in snapshot.tasks}
    shared = [
        task.pid
        for task in snapshot.tasks
        if task.shares is not None and not (with_contents and task.shares == of_leaders.get(task.tgid))
    ]
    if shared:
        yield (
            f"what {_named(snapshot, shared)} share, memory, working directory or open files, without being threads of "
            "one group, is not rebuilt without contents: each has its own"
        )
    dumped = [task.tgid for task in snapshot.tasks if task.exit_code is not None and task.exit_code & _CORE_DUMPED]
    if dumped:
        yield (
            f"that a core was dumped is not rebuilt: a parent that waits for {_named(snapshot, dumped)} sees "
            "the same signal, without that bit"
        )


def _named(snapshot: Snapshot, tags: Sequence[Tag]) -> str:
    numbers = [str(snapshot.number(tag)) for tag in dict.fromkeys(tags)]
    rest = len(numbers) - _SHOWN
    return ", ".join(numbers[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")
