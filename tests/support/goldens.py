# SPDX-License-Identifier: Apache-2.0
"""Small images with their meaning: PIDS, TREE and their buffers, byte by byte, of each kind of tree.

A line has words of the file, in hex and little endian, and their meaning. The row of a pid is its depth and its
numbers. The row of a task is pid, parent, thread group, group, session and depth, all but the depth as tags. Tag 1 is
the first pid object; a table with another offset says so.
"""

import re
from typing import NamedTuple

from agent.model import Dialect, Mode, Namespace, PidObject, Snapshot, TaskState, WaitStatus
from tests.support.builders import A_HEADER, a_bare_task
from tests.support.images import GOLDEN_SNAPSHOT

_WORDS = re.compile(r"(?:[0-9a-f]{8} +)+")


class Golden(NamedTuple):
    """The bytes of a tree's base, and the tree.

    Attributes:
        table: the bytes, with their meaning.
        pids: the numbers of each pid object, outermost first.
        tasks: pid, ppid, tgid, pgid, sid and depth of each.
        mode, first, dialect: the image's; `first` is the first tag.
        ended: state and exit code of the tasks that have exited, by tag.
        lines: the namespaces of the pid objects, if known.
        said: EXTENSION's text for the last two, in hex, with its meaning.
    """

    table: str
    pids: list[tuple[int, ...]]
    tasks: list[tuple[int, int, int, int, int, int]]
    mode: Mode = "container"
    first: int = 1
    dialect: Dialect = "seed"
    ended: dict[int, tuple[TaskState, int]] = {}  # noqa: RUF012  # never changed
    lines: tuple[tuple[int, ...], ...] = ()
    said: tuple[tuple[str, str], ...] = ()

    @property
    def base(self) -> bytes:
        """Return the bytes of the table."""
        rows = [_WORDS.match(line.strip() + " ") for line in self.table.strip().splitlines()]
        return bytes.fromhex("".join([row[0] for row in rows if row]))

    @property
    def snapshot(self) -> Snapshot:
        """Return the tree as a snapshot."""
        tasks = []
        for ids in self.tasks:
            state, code = self.ended.get(ids[0], (None, None))
            tasks.append(a_bare_task(*ids)._replace(state=state, exit_code=None if code is None else WaitStatus(code)))
        spaces = sorted({(line[-1], len(line) - 1) for line in self.lines})
        return Snapshot(
            mode=self.mode,
            time_ns=GOLDEN_SNAPSHOT.time_ns,
            pids=tuple([PidObject(pid, line) for pid, line in zip(self.pids, self.lines or [()] * 99, strict=False)]),
            tasks=tuple(tasks),
            namespaces=tuple([Namespace(id_, 100 + id_, level, 0 if level else None) for id_, level in spaces]),
            header=A_HEADER,
            first_tag=self.first,
            dialect=self.dialect,
        )


