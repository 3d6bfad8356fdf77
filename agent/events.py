# SPDX-License-Identifier: Apache-2.0
"""Live events, for whoever has subscribed: what happened to which task, in the order in which it happened.

Theory
------
An event is told when its record is applied to the table, so subscribers hear exactly what the table is made of, in its
order. ``order`` is the number of the record, the same as the ``order`` of births in a snapshot. A subscription begins at
a position: everything numbered below is in the snapshot that came with it, and every event that follows has that number or
a later one. What the snapshot's questions found out may be told once more by its event: events are facts ("its session is
now 5"), and to hear one twice changes nothing.

What no record tells has no event: stop and continue, a new comm without exec, a change of ids, the reap of a zombie. A
change that an answer brings to light (a group changed by a call that has no hook) is told as the call would have been.

Losses are told where they happened: ``loss``, of the daemon's (records that found no room in the ring; a sweep mends the
table, and ``resync`` follows: take a new snapshot), and ``dropped``, of this subscriber's (it has not read what was sent:
its backlog is bounded, and what comes meanwhile is counted). ``end``: the root of the subscription is gone.

While nobody has subscribed to what a record could tell, it goes straight to the table; nothing here runs.
"""

from collections.abc import Callable, Collection, Iterable
from typing import Any, Final

import msgpack

from agent import rules, wire
from agent.access import Viewer
from agent.births import flag_names
from agent.objects import SUBREAPER, Namespace, Pid, Task
from agent.pidspace import Data
from agent.stream import Stream
from agent.table import ProcessTable
from agent.wire import Kind, TaskState

KINDS: Final = ("birth", "exec", "death", "reparent", "setsid", "setpgid", "subreaper")
"""What can be asked for; ``loss``, ``resync``, ``dropped`` and ``end`` come unasked."""

BACKLOG_BYTES: Final = 1 << 20
"""What a subscriber may leave unread, beside what the socket holds."""

Details = Callable[[Task, Namespace], dict[str, Any]]

_TASK = wire.TASK.unpack_from
_pack = msgpack.Packer().pack


class Subscription:
    """What one subscriber wants, and what waits for it.

    Args:
        viewer: who it is: events of tasks that are not theirs are not told.
        namespace: as which pid namespace counts; tasks that have no number there are not told of.
        root: only the tree below this task; None: all.
        kinds: of `KINDS`.
        position: number of the first event that may be told.

    Attributes:
        told: events handed on.
        dropped: events that found no room, in all.
        ended: the root is gone: nothing will come any more.
    """

    def __init__(
        self, viewer: Viewer, namespace: Namespace, root: Task | None, kinds: Iterable[str], position: int
    ) -> None:
        self.viewer = viewer
        self.namespace = namespace
        self.root = root
        self.kinds = frozenset(kinds)
        self.position = position
        self.told = 0
        self.dropped = 0
        self.ended = False
        self._events: list[bytes] = []
        self._bytes = 0
        self._missing = 0

    def covers(self, task: Task) -> bool:
        """Whether a task is in the tree that is listened to."""
        return self.root is None or rules.descends_from(task, self.root)

    def wants(self, kind: str, state: TaskState, task: Task, *, covered: bool) -> bool:
        """Whether this is to be told; `covered`: it was in the tree until now."""
        return (
            kind in self.kinds
            and state.seq >= self.position
            and self.viewer.sees(state.uid, state.gid)
            and (covered or self.covers(task))
            and task.pid.number_in(self.namespace) > 0
        )

    def has_room(self, unsent_bytes: int) -> bool:
        """Whether an event may be queued; if not it is counted.

        Args:
            unsent_bytes: what has been taken already and the socket has not.
        """
        if self._missing or self._bytes + unsent_bytes > BACKLOG_BYTES:
            self._missing += 1
            self.dropped += 1
            return False
        return True

    def put(self, event: bytes) -> None:
        """Queue an event, packed."""
        self._events.append(event)
        self._bytes += len(event)

    @property
    def waiting(self) -> bool:
        """Whether `take` has something."""
        return bool(self._events or self._missing)

    def take(self, next_order: int) -> bytes:
        """What waits, as one packed map of the protocol.

        Args:
            next_order: number of the next record: everything before it has been told, or counted as dropped.
        """
        events = self._events
        if self._missing:
            events.append(_pack({"event": "dropped", "order": next_order, "count": self._missing}))
        self.told += len(events)
        packer = msgpack.Packer(autoreset=False)
        packer.pack_map_header(2)
        packer.pack("events")
        packer.pack_array_header(len(events))
        head: bytes = packer.bytes()
        self._events, self._bytes, self._missing = [], 0, 0
        return b"".join((head, *events, _pack("next"), _pack(next_order)))


