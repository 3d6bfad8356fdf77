# SPDX-License-Identifier: Apache-2.0
"""``ckptree daemon``: it watches all tasks, and answers on two Unix sockets.

One thread runs one loop: a timer drains the ring, requests drain it too, and a periodic sweep finds changes that no
event told. Under a service manager that keeps descriptors (agent.daemon.handover) the hooks outlive this process, and
so does its memory after an orderly end. The module imports as little as it can, for the process stays in memory.
"""

import contextlib
import gc
import grp
import math
import os
import resource
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from typing import NoReturn

from agent import interpreter
from agent.access import Policy
from agent.capture.memoryreader import UnusableMemoryError
from agent.capture.probes import Probes
from agent.capture.watch import Watch
from agent.config import Config
from agent.daemon import handover, heap, listeners, privileges, settings
from agent.daemon.backoff import Pace
from agent.daemon.journal import Journal
from agent.daemon.recording import Recorder
from agent.daemon.server import TELL_S, Server
from agent.daemon.servicemanager import Manager
from agent.daemon.subids import SubIds
from agent.errors import CkptreeError, HostError
from bpf.hooks import left_out

# For a process of its own, so that the daemon maps no compiler.
_COMPILE = (
    "from agent.daemon.journal import Journal; from bpf.loader import prepare; sys.exit(prepare(Journal().error))"
)
_EXTENSION_S = 30
_MOST_EXTENSIONS = 60  # five minutes
_UNHEARD_S = 2.0  # between sweeps for changes beyond a user's allowance, which no record announces
_NAMED_USERS = 8
_END_S = 5.0  # for a job that runs when the daemon is told to end
_DESCRIPTORS = 4096  # for twice as many clients as are let in, and the programs
_NICE = -15  # a storm of forks on every CPU must not keep the daemon from the ring that the storm fills