GOLDENS = {
    "fork before setsid": Golden(
        # R forks 2, which forks 3 and then calls setsid(): the child keeps the session that its parent left.
        """
    65000000 18000000 03000000 00000000 00000000 00000000 PIDS, 24 long: 3 pids, 0 nested numbers, offset 0
    04000000 20000000                                     BUFFER of 24 bytes
    00000000 01000000                                     tag 1: one number, 1
    00000000 02000000                                     tag 2: number 2
    00000000 03000000                                     tag 3: number 3
    66000000 10000000 03000000 00000000                   TREE, 16 long: 3 tasks
    04000000 50000000                                     BUFFER of 72 bytes
    01000000 00000000 01000000 01000000 01000000 00000000 init: no parent, leads its group and session
    02000000 01000000 02000000 02000000 02000000 00000000 2: child of tag 1, group and session of its own
    03000000 02000000 03000000 01000000 01000000 00000000 3: child of tag 2, group and session still tag 1's
        """,
        pids=[(1,), (2,), (3,)],
        tasks=[(1, 0, 1, 1, 1, 0), (2, 1, 2, 2, 2, 0), (3, 2, 3, 1, 1, 0)],
    ),
    "threads": Golden(
        # 2 has the threads 3 and 4: each is a row with the group's tag and the group's parent.
        """
    65000000 18000000 04000000 00000000 00000000 00000000 PIDS, 24 long: 4 pids, 0 nested numbers, offset 0
    04000000 28000000                                     BUFFER of 32 bytes
    00000000 01000000                                     tag 1: 1
    00000000 02000000                                     tag 2: 2
    00000000 03000000                                     tag 3: 3
    00000000 04000000                                     tag 4: 4
    66000000 10000000 04000000 00000000                   TREE, 16 long: 4 tasks
    04000000 68000000                                     BUFFER of 96 bytes
    01000000 00000000 01000000 01000000 01000000 00000000 init: no parent, leads its group and session
    02000000 01000000 02000000 01000000 01000000 00000000 2: the leader, child of tag 1
    03000000 01000000 02000000 01000000 01000000 00000000 3: parent tag 1 as the leader's, thread group tag 2
    04000000 01000000 02000000 01000000 01000000 00000000 4: likewise
        """,
        pids=[(1,), (2,), (3,), (4,)],
        tasks=[(1, 0, 1, 1, 1, 0), (2, 1, 2, 1, 1, 0), (3, 1, 2, 1, 1, 0), (4, 1, 2, 1, 1, 0)],
    ),
    "child of a thread": Golden(
        # Thread 3 of 2 forks 4. The parent of 4 is the thread and not the process, so 4 comes behind the thread.
        """
    65000000 18000000 04000000 00000000 00000000 00000000 PIDS, 24 long: 4 pids, 0 nested numbers, offset 0
    04000000 28000000                                     BUFFER of 32 bytes
    00000000 01000000                                     tag 1: 1
    00000000 02000000                                     tag 2: 2
    00000000 03000000                                     tag 3: 3
    00000000 04000000                                     tag 4: 4
    66000000 10000000 04000000 00000000                   TREE, 16 long: 4 tasks
    04000000 68000000                                     BUFFER of 96 bytes
    01000000 00000000 01000000 01000000 01000000 00000000 init: no parent, leads its group and session
    02000000 01000000 02000000 01000000 01000000 00000000 2: the leader
    03000000 01000000 02000000 01000000 01000000 00000000 3: its thread
    04000000 03000000 04000000 01000000 01000000 00000000 4: a process, child of tag 3
        """,
        pids=[(1,), (2,), (3,), (4,)],
        tasks=[(1, 0, 1, 1, 1, 0), (2, 1, 2, 1, 1, 0), (3, 1, 2, 1, 1, 0), (4, 3, 4, 1, 1, 0)],
    ),
    "zombie leader of a session": Golden(
        # 2 called setsid(), forked 3 and exited with 3, and its parent has not waited. The base has it like any task.
        """
    65000000 18000000 03000000 00000000 00000000 00000000 PIDS, 24 long: 3 pids, 0 nested numbers, offset 0
    04000000 20000000                                     BUFFER of 24 bytes
    00000000 01000000                                     tag 1: 1
    00000000 02000000                                     tag 2: 2
    00000000 03000000                                     tag 3: 3
    66000000 10000000 03000000 00000000                   TREE, 16 long: 3 tasks
    04000000 50000000                                     BUFFER of 72 bytes
    01000000 00000000 01000000 01000000 01000000 00000000 init: no parent, leads its group and session
    02000000 01000000 02000000 02000000 02000000 00000000 2: the zombie
    03000000 01000000 03000000 02000000 02000000 00000000 3: adopted by tag 1, group and session still tag 2's
        """,
        pids=[(1,), (2,), (3,)],
        tasks=[(1, 0, 1, 1, 1, 0), (2, 1, 2, 2, 2, 0), (3, 1, 3, 2, 2, 0)],
        ended={2: (TaskState.ZOMBIE, 3 << 8)},
        said=(
            ("a9 657869745f636f6465 cd 0300", "exit_code: 768, which is exit status 3"),
            ("a5 7374617465 a6 7a6f6d626965", "state: zombie"),
        ),
    ),
    "dead leader": Golden(
        # 2 has exited before its thread 3: the leader is a task until the thread is gone.
        """
    65000000 18000000 03000000 00000000 00000000 00000000 PIDS, 24 long: 3 pids, 0 nested numbers, offset 0
    04000000 20000000                                     BUFFER of 24 bytes
    00000000 01000000                                     tag 1: 1
    00000000 02000000                                     tag 2: 2
    00000000 03000000                                     tag 3: 3
    66000000 10000000 03000000 00000000                   TREE, 16 long: 3 tasks
    04000000 50000000                                     BUFFER of 72 bytes
    01000000 00000000 01000000 01000000 01000000 00000000 init: no parent, leads its group and session
    02000000 01000000 02000000 01000000 01000000 00000000 2: the dead leader
    03000000 01000000 02000000 01000000 01000000 00000000 3: the thread that lives
        """,
        pids=[(1,), (2,), (3,)],
        tasks=[(1, 0, 1, 1, 1, 0), (2, 1, 2, 1, 1, 0), (3, 1, 2, 1, 1, 0)],
        ended={2: (TaskState.DEAD_LEADER, 0)},
        said=(
            ("a9 657869745f636f6465 00", "exit_code: 0"),
            ("a5 7374617465 ab 646561642d6c6561646572", "state: dead-leader"),
        ),
    ),
    "ghost session": Golden(
        # 2 called setsid(), forked 3 and exited, and its parent has waited: 2 is a pid object without a task.
        """
    65000000 18000000 03000000 00000000 00000000 00000000 PIDS, 24 long: 3 pids, 0 nested numbers, offset 0
    04000000 20000000                                     BUFFER of 24 bytes
    00000000 01000000                                     tag 1: 1
    00000000 03000000                                     tag 2: 3, met before its group
    00000000 02000000                                     tag 3: 2, nobody's pid any more
    66000000 10000000 02000000 00000000                   TREE, 16 long: 2 tasks
    04000000 38000000                                     BUFFER of 48 bytes
    01000000 00000000 01000000 01000000 01000000 00000000 init: no parent, leads its group and session
    02000000 01000000 02000000 03000000 03000000 00000000 3: group and session tag 3
        """,
        pids=[(1,), (3,), (2,)],
        tasks=[(1, 0, 1, 1, 1, 0), (2, 1, 2, 3, 3, 0)],
    ),
    "nested, linear": Golden(
        # 2 is init below, 3 its child, and 4 init below that. None called setsid(): all are in tag 1's.
        """
    65000000 18000000 04000000 04000000 00000000 00000000 PIDS, 24 long: 4 pids, 4 nested numbers, offset 0
    04000000 38000000                                     BUFFER of 48 bytes
    00000000 01000000                                     tag 1: 1
    01000000 02000000 01000000                            tag 2: depth 1, 2 in the root's namespace, 1 in its own
    01000000 03000000 02000000                            tag 3: 3, and 2 below
    02000000 04000000 03000000 01000000                   tag 4: depth 2, 4, 3 and 1: outermost first
    66000000 10000000 04000000 00000000                   TREE, 16 long: 4 tasks
    04000000 68000000                                     BUFFER of 96 bytes
    01000000 00000000 01000000 01000000 01000000 00000000 init: no parent, leads its group and session
    02000000 01000000 02000000 01000000 01000000 01000000 2: one level down
    03000000 02000000 03000000 01000000 01000000 01000000 3: on the same level
    04000000 03000000 04000000 01000000 01000000 02000000 4: two levels down
        """,
        pids=[(1,), (2, 1), (3, 2), (4, 3, 1)],
        tasks=[(1, 0, 1, 1, 1, 0), (2, 1, 2, 1, 1, 1), (3, 2, 3, 1, 1, 1), (4, 3, 4, 1, 1, 2)],
    ),
    "nested, not linear": Golden(
        # 2 and 3 are inits side by side, 4 and 5 their children: the same inner numbers twice.
        """
    65000000 18000000 05000000 04000000 00000000 00000000 PIDS, 24 long: 5 pids, 4 nested numbers, offset 0
    04000000 40000000                                     BUFFER of 56 bytes
    00000000 01000000                                     tag 1: 1
    01000000 02000000 01000000                            tag 2: 2, and 1 below
    01000000 04000000 02000000                            tag 3: 4, and 2 below
    01000000 03000000 01000000                            tag 4: 3, and 1 below, elsewhere
    01000000 05000000 02000000                            tag 5: 5, and 2 there
    66000000 10000000 05000000 00000000                   TREE, 16 long: 5 tasks
    04000000 80000000                                     BUFFER of 120 bytes
    01000000 00000000 01000000 01000000 01000000 00000000 init: no parent, leads its group and session
    02000000 01000000 02000000 01000000 01000000 01000000 2
    03000000 02000000 03000000 01000000 01000000 01000000 4: child of tag 2
    04000000 01000000 04000000 01000000 01000000 01000000 3
    05000000 04000000 05000000 01000000 01000000 01000000 5: child of tag 4
        """,
        pids=[(1,), (2, 1), (4, 2), (3, 1), (5, 2)],
        tasks=[(1, 0, 1, 1, 1, 0), (2, 1, 2, 1, 1, 1), (3, 2, 3, 1, 1, 1), (4, 1, 4, 1, 1, 1), (5, 4, 5, 1, 1, 1)],
        lines=((0,), (0, 1), (0, 1), (0, 2), (0, 2)),
        said=(
            ("aa 6e616d65737061636573 92 00 01", "namespaces: 0 and 1, of tags 2 and 3"),
            (
                "aa 6e616d65737061636573 92 00 02",
                "namespaces: 0 and 2, of tags 4 and 5; the base cannot tell them apart",
            ),
        ),
    ),
    "inherited session, seed": Golden(
        # A job of a shell: its session, and the group of 102, are the shell's, which is outside the tree.
        """
    65000000 18000000 03000000 00000000 00000000 00000000 PIDS, 24 long: 3 pids, 0 nested numbers, offset 0
    04000000 20000000                                     BUFFER of 24 bytes
    00000000 64000000                                     tag 1: 100
    00000000 65000000                                     tag 2: 101
    00000000 66000000                                     tag 3: 102
    66000000 10000000 03000000 00000000                   TREE, 16 long: 3 tasks
    04000000 50000000                                     BUFFER of 72 bytes
    01000000 00000000 01000000 01000000 ffefffff 00000000 100: leads the job; session CKPT_PID_ROOT, -4097
    02000000 01000000 02000000 01000000 ffefffff 00000000 101: of the job
    03000000 01000000 03000000 ffefffff ffefffff 00000000 102: its group is the shell's, too
        """,
        pids=[(100,), (101,), (102,)],
        tasks=[(1, 0, 1, 1, -4097, 0), (2, 1, 2, 1, -4097, 0), (3, 1, 3, -4097, -4097, 0)],
        mode="subtree",
    ),
    "inherited session, v23": Golden(
        # The same tree in the other dialect: offset is the first tag, and 0 means outside.
        """
    65000000 18000000 03000000 00000000 01000000 00000000 PIDS, 24 long: 3 pids, 0 nested numbers, offset 1
    04000000 20000000                                     BUFFER of 24 bytes
    00000000 64000000                                     tag 1: 100
    00000000 65000000                                     tag 2: 101
    00000000 66000000                                     tag 3: 102
    66000000 10000000 03000000 00000000                   TREE, 16 long: 3 tasks
    04000000 50000000                                     BUFFER of 72 bytes
    01000000 00000000 01000000 01000000 00000000 00000000 100: leads the job; session 0
    02000000 01000000 02000000 01000000 00000000 00000000 101: of the job
    03000000 01000000 03000000 00000000 00000000 00000000 102: its group is the shell's, too
        """,
        pids=[(100,), (101,), (102,)],
        tasks=[(1, 0, 1, 1, -4097, 0), (2, 1, 2, 1, -4097, 0), (3, 1, 3, -4097, -4097, 0)],
        mode="subtree",
        dialect="v23",
    ),
    "session outside the namespace": Golden(
        # unshare -pf: the init is in a group and session without a number in its namespace.
        """
    65000000 18000000 02000000 00000000 00000000 00000000 PIDS, 24 long: 2 pids, 0 nested numbers, offset 0
    04000000 18000000                                     BUFFER of 16 bytes
    00000000 01000000                                     tag 1: 1
    00000000 02000000                                     tag 2: 2
    66000000 10000000 02000000 00000000                   TREE, 16 long: 2 tasks
    04000000 38000000                                     BUFFER of 48 bytes
    01000000 00000000 01000000 00000000 00000000 00000000 init: group and session 0
    02000000 01000000 02000000 02000000 00000000 00000000 2: a group of its own, session 0
        """,
        pids=[(1,), (2,)],
        tasks=[(1, 0, 1, 0, 0, 0), (2, 1, 2, 2, 0, 0)],
        mode="subtree",
    ),
    "tag base 7, seed": Golden(
        # An image whose object ids 1 to 6 are not pids.
        """
    65000000 18000000 02000000 00000000 06000000 00000000 PIDS, 24 long: 2 pids, 0 nested numbers, offset 6
    04000000 18000000                                     BUFFER of 16 bytes
    00000000 01000000                                     tag 7: 1
    00000000 02000000                                     tag 8: 2
    66000000 10000000 02000000 00000000                   TREE, 16 long: 2 tasks
    04000000 38000000                                     BUFFER of 48 bytes
    07000000 00000000 07000000 07000000 07000000 00000000 init, tag 7
    08000000 07000000 08000000 07000000 07000000 00000000 2: child of tag 7
        """,
        pids=[(1,), (2,)],
        tasks=[(7, 0, 7, 7, 7, 0), (8, 7, 8, 7, 7, 0)],
        first=7,
    ),
    "tag base 7, v23": Golden(
        # The same tags; only the offset is counted from the other end.
        """
    65000000 18000000 02000000 00000000 07000000 00000000 PIDS, 24 long: 2 pids, 0 nested numbers, offset 7
    04000000 18000000                                     BUFFER of 16 bytes
    00000000 01000000                                     tag 7: 1
    00000000 02000000                                     tag 8: 2
    66000000 10000000 02000000 00000000                   TREE, 16 long: 2 tasks
    04000000 38000000                                     BUFFER of 48 bytes
    07000000 00000000 07000000 07000000 07000000 00000000 init, tag 7
    08000000 07000000 08000000 07000000 07000000 00000000 2: child of tag 7
        """,
        pids=[(1,), (2,)],
        tasks=[(7, 0, 7, 7, 7, 0), (8, 7, 8, 7, 7, 0)],
        first=7,
        dialect="v23",
    ),
}
