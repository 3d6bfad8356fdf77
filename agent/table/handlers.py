# SPDX-License-Identifier: Apache-2.0
"""The handlers of records: each kind of record changes the table in its own way.

An event counts as happening at its number, which lies between the start and the end of its system call. So after any
number the table holds a state that every process could have seen: the effects of all calls up to some instant and of no
later one.

An answer counts as an event at its own number: the changes that it shows have happened by then. Where it shows more
than the events so far explain, the table takes it over and notes a *surprise*; a later event that says the same settles
it (the call had begun and not yet ended). A surprise that no event settles is an *anomaly*. An answer that confirms the
table changes nothing.
"""

from typing import Final

from agent.table import answers, departure, history, rules, wire
from agent.table.merge import Merge
from agent.table.objects import (
    AUTOREAP,
    CLONE_NEWPID,
    CLONE_PARENT,
    CLONE_THREAD,
    CLONE_VFORK,
    CREATED,
    EXITED,
    EXITING,
    NO_STATUS,
    PTRACED,
    SUBREAPER,
    TaskStruct,
)
from agent.table.pidspace import Data
from agent.table.processtable import ProcessTable
from agent.table.wire import Kind, TaskRecord

_IDLES_CHILDREN: Final = (1, 2)  # init and kthreadd, in every kernel
_SHAPING: Final = CLONE_NEWPID | CLONE_PARENT | CLONE_THREAD | CLONE_VFORK

_FORK: Final = wire.reader(
    wire.RECORD_TASK,
    *("seq", "argument", "task", "start_ns", "parent", "pid", "tgid", "pgid", "sid", "tid", "parent_tid", "flags"),
    *("exit_signal", "uid", "gid", "by_tid", "by", "comm"),
).unpack_from
_EXIT: Final = wire.reader(
    wire.RECORD_TASK, "argument", "start_ns", "pid", "pgid", "sid", "tid", "parent_tid", "flags", "exit_code"
).unpack_from
_EXEC: Final = wire.reader(wire.RECORD_TASK, "argument", "pid", "tid").unpack_from
_SESSION: Final = wire.reader(wire.RECORD_TASK, "seq", "kind", "pid", "pgid", "sid", "tid").unpack_from
_END: Final = wire.reader(wire.RECORD_END, "task", "start_ns", "tid", "exit_code").unpack_from
_CALL: Final = wire.reader(wire.RECORD_CALL, "tid", "value").unpack_from
_STRINGS: Final = wire.reader(wire.RECORD_STRINGS, "argument", "start_ns", "tid", "kept").unpack_from
_AREA_AT: Final = wire.STRINGS.size - wire.AREA.size
_HEAD: Final = wire.HEAD.unpack_from
_TASK: Final = wire.TASK.unpack_from


