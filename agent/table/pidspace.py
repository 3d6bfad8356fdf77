# SPDX-License-Identifier: Apache-2.0
"""The pid objects and namespaces that records name: each record finds the known one, or enters a new one.

A record names a pid object by identity and, for each level, number and namespace. At any instant a number belongs to
one pid object in its namespace. So a new object under a known number proves that the old one has no users any more,
even if no record told so; the space then calls its owner to end them.
"""

from collections.abc import Callable
from typing import Final

from agent.table import rules, wire
from agent.table.objects import Pid, PidNamespace, TaskStruct

INITIAL_INUM: Final = 0xEFFFFFFC  # PROC_PID_INIT_INO

_IDENTITIES: Final = wire.reader(wire.RECORD_TASK, "pid", "tgid", "pgid", "sid")

Data = memoryview | bytes


class PidSpace:
    """All pid objects of a host.

    Args:
        bury: called with a pid object whose number another pid object has taken.

    Attributes:
        initial: the initial namespace.
        numbers: its pid objects by number: all pid objects, for each has a number there.
        namespaces: the other namespaces, by identity; dead ones stay until the next one appears.
    """

    def __init__(self, bury: Callable[[Pid], None]) -> None:
        self.initial = PidNamespace(0, INITIAL_INUM, None)
        self.numbers = self.initial.numbers
        self.namespaces: dict[int, PidNamespace] = {}
        self._bury = bury

    def own(self, data: Data, at: int, tid: int, identity: int) -> Pid:
        """Return the pid object of a task that a record_task tells of and that is about to be entered."""
        if data[at + wire.LEVELS_AT] <= 1:
            if tid not in self.numbers:
                pid = self.numbers[tid] = Pid(identity, (tid,), self.initial)  # nearly always: a new one, at one level
                return pid
            pid = self._enter(identity, (tid,), self.initial)
        else:
            state = wire.pid_state(data, at, 0)
            pid = self.enter(identity, state) if state else self._enter(identity, (tid,), self.initial)
        if pid.task is not None:  # two tasks never have one pid object: the end of the first was lost
            self._bury(pid)
            return self.own(data, at, tid, identity)
        return pid

    def role(self, data: Data, at: int, role: int) -> Pid:
        """Return the pid object in a role of a record_task: 1 tgid, 2 pgid, 3 sid.

        The record has the numbers of an object once, with its first role.
        """
        identities = _IDENTITIES.unpack_from(data, at)
        identity = identities[role]
        state = wire.pid_state(data, at, identities.index(identity))
        if state is None:  # a task past release_task(): it has no pids any more
            return Pid(identity, (0,), self.initial)
        return self.enter(identity, state)

    def task(self, data: Data, at: int, role: int) -> TaskStruct | None:
        """Return the task whose own pid object is in a role of a record_task, if the table has it; enter nothing."""
        identities = _IDENTITIES.unpack_from(data, at)
        state = wire.pid_state(data, at, identities.index(identities[role]))
        pid = self.numbers.get(state.numbers[0]) if state is not None else None
        return pid.task if pid is not None and pid.identity == identities[role] else None

    def enter(self, identity: int, state: wire.PidState) -> Pid:
        """Return the pid object of an identity; a new one is entered at every level."""
        known = self.numbers.get(state.numbers[0])
        if known is not None and known.identity == identity:
            return known
        namespace = self.initial
        if len(state.numbers) > 1 and state.ns_ids[-1] not in self.namespaces:
            for dead in [one.identity for one in self.namespaces.values() if not one.numbers]:
                del self.namespaces[dead]
        for level in range(1, len(state.numbers)):
            namespace = self._namespace(state.ns_ids[level], state.inums[level], namespace)
        return self._enter(identity, state.numbers, namespace)

    def told(self, identity: int, state: wire.PidState) -> Pid:
        """Return the pid object of an identity that a tie refers to; enter nothing, for it may have no users left."""
        known = self.numbers.get(state.numbers[0])
        if known is not None and known.identity == identity:
            return known
        namespace = self.initial
        for inum, ns_id in zip(state.inums[1:], state.ns_ids[1:], strict=True):
            inner = self.namespaces.get(ns_id)
            namespace = inner if inner and inner.parent is namespace else PidNamespace(ns_id, inum, namespace)
        return Pid(identity, state.numbers, namespace)

    def living_one(self, pid: Pid) -> Pid:
        """Return the living pid object with the identity of another one, or that one where there is none."""
        known = self.numbers.get(pid.numbers[0])
        return known if known is not None and known.identity == pid.identity else pid

    def _enter(self, identity: int, numbers: tuple[int, ...], namespace: PidNamespace) -> Pid:
        at: PidNamespace | None = namespace
        for number in reversed(numbers):
            if at is None:
                break
            known = at.numbers.get(number)
            if known is not None:
                if known.identity == identity:
                    return known
                self._bury(known)
            at = at.parent
        pid = Pid(identity, numbers, namespace)
        rules.hash_pid(pid)
        return pid

    def _namespace(self, identity: int, inum: int, parent: PidNamespace) -> PidNamespace:
        """Return the namespace of an identity below a parent; a new one is entered.

        Where the kernel has no ns_id, the identity is the start time of its init, which two namespaces may share: one
            with
        another parent is another namespace.
        """
        known = self.namespaces.get(identity)
        if known is not None and known.parent is parent:
            return known
        namespace = self.namespaces[identity] = PidNamespace(identity, inum, parent)
        return namespace

    def living(self) -> list[PidNamespace]:
        """Return the namespaces that hold a pid object, the initial one first."""
        return [self.initial, *(namespace for namespace in self.namespaces.values() if namespace.numbers)]
