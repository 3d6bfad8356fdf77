# SPDX-License-Identifier: Apache-2.0
"""The daemon's side of its recording: the tap, the process that writes, and the forks that make keyframes.

Nothing here waits. Where the writer does not keep up, or cannot write, the tape has a gap: the recording goes on with a new
keyframe, and the gap is told in whatever is answered for that time.
"""

import contextlib
import fcntl
import json
import os
import signal
import socket
import sys
import time
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, NoReturn

from agent import VERSION, interpreter
from agent.capture import memorywriter
from agent.capture.watch import Watch
from agent.daemon.journal import Journal
from agent.errors import HostError
from agent.proc import host
from agent.record import named
from agent.recorder import folder, folderrights
from agent.recorder.channel import Channel
from agent.recorder.marks import MARK
from agent.recorder.tap import Tap
from agent.table import wire

CHANNEL_BYTES: Final = 1 << 24
_RECORDS_PER_TASK: Final = 24  # the cost of a keyframe grows with the tasks, that of a replay with the records
_LEAST_RECORDS, _MOST_RECORDS = 200_000, 300_000  # a replay of the most takes a second
_KEYFRAME_S: Final = 3600.0
_RETRY_S: Final = 5.0
_PART_OF_MOST: Final = 16  # so much of the most bytes is a segment at most, for segments are dropped whole
_LEAST_REST_S, _MOST_REST_S = 1.0, 60.0
_END_S: Final = 10.0
_CHUNK: Final = 1 << 20
_MESSAGE_BYTES: Final = 1 << 12
_FIRST_FD: Final = 10
_STANDARD_FDS: Final = 3
_LAST_FD: Final = 1 << 20
_FORKS_NICE: Final = 40
_BEGAN: Final = "the daemon began"
_BEHIND: Final = "the writer fell behind"
_ENDED: Final = "the writer ended"
_FAILED: Final = "the writer could not write"
_PROGRAM: Final = (
    "from agent.daemon.privileges import drop; drop(); "
    "from agent.recorder.writer import main; sys.exit(main(sys.argv[1:]))"
)


def keyframe_interval(tasks: int) -> int:
    """Return the count of records between two keyframes of a host that has so many tasks."""
    return max(_LEAST_RECORDS, min(_MOST_RECORDS, _RECORDS_PER_TASK * tasks))