class Daemon:
    """The sockets, the timer and the watch between them.

    Args:
        config: socket, ring and intervals.
        manager: the service manager; it may have passed on the sockets, and the last daemon's kernel side and memory.
        log: for messages to the administrator.

    Attributes:
        watch: the watch.

    Raises:
        CkptreeError: another daemon listens there, or the watch cannot start.
    """

    def __init__(self, config: Config, manager: Manager, log: Journal) -> None:
        self._config = config
        self._manager = manager
        self.log = log
        self._selector = selectors.DefaultSelector()
        self._running = True
        self._told_to_end = False
        self._progress = -1
        group = group_id(config.group)
        if group is None and config.group not in ("", Config().group):
            text = f"there is no group {config.group!r} here: root alone sees every tree"
            self.log.warning(text)
        self._listeners = listeners.opened(config, group, manager.passed.listeners, log)
        self.recorder: Recorder | None = None
        try:
            if config.record is not None:
                readers = group if config.record_group_may_read else None
                if config.record_group_may_read and group is None:
                    text = f"there is no group {config.group!r} here that could read the recording"
                    log.warning(text)
                self.recorder = Recorder(config.record, config.record_max_bytes, config.record_max_age_s, log, readers)
            self.watch = self._begin()
        except BaseException:
            self._unlink()
            raise
        policy = Policy(os.geteuid(), group, SubIds().owner)
        tell_s = min(TELL_S, config.drain_interval_ms / 1000)
        self.server = Server(self.watch, self._listeners, self._selector, policy, log, tell_s)
        self.server.service.recorder = self.recorder
        self._heeded = False
        self._lost = self.watch.stream.lost  # the last daemon has reported its losses
        self._heed_ring(wanted=True)

    def _begin(self) -> Watch:
        """Go on with the last daemon's kernel side and memory, or load anew, and store the kernel side for the next."""
        order = handover.order(self._config.ring_bytes, left_out())
        left = handover.take(self._manager, order)
        if left.refusal:
            self.log.notice(f"what the last daemon has left is of no use: {left.refusal}; loading anew")
        probes = Probes(order.ring_bytes, order.without, left.loaded, Patience(self._manager).wait)
        probes.keep_strings(wanted=self._config.keep_arguments)
        self._catch_signals()  # from here on this process reads the ring, so its end must be orderly
        if left.loaded is None:
            handover.leave(self._manager, probes.loaded, order)
        recorder, memory = self.recorder, left.memory
        if recorder is not None:
            probes.record()
        if memory is not None:
            handover.forget_memory(self._manager)  # first: if reading it crashes this daemon, the next one goes without

            def begin_recording(watch: Watch) -> None:
                if recorder is not None:
                    recorder.begin(watch, memory)

            try:
                return Watch.resume(probes, memory, begin_recording)
            except UnusableMemoryError as error:
                self.log.notice(f"what the last daemon knew is of no use: {error}")
        watch = Watch.begin(probes)
        if recorder is not None:
            recorder.begin(watch)
        return watch

    def _catch_signals(self) -> None:
        reader, writer = socket.socketpair()
        for end in (reader, writer):
            end.setblocking(False)
        self._waker = writer
        self._selector.register(reader, selectors.EVENT_READ, self._stop)
        signal.set_wakeup_fd(writer.fileno())
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._heed_signal())

    def _heed_signal(self) -> None:
        """Let the first signal end the loop, which the byte from set_wakeup_fd() wakes; end at once at the second."""
        if self._told_to_end:
            self._break_off("told to end a second time while it did so")
        self._told_to_end = True

    def _break_off(self, why: str) -> NoReturn:
        """End this process, and a job that runs with it: the table may be in the middle of a change."""
        lost = "; the next daemon has to assume earlier births" if self._manager.listens else ""
        text = f"{why}: this daemon ends as it is{lost}"
        self.log.warning(text)
        self._unlink()
        os._exit(0)

    def run(self) -> None:
        """Run the loop until SIGTERM or SIGINT. Where a job goes on after that, the process ends here."""
        pace = Pace(self._config.drain_interval_ms / 1000, self._config.ring_bytes)
        worker = self.server.worker
        longest = self._manager.watchdog_s or math.inf
        swept = time.monotonic()
        withheld = self.watch.probes.page.withheld
        while self._running:
            behind = not worker.busy and (self.watch.behind or self.watch.is_in_doubt)
            wait = pace.wait_s(self.watch.stream.records, listened_to=self.server.listened_to)
            self._heed_ring(wanted=not worker.busy)
            ready = self._selector.select(0 if behind else min(self.server.wait_s(wait), longest))
            turn = self.server.service.turns.begin()
            for key, _ in ready:
                key.data(key.fileobj)
            turn.spent("clients")
            if not worker.busy:
                self.watch.tend()
            self._feed()
            turn.spent("ring")
            if self.recorder is not None and not worker.busy:
                self.recorder.tend()
                turn.spent("recorder")
            turn.spent(self.server.tend(hurry=behind))
            self.server.let_in()
            turn.spent("clients")
            now = time.monotonic()
            unheard = self.watch.probes.page.withheld != withheld and now - swept >= _UNHEARD_S
            due = unheard or now - swept >= self._config.sweep_interval_s
            if not worker.busy and (due or self.watch.is_in_doubt):
                if due:
                    swept = now
                    withheld = self._tell_of_withheld(withheld)
                    self.log.tend()
                    self._manager.status(self.counts)
                worker.start("sweep", self.server.service.rest if due else self.watch.mend)
            turn.end()
            self._tell_of_loss()
        self._manager.notify("STOPPING=1")
        if not worker.wait(_END_S):
            self._break_off(f"a job still runs {_END_S:g} s after the signal to end")
        left = self._manager.listens and handover.leave_memory(self._manager, self.watch.memory())
        if self._manager.listens and not left:
            self.log.warning("the service manager did not take what was known here")
        if self.recorder is not None:
            self.recorder.end(goes_on=left)
        self._unlink()

    def _tell_of_loss(self) -> None:
        """Log new losses, without their count, which `ckptree metrics` has."""
        if self.watch.stream.lost != self._lost:
            self._lost = self.watch.stream.lost
            text = (
                "records of the kernel side were lost, and births with them; the table is compared with the kernel now. "
                "A larger ring_bytes takes larger storms"
            )
            self.log.warning(text)

    def _tell_of_withheld(self, before: int) -> int:
        """Log the users whose changes of groups or flags exceed their allowances; return the count of such changes so
        far.
        """
        probes = self.watch.probes
        count = probes.page.withheld
        if count != before:
            users = sorted(probes.withheld())
            named = ", ".join(map(str, users[:_NAMED_USERS])) + (", ..." if len(users) > _NAMED_USERS else "")
            text = (
                f"processes of user {named} change their process groups or subreaper flags more often than is announced "
                "one by one; the table is compared with the kernel instead"
            )
            self.log.warning(text)
        return count

    def _heed_ring(self, *, wanted: bool) -> None:
        """Select on the ring, or not: it stays readable until it is read, and while a job runs the loop must not."""
        if wanted is not self._heeded:
            self._heeded = wanted
            if wanted:
                self._selector.register(self.watch.probes, selectors.EVENT_READ, lambda _: None)  # only to wake up
            else:
                self._selector.unregister(self.watch.probes)

    @property
    def addresses(self) -> str:
        """The paths of the sockets, for the log."""
        return " and ".join(listener.path for listener in self._listeners)

    @property
    def lineage(self) -> str:
        """The origin of hooks and births, for the log."""
        if self.watch.remembers:
            return " (hooks and births taken over)"
        return " (hooks taken over, earlier births assumed)" if self.watch.probes.is_taken_over else ""

    @property
    def counts(self) -> str:
        """The state of the daemon in a line."""
        watch = self.watch
        return (
            f"watching {len(watch.table.tasks())} tasks in {len(watch.table.pids.living())} pid namespaces; "
            f"{watch.stream.records} records, {watch.stream.lost} lost, {watch.totals.snapshots} snapshots"
        )

    def _feed(self) -> None:
        """Feed the watchdog, if the ring is empty or has been read since the last call."""
        ring = self.watch.probes.ring
        if not ring.pending or ring.position != self._progress:
            self._manager.feed()
            self._progress = ring.position

    def _stop(self, reader: socket.socket) -> None:
        reader.recv(64)
        self._running = False

    def _unlink(self) -> None:
        """Remove the sockets that this process has made."""
        for listener in self._listeners:
            listener.remove()