class Feed:
    """Makes events of records, while somebody wants them.

    Args:
        stream: whose handlers are the table's.
        table: the table.

    Attributes:
        subscriptions: each with a function that gives its unsent bytes.
    """

    def __init__(self, stream: Stream, table: ProcessTable) -> None:
        self._stream = stream
        self._table = table
        self._lost = 0
        self._unsynced = False
        self.subscriptions: dict[Subscription, Callable[[], int]] = {}
        self._listeners = {  # and what events they make
            Kind.FORK: (self._fork, {"birth"}),
            Kind.EXEC: (self._exec, {"exec"}),
            Kind.EXIT: (self._exit, {"death", "reparent"}),
            Kind.SESSION: (self._session, {"setsid"}),
            Kind.GROUP: (self._session, {"setpgid"}),
            Kind.SUBREAPER: (self._subreaper, {"subreaper"}),
            Kind.STATE: (self._state, {"setsid", "setpgid", "subreaper", "reparent"}),
        }

    def add(self, subscription: Subscription, unsent: Callable[[], int]) -> None:
        """Begin to tell."""
        if not self.subscriptions:
            self._lost = self._stream.lost
            self._unsynced = self._stream.suspect
        self.subscriptions[subscription] = unsent
        self._listen()

    def remove(self, subscription: Subscription) -> None:
        """Tell no longer."""
        self.subscriptions.pop(subscription, None)
        self._listen()

    def _listen(self) -> None:
        """To the records that somebody's events are made of; the others go straight to the table."""
        wanted = frozenset[str]().union(*(each.kinds for each in self.subscriptions))
        for kind, (listener, makes) in self._listeners.items():
            self._stream.handle(kind, self._table.handlers[kind] if wanted.isdisjoint(makes) else listener)

    def settle(self) -> None:
        """Between two batches: what is not of a record. The caller has swept if that was due."""
        if not self.subscriptions:
            return
        self._tell_loss()
        if self._unsynced and not self._stream.suspect:
            self._unsynced = False
            self._tell_all({"event": "resync", "order": self._stream.next})
        for subscription in self.subscriptions:
            root = subscription.root
            if root is not None and root.pid.task is not root and not subscription.ended:
                subscription.ended = True
                subscription.put(_pack({"event": "end", "order": self._stream.next}))

    def _tell_all(self, event: dict[str, Any]) -> None:
        packed = _pack(event)
        for subscription in self.subscriptions:
            subscription.put(packed)

    def _tell_loss(self) -> None:
        lost = self._stream.lost - self._lost
        if lost:
            self._lost += lost
            self._unsynced = True
            self._tell_all({"event": "loss", "order": self._stream.next, "count": lost})

    def _tell(
        self,
        kind: str,
        state: TaskState,
        task: Task | None,
        make: Details,
        covering: Collection[Subscription] = (),
    ) -> None:
        """Tell those who want it; it is packed once for each namespace that somebody counts in.

        Args:
            kind, state, task: what, by which record, about whom.
            make: gives what is particular to the kind.
            covering: subscriptions in whose tree the task was until now.
        """
        if self._stream.lost != self._lost:
            self._tell_loss()
        if task is None:
            return
        packed: dict[Namespace, bytes] = {}
        for subscription, unsent in self.subscriptions.items():
            covered = subscription in covering
            if subscription.wants(kind, state, task, covered=covered) and subscription.has_room(unsent()):
                namespace = subscription.namespace
                if namespace not in packed:
                    packed[namespace] = _pack({"event": kind, **_who(state, task, namespace), **make(task, namespace)})
                subscription.put(packed[namespace])

    def _task(self, state: TaskState) -> Task | None:
        task = self._table.task(state.tid)
        return task if task is not None and task.pid.identity == state.pid else None

    # ---- records ---------------------------------------------------------------------------------------------------

    def _fork(self, data: Data, at: int) -> None:
        self._table.fork(data, at)
        state = TaskState(*_TASK(data, at))
        task = self._task(state)

        self._tell("birth", state, task, _birth)

    def _exec(self, data: Data, at: int) -> None:
        state = TaskState(*_TASK(data, at))
        caller = self._table.task(state.argument)  # the number that the calling thread had
        old = caller.pid if caller is not None else None
        self._table.exec(data, at)
        self._tell("exec", state, self._task(state), lambda _, namespace: {"old_tid": _number(old, namespace)})

    def _exit(self, data: Data, at: int) -> None:
        state = TaskState(*_TASK(data, at))
        task = self._task(state)
        # Told before it is applied: afterwards it may be in no tree any more.
        self._tell(
            "death",
            state,
            task,
            lambda _task, _namespace: {"exit_code": state.exit_code, "group_dead": bool(state.argument)},
        )
        children = tuple(task.children()) if task is not None else ()
        covering = {each for each in self.subscriptions if each.covers(task)} if task is not None and children else ()
        self._table.exit(data, at)
        for child in children:
            if child.pid.task is child and child.parent is not task:
                self._moved(child, state.seq, covering)

    def _moved(self, child: Task, order: int, covering: Collection[Subscription]) -> None:
        """Another parent: whoever leaves a tree that way is told of for the last time."""
        self._tell("reparent", _as_state(child, order), child, _parent, covering)

    def _session(self, data: Data, at: int) -> None:
        self._table.session(data, at)
        state = TaskState(*_TASK(data, at))
        self._tell_ids("setsid" if state.kind == Kind.SESSION else "setpgid", state, self._task(state))

    def _tell_ids(self, kind: str, state: TaskState, task: Task | None) -> None:
        self._tell(kind, state, task, _ids)

    def _subreaper(self, data: Data, at: int) -> None:
        self._table.subreaper(data, at)
        state = TaskState(*_TASK(data, at))
        self._tell_subreaper(state, self._task(state))

    def _tell_subreaper(self, state: TaskState, task: Task | None) -> None:
        self._tell("subreaper", state, task, lambda task, _namespace: {"on": bool(task.leader.flags & SUBREAPER)})

    def _state(self, data: Data, at: int) -> None:
        state = TaskState(*_TASK(data, at))
        task = self._task(state)
        leader = task.leader if task is not None else None
        before = (leader.sid, leader.pgid, leader.flags & SUBREAPER, leader.parent) if leader is not None else None
        covering = {each for each in self.subscriptions if each.covers(leader)} if leader is not None else ()
        self._table.state(data, at)
        if task is None and (entered := self._task(state)) is not None:
            for child in entered.children():  # whose parent was not known before
                self._moved(child, state.seq, ())
        if leader is None or before is None or leader.pid.task is not leader:
            return
        sid, pgid, subreaper, parent = before
        if leader.sid is not sid:
            self._tell_ids("setsid", state, leader)
        elif leader.pgid is not pgid:
            self._tell_ids("setpgid", state, leader)
        if leader.flags & SUBREAPER != subreaper:
            self._tell_subreaper(state, leader)
        if leader.parent is not parent:
            self._moved(leader, state.seq, covering)


