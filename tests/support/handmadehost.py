# SPDX-License-Identifier: Apache-2.0
"""Tasks, pid objects and namespaces made by hand, with the rules of agent/table/rules.py and no record."""

from agent.table import rules
from agent.table.objects import Pid, PidNamespace, TaskStruct


class Host:
    """An initial namespace with its init, and tasks on demand."""

    def __init__(self) -> None:
        self.space = PidNamespace(0, 1, None)
        self.made = 0
        self.init = self.process(None)

    def pid(self, space: PidNamespace | None = None) -> Pid:
        """Return the next number at each level; a namespace's first is 1."""
        self.made += 1
        namespace = space or self.space
        chain = [namespace.ancestor(level) for level in range(namespace.level + 1)]
        pid = Pid(self.made, tuple(max(one.numbers, default=0) + 1 for one in chain), namespace)
        rules.hash_pid(pid)
        return pid

    def process(self, parent: TaskStruct | None, flags: int = 0, space: PidNamespace | None = None) -> TaskStruct:
        """Make a child in its parent's group and session, by default in its parent's namespace."""
        inherited = parent.pid.namespace if parent is not None else None
        task = TaskStruct(self.pid(space or inherited), self.made, 0x1000 + self.made, flags)
        leader = parent.leader if parent is not None else None
        pgid = (leader.pgid if leader else None) or task.pid
        sid = (leader.sid if leader else None) or task.pid
        rules.add_process(task, parent, pgid, sid)
        return task

    def thread(self, leader: TaskStruct) -> TaskStruct:
        """Make another thread."""
        task = TaskStruct(self.pid(leader.pid.namespace), self.made, 0x1000 + self.made, 0)
        rules.add_thread(task, leader)
        return task

    def container(self, parent: TaskStruct, flags: int = 0) -> TaskStruct:
        """Make the init of a namespace below its parent's."""
        above = parent.pid.namespace
        return self.process(parent, flags, PidNamespace(100 + self.made, 7, above))