class Patience:
    """Requests for more time to the service manager while programs are compiled, up to a bound.

    Args:
        manager: the service manager.
    """

    def __init__(self, manager: Manager) -> None:
        self._manager = manager
        self._asked = 0

    def wait(self) -> None:
        """Request more time; called every few seconds."""
        self._asked += 1
        if self._asked <= _MOST_EXTENSIONS:
            self._manager.notify(f"EXTEND_TIMEOUT_USEC={_EXTENSION_S * 1_000_000}", "STATUS=compiling BPF programs")


def check_sight(tasks: int) -> None:
    """Refuse to start where the table has no task: this process is one.

    Raises:
        HostError: the table is empty.
    """
    if not tasks:
        raise HostError(
            "the kernel's task iterator shows no task at all, not even this process: the daemon would answer every "
            "question wrongly. Start it in the host's pid namespace, and see what `ckptree doctor` says"
        )


def check_access(skipped: Callable[[], int]) -> None:
    """Refuse to start where the kernel demands CAP_BPF for every call of bpf(2): the daemon has given it up.

    Args:
        skipped: reads a count of the loaded programs by bpf(2).

    Raises:
        HostError: the kernel refuses that call.
    """
    try:
        skipped()
    except PermissionError as error:
        raise HostError(
            "this kernel demands CAP_BPF for loaded programs too, and the daemon gives up every right "
            f"before it answers ({error.strerror}). `sysctl kernel.unprivileged_bpf_disabled=0` permits it, or boot a "
            "newer kernel (docs/matrix.md); without the daemon, `ckptree snapshot --source bpf` works for root"
        ) from None


def _go_first() -> None:
    """Ask the scheduler to have this process run before others, as far as that is permitted.

    Where the kernel groups processes by session (sched(7), autogroup), a nice value counts among those of a session
    alone, and the group has one of its own. A session with another leader, a shell's for example, stays as it is.
    """
    with contextlib.suppress(PermissionError):
        os.nice(_NICE)
    if os.getsid(0) == os.getpid():
        # Without that right, or on another kernel, this fails: a service manager weighs groups of its own.
        with contextlib.suppress(OSError), open("/proc/self/autogroup", "r+b", buffering=0) as autogroup:
            autogroup.write(b"%d" % _NICE)


def _hold_many() -> None:
    """Raise the limit of open descriptors as far as is permitted: a client takes two, its socket and its process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _DESCRIPTORS if hard == resource.RLIM_INFINITY else min(_DESCRIPTORS, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def group_id(name: str) -> int | None:
    """Return the id of a group; None where there is none of that name."""
    try:
        return grp.getgrnam(name).gr_gid if name else None
    except KeyError:
        return None


def main(argv: Sequence[str] | None = None) -> int:
    """Run in the foreground; return the exit code."""
    journal = Journal()
    try:
        argv = sys.argv[1:] if argv is None else argv
        config = settings.parse(argv)
        if settings.only_compiles(argv):
            os.execv(sys.executable, interpreter.command(_COMPILE))  # noqa: S606 - the same interpreter
        _go_first()
        _hold_many()
        heap.share()
        manager = Manager(os.environ)
        gc.collect()
        gc.disable()  # dead objects of the table form no cycles; `rest` collects cycles of other objects
        daemon = Daemon(config, manager, journal)
        check_sight(len(daemon.watch.table.tasks()))
        privileges.drop()
        check_access(daemon.watch.probes.skipped)
        daemon.server.worker.prepare()  # without those rights, too
        gc.freeze()  # all present objects stay for good, so that collections need not visit them
        journal.notice(
            f"watching {len(daemon.watch.table.tasks())} tasks{daemon.lineage}, listening on {daemon.addresses}"
        )
        if daemon.watch.blind:
            journal.warning(
                f"no hook for {', '.join(daemon.watch.blind)} works here, so every snapshot walks all tasks of "
                "the host; `ckptree status` shows what was tried. Where tracefs is not mounted, mounting it at "
                "/sys/kernel/tracing helps, or CAP_SYS_ADMIN at the start. Under systemd stop it before: a restart keeps "
                "the hooks there are"
            )
        manager.notify("READY=1", f"STATUS={daemon.counts}")
        daemon.run()
    except SystemExit as done:  # argparse's way to end: after --help, or a usage error
        return done.code if isinstance(done.code, int) else 0
    except CkptreeError as error:
        journal.error(str(error))
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