class Handlers:
    """The application of records to one table.

    Args:
        table: the table; its maps are bound here once, so that a record costs no lookup more.

    Attributes:
        by_kind: the method for each kind of record, called with the buffer and the record's offset in it.
    """

    def __init__(self, table: ProcessTable) -> None:
        self._table = table
        self._merge = Merge(table)
        self._pids = table.pids
        self._numbers = table.pids.numbers
        self._changes = table.changes
        self._touch = table.changes.add
        self._doubts = table.doubts
        self._surprises = table.surprises
        self._moved = table.moved
        self._lingering = table.lingering
        self._orphans = table.orphans
        self._leaderless = table.leaderless
        self._creatorless = table.creatorless
        self._unanswered = table.unanswered
        self.by_kind = {
            Kind.FORK: self.fork,
            Kind.EXEC: self.exec,
            Kind.EXIT: self.exit,
            Kind.SESSION: self.session,
            Kind.GROUP: self.session,
            Kind.SUBREAPER: self.subreaper,
            Kind.STATE: self.state,
            Kind.GONE: self.gone,
            Kind.FREE: self.free,
            Kind.RELEASE: self.free,
            Kind.WAITED: self.waited,
            Kind.REGROUPED: self.regrouped,
            Kind.MARKER: self.marker,
            Kind.STRINGS: self.strings,
        }

    # ---- birth -----------------------------------------------------------------------------------------------------

    def fork(self, data: Data, at: int) -> None:
        """Apply RECORD_FORK."""
        (
            seq,
            clone_flags,
            address,
            start_ns,
            parent_address,
            identity,
            tgid_identity,
            pgid_identity,
            sid_identity,
            tid,
            parent_tid,
            flags,
            exit_signal,
            uid,
            gid,
            by_tid,
            by_address,
            comm,
        ) = _FORK(data, at)
        by = self._numbers.get(by_tid)
        creator = by.task if by is not None else None
        touch = self._touch
        if creator is not None:
            if creator.address == by_address:
                creator.flags |= CREATED
                touch(creator)
            else:
                creator = None
        pid = self._numbers.get(tid)
        if pid is not None and pid.identity == identity and pid.task is not None and pid.task.start_ns == start_ns:
            task = pid.task  # an answer has entered it before
        elif clone_flags & CLONE_THREAD and (creator is None or creator.leader.pid.identity != tgid_identity):
            entered = self._merge.state(data, at)  # its group is not the creator's: records were lost
            if entered is None:
                return
            task = entered
        else:
            pid = self._pids.own(data, at, tid, identity)
            task = TaskStruct(pid, start_ns, address, flags)
            if creator is not None:
                task.ids = creator.ids
                task.comm = creator.comm
                task.strings = creator.leader.strings
            if task.ids != (uid, gid):
                self._table.set_ids(task, (uid, gid))
            if comm != task.comm:
                self._table.set_comm(task, comm)
            if clone_flags & CLONE_THREAD and creator is not None:
                rules.add_thread(task, creator.leader)
                touch(creator.leader)
                self._merge.follow_group(creator.leader, pgid_identity, sid_identity, data, at)
            else:
                task.exit_signal = exit_signal
                # the child has its creator's group and session, unless one of them was announced only now
                pgid = creator.leader.pgid if creator is not None else None
                if pgid is None or pgid.identity != pgid_identity:
                    pgid = self._pids.role(data, at, 2)
                    self._merge.found(pgid, task)
                    self._doubt(creator)
                sid = creator.leader.sid if creator is not None else None
                if sid is None or sid.identity != sid_identity:
                    sid = self._pids.role(data, at, 3)
                    self._merge.found(sid, task, session=True)
                    self._doubt(creator)
                rules.add_process(task, self._merge.parent(task, parent_tid, parent_address), pgid, sid)
                if task.parent is not None:
                    touch(task.parent)
            if self._orphans or self._leaderless or self._creatorless:
                self._merge.gather(task)
        touch(task)
        task.order = seq
        task.clone_flags = clone_flags & _SHAPING
        leader = task.leader
        task.birth_sid = leader.sid
        task.birth_pgid = leader.pgid
        task.creator = creator
        if creator is None and by_tid:
            self._creatorless.setdefault(by_address, {})[task] = None
            self._table.unknown[by_address] = None
        elif creator is not None and creator.creator is not None and history.is_gone(creator.creator):
            self._contract(creator)

    def _contract(self, creator: TaskStruct) -> None:
        """Contract the chain above a creator by some links, and a chain whose walk has not come to its end."""
        changed, rest = history.contract(creator, history.LINKS_AT_ONCE)
        self._changes.tasks.update(changed)
        if self._table.contracting is not None:
            changed, self._table.contracting = history.contract(self._table.contracting, history.LINKS_AT_ONCE)
            self._changes.tasks.update(changed)
        else:
            self._table.contracting = rest

    def _doubt(self, creator: TaskStruct | None) -> None:
        """Doubt a creator whose child was born into another group or session than the creator's known one."""
        if creator is not None:
            self._doubts[creator.leader] = None

    # ---- death -----------------------------------------------------------------------------------------------------

    def exit(self, data: Data, at: int) -> None:
        """Apply RECORD_EXIT."""
        group_dead, start_ns, identity, pgid_identity, sid_identity, tid, parent_tid, flags, exit_code = _EXIT(data, at)
        pid = self._numbers.get(tid)
        task = pid.task if pid is not None and pid.identity == identity else None
        if (
            task is None
            or task.start_ns != start_ns
            or (leader := task.leader).pgid is None
            or leader.pgid.identity != pgid_identity
            or leader.sid is None
            or leader.sid.identity != sid_identity
        ):
            self._table.counts.repairs += 1
            task = self._merge.state(data, at)
            if task is None:
                return
            leader = task.leader
        if self._surprises:
            self._surprises.pop(task, None)
        task.exit_code = exit_code
        task.flags = task.flags & ~PTRACED | flags & PTRACED
        if task.flags & CREATED:
            history.remember(task, "exit", _HEAD(data, at)[0], None)
        self._touch(task)
        if group_dead:
            leader.exit_code = exit_code
            leader.flags |= flags & AUTOREAP
            self._touch(leader)
        if not task.flags & EXITED:
            self._table.exit(task)
        # AUTOREAP in the record is that of a parent which is about to exit itself; the new parent may differ.
        if group_dead and (parent := leader.parent) is not None and parent.pid.numbers[0] != parent_tid:
            self._doubts[leader] = None

    def free(self, data: Data, at: int) -> None:
        """Apply RECORD_FREE or RECORD_RELEASE: an exact identity is gone for good."""
        address, start_ns, tid, exit_code = _END(data, at)
        if self._orphans or self._creatorless:  # the next task at this address is another one
            self._creatorless.pop(address, None)
            self._doubts.update(dict.fromkeys(self._orphans.pop(address, ())))
        pid = self._numbers.get(tid)
        task = pid.task if pid is not None else None
        # Mostly the task has been reaped before. A leader that got a thread's number by exec matches no task either.
        if task is not None and task.start_ns == start_ns:
            self._table.end(task, exit_code)

    def waited(self, data: Data, at: int) -> None:
        """Apply RECORD_WAITED."""
        tid, number = _CALL(data, at)
        caller = self._table.task(tid)
        if caller is None:
            return
        pid = caller.pid.namespace.numbers.get(number)
        task = pid.task if pid is not None else None
        if task is None or not task.flags & EXITED:
            return  # stopped or continued; or reaped already
        parent = task.leader.parent
        if parent is not None and parent.leader is caller.leader and rules.is_zombie(task):
            self._table.end(task, task.exit_code)
        else:
            self._doubts[task] = None  # a tracer's wait does not reap another's child

    # ---- exec, session, group --------------------------------------------------------------------------------------

    def exec(self, data: Data, at: int) -> None:
        """Apply RECORD_EXEC."""
        old_tid, identity, tid = _EXEC(data, at)
        if old_tid != tid:
            thread = self._table.task(old_tid)
            if thread is not None and thread.leader.pid.identity == identity:
                self._changes.de_thread(thread)
        task = self._merge.state(data, at)
        if task is None:
            return
        task.leader.strings = None  # the records of the new program's strings come next
        for thread in tuple(task.threads or ()):
            self._table.end(thread, NO_STATUS)  # de_thread() has waited for the others to end

    def strings(self, data: Data, at: int) -> None:
        """Apply RECORD_STRINGS: the arguments or environment that an exec has put into a process's memory."""
        which, start_ns, tid, kept = _STRINGS(data, at)
        task = self._table.task(tid)
        if task is None or task.start_ns != start_ns:
            return
        leader = task.leader
        told = bytes(data[at + _AREA_AT : at + wire.STRINGS.size + (kept if self._table.keeps_text else 0)])
        arguments, environment = leader.strings or (None, None)
        leader.strings = (arguments, told) if which else (told, environment)
        self._touch(leader)

    def session(self, data: Data, at: int) -> None:
        """Apply RECORD_SESSION or RECORD_GROUP."""
        seq, kind, identity, pgid, sid, tid = _SESSION(data, at)
        pid = self._numbers.get(tid)
        task = pid.task if pid is not None and pid.identity == identity else None
        if task is None:
            task = self._merge.state(data, at)
            if task is None:
                return
        leader = task.leader
        left = (leader.pgid, leader.sid) if self._lingering else ()
        self._touch(leader)
        self._merge.follow_group(leader, pgid, sid, data, at)
        self._table.doubt_lingering(*left)
        if self._surprises and self._surprises.get(leader) in ("session", "group"):
            del self._surprises[leader]
        if kind == Kind.SESSION:
            history.remember(leader, "setsid", seq, leader.sid)
        else:
            history.remember(leader, "setpgid", seq, leader.pgid)

    def subreaper(self, data: Data, at: int) -> None:
        """Apply RECORD_SUBREAPER."""
        task = self._merge.state(data, at)
        if task is None:
            return
        leader = task.leader
        on = bool(leader.flags & SUBREAPER)
        history.remember(leader, "subreaper", _HEAD(data, at)[0], int(on))
        if on:
            self._changes.tasks.update(rules.propagate_has_child_subreaper(leader))

    def regrouped(self, data: Data, at: int) -> None:
        """Apply RECORD_REGROUPED: a group changed, and the hook could not tell the process; so ask about it."""
        tid, number = _CALL(data, at)
        caller = self._table.task(tid)
        pid = caller.pid.namespace.numbers.get(number) if caller is not None else None
        if pid is not None and pid.task is not None:
            self._doubts[pid.task] = None

    # ---- answers ---------------------------------------------------------------------------------------------------

    def state(self, data: Data, at: int) -> None:
        """Apply RECORD_STATE: an answer with a task's state, which may differ from the events so far."""
        state = TaskRecord(*_TASK(data, at))
        self._unanswered.pop((state.task, state.start_ns), None)
        if not state.parent_tid and state.tid in _IDLES_CHILDREN:
            self._table.idle = state.parent
        pid = self._numbers.get(state.tid)
        known = pid.task if pid is not None and pid.identity == state.pid else None
        between = state.flags & EXITING and not state.flags & EXITED
        if known is not None:
            if answers.confirms(self._table, known, state) and not (between and departure.is_last_of_init(known)):
                if self._moved:
                    self._moved.pop(known, None)
                return
            answers.compare(self._table, known, state)
        elif (
            between
            and state.pid != state.tgid
            and not state.flags & PTRACED
            and not answers.may_be_last_of_init(self._pids.task(data, at, 1))
        ):
            return  # its exit has been applied, and its release follows for certain
        task = self._merge.state(data, at)
        if task is None:
            return
        if known is None and between:  # exit_notify() has yet to decide if it becomes a zombie
            task.exit_code = state.exit_code
            self._table.exit(task)
            self._doubts[task] = None
            return
        if state.by:
            self._table.noted[task] = state.by
        elif self._table.noted:
            self._table.noted.pop(task, None)
        # The last thread of an init may stay within its exit for good; of any other task's exit a record is under way.
        lingers = between and departure.is_last_of_init(task)
        if (lingers or state.flags & EXITED) and not task.flags & EXITED:
            task.exit_code = state.exit_code
            self._table.exit(task)

    def gone(self, data: Data, at: int) -> None:
        """Apply RECORD_GONE: an answer that the task does not exist any more."""
        address, start_ns, _, _ = _END(data, at)
        for child in self._orphans.pop(address, ()):
            self._doubts[child] = None
        self._leaderless.pop(address, None)
        self._creatorless.pop(address, None)
        task = self._unanswered.pop((address, start_ns), None)
        if task is None or task.address != address or task.pid.task is not task or task.threads:
            return  # a leader goes before its threads in one case only: one of them is within exec and takes its place
        if not task.flags & EXITED:
            self._table.end(task, task.exit_code)
            self._surprises[task] = "gone"
        else:
            self._table.end(task, task.exit_code)

    def marker(self, data: Data, at: int) -> None:
        """Apply RECORD_MARKER, which changes nothing."""