class Recorder:
    """The recorder of one watch.

    Args:
        place: the folder.
        max_bytes, max_age_s: bounds of what is kept.
        log: for messages to the administrator.
        readers: number of the group that may read the recording, too; None: none may.

    Raises:
        HostError: the library that compresses is missing.
    """

    def __init__(self, place: Path, max_bytes: int, max_age_s: int, log: Journal, readers: int | None = None) -> None:
        if find_spec("zstandard") is None:
            raise HostError(
                "a recording is compressed by Python's zstandard, which is missing: install python3-zstandard, or "
                "ckptree[record]; or leave out the recording"
            )
        self.place, self._max_bytes, self._max_age_s, self._log = place, max_bytes, max_age_s, log
        self._readers = "" if readers is None else str(readers)
        self._host = named(host.header())
        self._boot_id = host.boot_id()
        self._watch: Watch | None = None
        self._tap: Tap | None = None
        self._keyframes = 0
        self._child = 0
        self._began_s = 0.0
        self._first = 0
        self._keyed = True
        self._again_s = 0.0
        self._rest_s = _LEAST_REST_S
        self._why = ""
        self._fatal = ""
        self._waits = ""  # why the writer does not write yet
        self._has_written = True  # since the last gap that was counted
        self._gaps = 0
        self._has_begun = self._has_segments()
        self._warn_of_others()
        self._longest_s = 0.0
        self._told: dict[str, Any] = {}
        self._start_writer()

    def _has_segments(self) -> bool:
        """Return True if the folder has a recording already, which a new one goes on behind a gap."""
        try:
            return bool(folder.stored(self.place))
        except HostError:  # there is none yet; or the writer says why it cannot write there
            return False

    def _warn_of_others(self) -> None:
        """Say so where the folder has files that are none of a recording."""
        with contextlib.suppress(OSError):  # there is none yet; or the writer says why it cannot write there
            found = folderrights.foreign_names(self.place)
            if found:
                named = folderrights.some_of(found)
                self._log.warning(f"{self.place}: it has other files, as {named}: better name a folder of its own")

    def _start_writer(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._channel = Channel.create(CHANNEL_BYTES)
        self._control = ours
        ours.setblocking(False)
        # Above the numbers that the writer gets, so that none of them is closed before it is passed.
        passed = (self._channel.memory, self._channel.bell, theirs.fileno())
        above = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _FIRST_FD + len(passed)) for fd in passed]
        numbers = range(_FIRST_FD, _FIRST_FD + len(passed))
        arguments = interpreter.command(_PROGRAM, os.fspath(self.place), *map(str, numbers))
        arguments += [str(self._max_bytes), str(self._max_age_s), self._readers]
        moves = [(os.POSIX_SPAWN_DUP2, fd, number) for fd, number in zip(above, numbers, strict=True)]
        self._writer = os.posix_spawn(sys.executable, arguments, os.environ, file_actions=moves)
        for fd in above:
            os.close(fd)
        theirs.close()

    # ---- the beginning and the end of a tape -----------------------------------------------------------------------

    def begin(self, watch: Watch, keyframe: bytes | None = None) -> None:
        """Begin to record a watch.

        Args:
            watch: nothing may be consumed meanwhile.
            keyframe: the memory from which it goes on; None: it has begun by itself.
        """
        self._watch = watch
        self._tap = Tap(watch, self._channel)
        continues = keyframe is not None
        if not continues and self._has_begun:
            self._gaps += 1
            self._has_written = False
        self._mark("" if continues else _BEGAN, keyframe, continues=continues)

    def end(self, *, goes_on: bool) -> None:
        """End the recording, in order; return once the writer has written all.

        Args:
            goes_on: True where the next daemon has the memory of the watch.
        """
        if self._tap is not None:
            self._tap.end(goes_on=goes_on)
            self._channel.ring()
        self._control.close()
        deadline = time.monotonic() + _END_S
        while time.monotonic() < deadline:
            ended, status = os.waitpid(self._writer, os.WNOHANG) if self._writer else (1, 0)
            if ended:
                if status:
                    self._log.warning(f"the end is not recorded: {self._waits or _ENDED}")
                return
            time.sleep(0.01)
        self._log.warning("the recording's writer does not end: it is left to itself")

    # ---- called by the loop ----------------------------------------------------------------------------------------

    def tend(self) -> None:
        """Do what is due, in each turn of the loop in which no job has the watch."""
        self._channel.ring()
        self._hear()
        tap = self._tap
        if tap is None:
            return
        self._reap()
        if tap.whole:
            tap.look()
            self._rotate(tap)
        elif not self._child:
            self._go_on()

    def _rotate(self, tap: Tap) -> None:
        """Begin a segment where one is due."""
        watch = self._watch
        if self._child or watch is None or not tap.whole:
            return
        old_s = time.monotonic() - self._began_s
        records = watch.stream.next - self._first
        large = self._told.get("segment_bytes", 0) > self._max_bytes // _PART_OF_MOST
        if (
            records >= keyframe_interval(len(watch.table.pids.numbers))
            or (records and old_s >= _KEYFRAME_S)
            or ((large or not self._keyed) and old_s >= _RETRY_S)
        ):
            self._mark("", continues=True)

    def _go_on(self) -> None:
        """Go on after a gap, once there is room and the writer can write."""
        now = time.monotonic()
        if not self._why:
            self._why = _BEHIND
        if now < self._again_s or (self._writer and self._channel.pending >= CHANNEL_BYTES // 2):
            return
        why = self._why
        if not self._writer:
            self._channel.close()
            self._waits = self._fatal
            self._start_writer()
            if self._watch is not None:
                self._tap = Tap(self._watch, self._channel)
        is_same = why == _BEGAN or (self._fatal and not self._has_written)  # no writer could begin meanwhile
        if not is_same:
            self._gaps += 1
            self._log.warning(f"the recording has a gap: {why}")
        self._has_written = False
        self._why = ""
        self._mark(why, continues=False)

    def _hear(self) -> None:
        """Hear what the writer reports."""
        while self._writer:
            try:
                message = self._control.recv(_MESSAGE_BYTES)
            except BlockingIOError:
                return
            except ConnectionResetError:  # it has ended and left something unread; what it said comes behind that
                continue
            except OSError:
                message = b""
            if not message:
                self._lose_writer()
                return
            said = json.loads(message)
            if "fatal" in said:
                if said["fatal"] != self._fatal:
                    self._fatal = said["fatal"]
                    self._log.error(f"nothing is recorded: {self._fatal}")
                continue
            if "waits" in said:
                self._waits = said["waits"]
                if said["long"] and self._waits != self._fatal:
                    self._log.warning(f"nothing is recorded yet: {self._waits}")
                continue
            self._fatal = self._waits = ""
            if "overlaps" in said:  # another daemon has recorded what came while the writer waited for the folder
                self._stop(_BEGAN)
                self._again_s = 0.0
                continue
            self._has_written = True
            before, self._told = self._told.get("error", ""), said
            if said["error"]:
                self._stop(f"{_FAILED}: {said['error']}")
                if not before:
                    self._log.warning(f"the recording stops: {self.place}: {said['error']}")
            else:
                self._rest_s = _LEAST_REST_S

    def _lose_writer(self) -> None:
        """Note that the writer has ended; another one is started after a while."""
        if self._tap is not None:
            self._tap.close()
        self._control.close()
        os.waitpid(self._writer, 0)
        self._writer = 0
        self._waits = ""
        self._stop(self._fatal or _ENDED)

    def _stop(self, why: str) -> None:
        if self._why != why:
            self._why = why
            self._again_s = time.monotonic() + self._rest_s
            self._rest_s = min(2 * self._rest_s, _MOST_REST_S)
        if self._tap is not None:
            self._tap.whole = False

    def figures(self) -> dict[str, Any]:
        """Return the state of the recording, for status and metrics."""
        told = self._told
        is_whole = self._tap is not None and self._tap.whole
        if self._waits:
            state = f"waiting: {self._waits}"
        else:
            state = "recording" if is_whole else f"stopped: {self._why or _BEHIND}"
        return {
            "folder": os.fspath(self.place),
            "state": state,
            "active": int(is_whole and not self._waits),
            "bytes": told.get("bytes", 0),
            "segments": told.get("segments", 0),
            "dropped_segments": told.get("dropped", 0),
            "gaps": self._gaps,
            "tape_bytes": told.get("tape_bytes", 0),
            "written_bytes": told.get("written_bytes", 0),
            "longest_fork_s": round(self._longest_s, 6),
            "next": self._watch.stream.next if self._watch is not None else 0,
        }

    # ---- keyframes -------------------------------------------------------------------------------------------------

    def _mark(self, why: str, keyframe: bytes | None = None, *, continues: bool) -> None:
        watch, tap = self._watch, self._tap
        if watch is None or tap is None:
            return
        self._keyframes += 1
        self._first = watch.stream.next
        self._began_s = time.monotonic()
        self._told["segment_bytes"] = 0
        said = {
            "keyframe": self._keyframes,
            "first": watch.stream.next,
            "continues": continues,
            "why": why,
            "boot_id": self._boot_id,
            "ring": watch.probes.ring_name,
            "boottime_ns": time.clock_gettime_ns(time.CLOCK_BOOTTIME),
            "realtime_ns": time.time_ns(),
            "monotonic_ns": time.monotonic_ns(),
            "head_bytes": wire.HEAD.size,
            "memory": memorywriter.VERSION,
            "by": VERSION,
            "host": self._host,
        }
        if tap.begin(MARK, json.dumps(said, default=list).encode()):
            self._fork((lambda: keyframe) if keyframe is not None else watch.memory)
            self._channel.ring()
            self._longest_s = max(self._longest_s, time.monotonic() - self._began_s)

    def _fork(self, make: Callable[[], bytes]) -> None:
        """Have a fork of this process make a keyframe and pass it to the writer; without one the segment goes on."""
        self._keyed = False
        reader, writer = os.pipe2(os.O_CLOEXEC)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # the worker's thread is idle
                self._child = os.fork()
            if not self._child:
                self._write_keyframe(writer, make)
            socket.send_fds(self._control, [b"keyframe"], [reader])  # it wakes the writer, which may get this processor
        except OSError:
            return
        finally:
            os.close(reader)
            os.close(writer)

    def _write_keyframe(self, pipe: int, make: Callable[[], bytes]) -> NoReturn:
        """Write a keyframe, in the fork, and end."""
        code = 1
        try:
            with contextlib.suppress(OSError):
                os.nice(_FORKS_NICE)  # first of all: until then it takes as much of the processor as the loop
            self._leave_all_but(pipe)
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, signal.SIG_DFL)
            left = memoryview(self._keyframes.to_bytes(8, "little") + make())
            while left:
                left = left[os.write(pipe, left[:_CHUNK]) :]
            code = 0
        finally:
            os._exit(code)

    def _leave_all_but(self, pipe: int) -> None:
        """Close, in the fork, all descriptors but those it needs: no socket may seem to have a daemon after its end."""
        ring = () if self._watch is None else (self._watch.probes.fileno(),)
        low = _STANDARD_FDS
        for kept in (*sorted((pipe, *ring)), _LAST_FD):
            os.closerange(low, kept)
            low = kept + 1

    def _reap(self) -> None:
        if self._child:
            ended, status = os.waitpid(self._child, os.WNOHANG)
            if ended:
                self._child = 0
                self._keyed = not status