def _as_state(task: Task, order: int) -> TaskState:
    """As much of a record as the telling of an event looks at, out of the table."""
    uid, gid = task.ids
    blank = TaskState(*(0,) * 20, b"", 0, 0, task.comm)
    return blank._replace(seq=order, start_ns=task.start_ns, uid=uid, gid=gid, tid=task.pid.numbers[0])


def _who(state: TaskState, task: Task, namespace: Namespace) -> dict[str, Any]:
    """What every event says of its task."""
    return {
        "order": state.seq,
        "pid": task.leader.pid.number_in(namespace),
        "tid": task.pid.number_in(namespace),
        "numbers": task.pid.numbers[namespace.level :],
        "start_ns": state.start_ns,
        "uid": state.uid,
        "gid": state.gid,
        "comm": state.comm.rstrip(b"\0"),
    }


def _birth(task: Task, namespace: Namespace) -> dict[str, Any]:
    return {
        **_parent(task, namespace),
        "creator": _thread(task.creator, namespace),
        **_ids(task, namespace),
        "flags": flag_names(task.clone_flags),
        "exit_signal": task.exit_signal,
    }


def _parent(task: Task, namespace: Namespace) -> dict[str, Any]:
    return {"parent": _thread(task.leader.parent, namespace)}


def _ids(task: Task, namespace: Namespace) -> dict[str, Any]:
    leader = task.leader
    return {"pgid": _number(leader.pgid, namespace), "sid": _number(leader.sid, namespace)}


def _number(pid: Pid | None, namespace: Namespace) -> int:
    return pid.number_in(namespace) if pid is not None else 0


def _thread(task: Task | None, namespace: Namespace) -> int:
    return _number(task.pid if task is not None else None, namespace)
