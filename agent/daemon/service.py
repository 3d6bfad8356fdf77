# SPDX-License-Identifier: Apache-2.0
"""The verbs of the daemon: each turns a request of a client into an answer. No socket, and no call that waits.

docs/protocol.md has every argument and every result.
"""

import os
import time
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, cast, get_args

from agent import VERSION, rootname
from agent.access import Viewer
from agent.capture.snapshots import Snapshots
from agent.capture.watch import DRAIN_S, Watch
from agent.daemon import heap, metrics
from agent.daemon.asker import Asker, Clients
from agent.daemon.audit import Audit
from agent.daemon.journal import Journal
from agent.daemon.keptimages import KeptImages
from agent.daemon.quota import check_subscriptions, check_unsent
from agent.errors import CkptreeError, HostError, NotPermittedError, UsageError
from agent.events import eventfacts
from agent.events.feed import Feed
from agent.events.subscriber import ARGUMENTS, KINDS, Subscriber
from agent.model import Dialect, Snapshot
from agent.proc import host
from agent.protocol import codec
from agent.selection.lookup import Sees
from agent.selection.select import Selection
from agent.table.areas import compare
from agent.table.objects import TaskStruct
from exporters import registry

if TYPE_CHECKING:
    from agent.daemon.recording import Recorder

_FEATURES = (
    "snapshot",
    "subscribe",
    "status",
    "metrics",
    "order",
    "peer-credentials",
    "several-roots",
    "strings",
    "arguments",
)

_KEPT_S: Final = 10.0

_DIALECTS: Final = get_args(Dialect)
_OF_ROOT = ("strings", "arguments")


class Service:
    """The verbs over a watch.

    Args:
        watch: the source of all answers.
        log: takes a line for each snapshot and subscription.
        unsent_of: gives the count of bytes that the clients of a user have not fetched yet.

    Attributes:
        feed: the live events.
        clients, turns: counted by the server and the loop.
        recorder: of the watch; None: nothing is recorded.
    """

    def __init__(self, watch: Watch, log: Journal, unsent_of: Callable[[int], int]) -> None:
        self.watch = watch
        self.snapshots = Snapshots(watch)
        self.feed = watch.feed = Feed(watch.stream, watch.table, time.time_ns, host.realtime_ahead_ns)
        self.clients = Clients()
        self.turns = metrics.Turns()
        self.recorder: Recorder | None = None
        self._unsent_of = unsent_of
        self._log = log
        self._audit = Audit(log)
        self._images = KeptImages()
        self._seconds = metrics.Histogram(metrics.SNAPSHOT_SECONDS)
        self._started = time.monotonic()
        self._arguments_told = False
        self._events_gone = Counter[str](told=0, dropped=0)
        self._verbs: dict[str, Callable[[codec.Message, Asker], codec.Message]] = {
            "snapshot": self._snapshot,
            "hello": self._hello,
            "subscribe": self._subscribe,
            "strings": self._strings,
            "status": self._status,
            "metrics": self._metrics,
            "events": self._enquiry,
            "history": self._enquiry,
        }

    def is_heavy(self, request: codec.Message) -> bool:
        """Return True if the answer may take so long that the worker is to make it."""
        return codec.verb(request) not in ("hello", "status", "metrics", "other") and self.watch.is_busy

    def rest(self, kept_s: float = _KEPT_S) -> None:
        """Do the watch's periodic work, and free what is kept for further snapshots.

        Args:
            kept_s: what is kept of a tree stays for so long after the last snapshot of it.
        """
        self.snapshots.rest(self._images.forget_before(time.monotonic() - kept_s))
        heap.give_back()

    def packed(self, request: codec.Message, asker: Asker) -> bytes:
        """Return the answer to a request, packed."""
        return codec.pack(self.answer(request, asker))

    def answer(self, request: codec.Message, asker: Asker) -> codec.Message:
        """Return the answer to a request. Every request gets one, and none ends the watch."""
        self.clients.requests[codec.verb(request)] += 1
        try:
            return {"ok": True, **self._verbs[codec.choice(request, "verb", codec.VERBS)](request, asker)}
        except CkptreeError as error:
            answer = codec.failure(error)
        except Exception as error:  # noqa: BLE001 - one request must not end the watch for all clients
            from traceback import format_exc  # with all that it imports it takes 0.2 MB, mostly for nothing

            self._log.error(format_exc().rstrip())
            text = f": {error!r}" if asker.viewer.privileged else ""
            answer = codec.failure(CkptreeError(f"internal error, see the daemon's log{text}"))
        self.clients.refused[answer["kind"]] += 1
        return answer

    def forget(self, asker: Asker) -> None:
        """End the subscription of a client that has closed its connection."""
        asker.unsent = int  # breaks the circle of asker and conversation, for the garbage collector is off
        if asker.process is not None:
            asker.process.close()
        subscription = asker.subscription
        if subscription is not None:
            self._remove(subscription)
            self._events_gone.update(told=subscription.told, dropped=subscription.dropped)
            asker.subscription = None

    # ---- verbs -----------------------------------------------------------------------------------------------------

    def _hello(self, request: codec.Message, asker: Asker) -> codec.Message:
        asker.protocol = codec.common_version(request.get("protocols"))
        viewer = asker.viewer
        offered = _FEATURES if self.recorder is None else (*_FEATURES, "past")
        return {
            "protocol": asker.protocol,
            "protocols": list(codec.PROTOCOLS),
            "version": VERSION,
            "boot_id": self.snapshots.boot_id,
            "features": [each for each in offered if each not in _OF_ROOT or viewer.uid == 0],
            "formats": list(registry.LOSSLESS),
            "events": list(KINDS),
            "peer": {"pid": viewer.pid, "uid": viewer.uid, "gid": viewer.gid, "sees": viewer.scope},
        }

    def _snapshot(self, request: codec.Message, asker: Asker) -> codec.Message:
        if request.get("at") is not None:
            return self._enquiry(request, asker)
        mode = codec.choice(request, "mode", ("auto", "container", "subtree"))
        fmt = codec.choice(request, "format", registry.LOSSLESS)
        dialect = cast("Dialect", codec.choice(request, "dialect", _DIALECTS))
        begin = time.perf_counter_ns()
        said: dict[str, Any] = {"mode": mode, "format": fmt}
        try:
            check_unsent(self._unsent_of(asker.viewer.account), asker.viewer)
            root = self._find(request, asker)
            outer: list[tuple[int, ...]] = []
            snapshot = self._taken(root, mode, request, asker, self._noting_outer(request, asker, outer))
            data = self._images.make(root, snapshot, fmt, dialect, time.monotonic())
            said |= {"mode": snapshot.mode, "tasks": len(snapshot.tasks)}
        except CkptreeError as error:
            self._written("snapshot", request, asker, begin, said, codec.failure(error)["kind"])
            raise
        elapsed = self._written("snapshot", request, asker, begin, said, "ok")
        self._seconds.add(elapsed / 1e9)
        answer = {"data": data, **codec.about(snapshot), "order": snapshot.completeness.order, "elapsed_ns": elapsed}
        return answer | {"outer": outer} if request.get("outer") else answer

    def _strings(self, request: codec.Message, asker: Asker) -> codec.Message:
        shown = [codec.shown_area(request, key) for key in ("arguments", "environment")]
        if asker.viewer.uid != 0:  # the table does not know from whom the kernel hides the memory of a process
            raise NotPermittedError("strings: only root may compare strings, for no other user may read all memory")
        task = self._find(request, asker)
        told = task.strings if request.get("start_ns") == task.start_ns else None
        key = self.watch.probes.string_key
        areas = [compare(area, *what, key) for area, what in zip(told or (None, None), shown, strict=True)]
        return dict(zip(("arguments", "environment"), areas, strict=True))

    def _subscribe(self, request: codec.Message, asker: Asker) -> codec.Message:
        if asker.subscription is not None:
            raise UsageError("subscribed already: a connection carries one subscription")
        check_subscriptions([each.viewer for each in self.feed.subscribers], asker.viewer)
        check_unsent(self._unsent_of(asker.viewer.account), asker.viewer)
        kinds = request.get("kinds", KINDS)
        if not isinstance(kinds, (list, tuple)) or not all(kind in KINDS for kind in kinds):
            raise UsageError(f"kinds: expected a list of some of {', '.join(KINDS)}")
        if request.get("arguments"):
            if asker.viewer.uid != 0:  # the table does not know from whom the kernel hides the memory of a process
                raise NotPermittedError(
                    "arguments: only root is told those of execs, for no other user may read all memory"
                )
            kinds = (*kinds, ARGUMENTS)
        named = codec.root_texts(request)
        roots = tuple(dict.fromkeys(self._find({"root": text}, asker) for text in named))
        wanted = request.get("snapshot", len(roots) == 1)
        if wanted and len(roots) != 1:
            raise UsageError("snapshot: there is one only where one root is named")
        namespace = self._caller(asker).pid.namespace
        made: list[Subscriber] = []
        ids: list[list[Any]] = []

        def begin_telling(chosen: Selection | None = None) -> None:
            if chosen is not None:
                ids.extend(eventfacts.row(task, namespace) for task in chosen.inside)
            subscription = Subscriber(asker.viewer, namespace, roots, kinds, self.watch.stream.next)
            self.feed.add(subscription, asker.unsent)
            self._tell_arguments()
            made.append(subscription)

        try:
            if wanted:
                answer = self._first_snapshot(roots[0], request, asker, begin_telling) | {"ids": ids}
            else:
                answer = {"snapshot": None}
                begin = time.perf_counter_ns()
                self.watch.catch_up()
                begin_telling()
                self._written("subscribe", request, asker, begin, {}, "ok")
        except BaseException:
            for subscription in made:
                self._remove(subscription)
            raise
        (asker.subscription,) = made
        return answer | {"order": asker.subscription.position}

    def _remove(self, subscription: Subscriber) -> None:
        self.feed.remove(subscription)
        self._tell_arguments()

    def _tell_arguments(self) -> None:
        """Have the exec hook tell the text of arguments exactly as long as a subscriber asks for it."""
        wanted = self.feed.tells_arguments
        if wanted != self._arguments_told:
            self._arguments_told = wanted
            self.watch.probes.tell_arguments(wanted=wanted)

    def _first_snapshot(
        self, root: TaskStruct, request: codec.Message, asker: Asker, at_cut: Callable[[Selection], None]
    ) -> codec.Message:
        begin = time.perf_counter_ns()
        said: dict[str, Any] = {"mode": "subtree", "format": "ckpt"}
        try:
            snapshot = self._taken(root, "subtree", request, asker, at_cut)
            data = self._images.make(root, snapshot, "ckpt", snapshot.dialect, time.monotonic())
        except CkptreeError as error:
            self._written("subscribe", request, asker, begin, said, codec.failure(error)["kind"])
            raise
        said["tasks"] = len(snapshot.tasks)
        elapsed = self._written("subscribe", request, asker, begin, said, "ok")
        return {"snapshot": data, **codec.about(snapshot), "elapsed_ns": elapsed}

    def _status(self, _request: codec.Message, asker: Asker) -> codec.Message:
        watch = self.watch
        watch.drain(longest_s=DRAIN_S)
        counts, totals = watch.table.counts, watch.totals
        return {
            "pid": os.getpid(),
            "version": VERSION,
            "protocol": asker.protocol,
            "sees": asker.viewer.scope,
            "uptime_s": round(time.monotonic() - self._started, 3),
            "tasks": len(watch.table.tasks()),
            "namespaces": len(watch.table.pids.living()),
            "records": watch.stream.records,
            "lost": watch.stream.lost,
            "skipped": totals.skipped,
            "withheld": watch.probes.page.withheld,
            "sweeps": totals.sweeps,
            "snapshots": totals.snapshots,
            "anomalies": counts.anomalies,
            "repairs": counts.repairs,
            "assumed": counts.assumed,
            "clients": self.clients.connected,
            "subscribers": len(self.feed.subscribers),
            "longest_turn_ms": round(self.turns.longest_s * 1e3, 1),
            "ring_bytes": watch.probes.ring.size,
            "ring_pending": watch.probes.ring.pending,
            **self._recording(),
            "hooks": watch.probes.hooks,
            "tried": watch.probes.tried,
            "missing": watch.probes.missing,
        }

    def _metrics(self, _request: codec.Message, _asker: Asker) -> codec.Message:
        self.watch.drain(longest_s=DRAIN_S)
        clients, live = self.clients, self.feed.subscribers
        return {
            "version": VERSION,
            "uptime_s": time.monotonic() - self._started,
            **metrics.of_watch(self.watch),
            "snapshots": self.watch.totals.snapshots,
            "snapshot_seconds": self._seconds.data(),
            "clients": {
                "connected": clients.connected,
                "most_connected": clients.most_connected,
                "accepted": clients.accepted,
                "turned_away": dict(clients.turned_away),
                "expired": dict(clients.expired),
                "sent_bytes": clients.sent_bytes,
            },
            "requests": dict.fromkeys(self._verbs, 0) | dict(clients.requests),
            "refused": dict(clients.refused),
            "subscribers": len(live),
            "events": {
                "told": self._events_gone["told"] + sum(each.told for each in live),
                "dropped": self._events_gone["dropped"] + sum(each.dropped for each in live),
            },
            "log_lines_dropped": self._log.dropped,
            **self._recording(),
            "loop": self.turns.data(),
        }

    def _enquiry(self, request: codec.Message, asker: Asker) -> codec.Message:
        """Return the question about the past in a request, for agent.daemon.enquiries."""
        if self.recorder is None:
            raise HostError("this daemon records nothing: see [record] in its configuration (docs/recording.md)")
        check_unsent(self._unsent_of(asker.viewer.account), asker.viewer)
        namespace = self._caller(asker).pid.namespace
        question = {**request, "namespace": namespace.identity, "boot_id": self.snapshots.boot_id}
        return {"folder": os.fspath(self.recorder.place), "question": question}

    def note_enquiry(self, found: codec.Message, asker: Asker, begin_s: float, result: str) -> None:
        """Write the audit line of a question about the past."""
        question = found["question"]
        begin_ns = time.perf_counter_ns() - int((time.monotonic() - begin_s) * 1e9)
        self._written(f"past {codec.verb(question)}", question, asker, begin_ns, {}, result)

    def _recording(self) -> codec.Message:
        return {"recording": self.recorder.figures()} if self.recorder is not None else {}

    # ---- helpers of several verbs ----------------------------------------------------------------------------------

    def _caller(self, asker: Asker) -> TaskStruct:
        """Return the client's task. It is looked up once, for after its end another task may get its number.

        Raises:
            NotPermittedError: the process that connected has ended before, so nothing tells the pid namespace that
                limits the client's sight.
            BusyError: the table is not up to date.
        """
        if asker.task is None:
            task = self.snapshots.caller(asker.viewer.pid)
            # Asked after the lookup: a process that lives now had its number then.
            if task is None or (asker.process is not None and asker.process.has_ended):
                raise NotPermittedError("not permitted: the process that connected is gone: connect again")
            asker.task = task
        return asker.task

    def _find(self, request: codec.Message, asker: Asker) -> TaskStruct:
        return self.snapshots.find(rootname.parse(codec.root_text(request)), self._caller(asker), _sees(asker.viewer))

    def _noting_outer(
        self, request: codec.Message, asker: Asker, outer: list[tuple[int, ...]]
    ) -> Callable[[Selection], None]:
        """Return the function that fills `outer` at the cut, if the client wants to know it."""
        if not request.get("outer"):
            return lambda _: None
        namespace = self._caller(asker).pid.namespace
        return lambda chosen: outer.extend(chosen.refs.above(namespace))

    def _written(
        self, verb: str, request: codec.Message, asker: Asker, begin_ns: int, said: dict[str, Any], result: str
    ) -> int:
        """Write the audit line of a request; return the time since `begin_ns`, ns."""
        elapsed = time.perf_counter_ns() - begin_ns
        comm = asker.task.comm.rstrip(b"\0") if asker.task is not None else ""
        self._audit.write(verb, asker.viewer, comm, request.get("root"), said, result, elapsed, time.monotonic())
        return elapsed

    def _taken(
        self,
        root: TaskStruct,
        mode: str,
        request: codec.Message,
        asker: Asker,
        at_cut: Callable[[Selection], None] = lambda _: None,
    ) -> Snapshot:
        return self.snapshots.take(
            root,
            mode,
            without_entered=bool(request.get("without_entered")),
            sees=_sees(asker.viewer),
            at_cut=at_cut,
        )


def _sees(viewer: Viewer) -> Sees | None:
    return None if viewer.privileged else viewer.sees_ids
