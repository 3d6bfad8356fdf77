# SPDX-License-Identifier: Apache-2.0
"""The daemon's side of its recording: the tap, the process that writes, and the forks that make keyframes.

Nothing here waits. Where the writer does not keep up, or cannot write, the tape has a gap: the recording goes on with a new
keyframe, and the gap is told in whatever is answered for that time.
"""

import contextlib
import gc
import json
import os
import signal
import socket
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from agent import VERSION
from agent.capture import memorywriter
from agent.capture.watch import Watch
from agent.daemon.journal import Journal
from agent.proc import host
from agent.recorder.channel import Channel
from agent.recorder.marks import MARK
from agent.recorder.tap import Tap
from agent.table import wire

CHANNEL_BYTES: Final = 1 << 24
_KEYFRAME_RECORDS: Final = 400_000
_KEYFRAME_S: Final = 3600.0
_PART_OF_MOST: Final = 16
_AGAIN_S: Final = 30.0
_END_S: Final = 10.0
_CHUNK: Final = 1 << 20
_BEHIND: Final = "the writer fell behind"
_ENDED: Final = "the writer ended"
_FAILED: Final = "the writer could not write"
_TOP: Final = os.fspath(Path(__file__).resolve().parents[2])
# Without the current folder, where any user may have put a module of that name.
_PROGRAM: Final = (
    "import sys; sys.path.append(sys.argv.pop(1)); from agent.daemon.privileges import drop; drop(); "
    "from agent.recorder.writer import main; sys.exit(main(sys.argv[1:]))"
)


class Recorder:
    """The recorder of one watch.

    Args:
        place: the folder.
        max_bytes, max_age_s: bounds of what is kept.
        log: for messages to the administrator.

    Attributes:
        gaps: count of gaps since the daemon began.
        told: the writer's last report.
    """

    def __init__(self, place: Path, max_bytes: int, max_age_s: int, log: Journal) -> None:
        self._place, self._max_bytes, self._max_age_s, self._log = place, max_bytes, max_age_s, log
        self._host = asdict(host.header())
        self._boot_id = host.boot_id()
        self._watch: Watch | None = None
        self._tap: Tap | None = None
        self._keyframes = 0
        self._child = 0
        self._began = 0.0
        self._first = 0
        self._again_s = 0.0
        self._why = ""
        self.gaps = 0
        self.told: dict[str, Any] = {}
        self._start_writer()

    def _start_writer(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._channel = Channel.create(CHANNEL_BYTES)
        self._control = ours
        ours.setblocking(False)
        passed = (self._channel.memory, self._channel.bell, theirs.fileno())
        numbers = [str(10 + n) for n in range(len(passed))]
        arguments = [sys.executable, "-P", "-c", _PROGRAM, _TOP, os.fspath(self._place), *numbers]
        arguments += [str(self._max_bytes), str(self._max_age_s)]
        moves = [(os.POSIX_SPAWN_DUP2, fd, int(number)) for fd, number in zip(passed, numbers, strict=True)]
        self._writer = os.posix_spawn(
            sys.executable, arguments, os.environ, file_actions=moves, setsigdef=(signal.SIGTERM, signal.SIGINT)
        )
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
        self._mark("" if continues else "the daemon began", keyframe, continues=continues)

    def end(self, *, goes_on: bool) -> None:
        """End the recording, in order; return once the writer has written all."""
        if self._tap is not None:
            self._tap.end(goes_on=goes_on)
            self._channel.ring()
        self._control.close()
        deadline = time.monotonic() + _END_S
        while time.monotonic() < deadline:
            if os.waitpid(self._writer, os.WNOHANG)[0]:
                return
            time.sleep(0.01)
        self._log.warning("the recording's writer does not end: it is left to itself")

    # ---- called by the loop ----------------------------------------------------------------------------------------

    def tend(self) -> None:
        """Do what is due, in each turn of the loop in which no job has the watch."""
        self._channel.ring()
        self._hear()
        tap, watch = self._tap, self._watch
        if tap is None or watch is None:
            return
        self._reap()
        now = time.monotonic()
        if not tap.whole:
            if not self._why:
                self._why = _BEHIND
                self._again_s = now
            if now >= self._again_s and not self._child and self._channel.pending < CHANNEL_BYTES // 2:
                self._resume()
            return
        tap.look()
        records = watch.stream.next - self._first
        size = self.told.get("segment_bytes", 0)
        due = records >= _KEYFRAME_RECORDS or (now - self._began >= _KEYFRAME_S and records)
        if not self._child and (due or size > self._max_bytes // _PART_OF_MOST):
            self._mark("", continues=True)

    def _resume(self) -> None:
        """Go on after a gap."""
        why, self._why = self._why, ""
        self.gaps += 1
        self._log.warning(f"the recording has a gap: {why}")
        if why == _ENDED:
            self._start_writer()
            if self._tap is not None and self._watch is not None:
                self._tap = Tap(self._watch, self._channel)
        self._mark(why, continues=False)

    def _hear(self) -> None:
        """Hear what the writer reports."""
        while True:
            try:
                message = self._control.recv(1 << 12)
            except BlockingIOError:
                return
            except OSError:
                message = b""
            if not message:
                if self._tap is not None and self._why != _ENDED:
                    self._tap.close()
                    self._why = _ENDED
                    self._again_s = time.monotonic() + 1.0
                return
            said = json.loads(message)
            fatal = said.get("fatal")
            if fatal:
                self._log.error(f"nothing is recorded: {fatal}")
                continue
            before, self.told = self.told.get("error", ""), said
            if said["error"] and self._tap is not None and self._tap.whole:
                self._tap.whole = False
                self._why = f"{_FAILED}: {said['error']}"
                self._again_s = time.monotonic() + _AGAIN_S
                if not before:
                    self._log.warning(f"the recording stops: {self._place}: {said['error']}")

    # ---- keyframes -------------------------------------------------------------------------------------------------

    def _mark(self, why: str, keyframe: bytes | None = None, *, continues: bool) -> None:
        watch, tap = self._watch, self._tap
        if watch is None or tap is None:
            return
        self._keyframes += 1
        self._first = watch.stream.next
        self._began = time.monotonic()
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

    def _fork(self, make: Callable[[], bytes]) -> None:
        """Have a fork of this process make a keyframe and pass it to the writer."""
        reader, writer = os.pipe2(os.O_CLOEXEC)
        try:
            socket.send_fds(self._control, [b"keyframe"], [reader])
        except OSError:  # the writer has ended, or does not read: this segment goes without
            os.close(writer)
            return
        finally:
            os.close(reader)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # the worker's thread is idle
            self._child = os.fork()
        if self._child:
            os.close(writer)
            return
        try:
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, signal.SIG_DFL)
            gc.disable()
            with contextlib.suppress(OSError):
                os.nice(40)
            left = memoryview(self._keyframes.to_bytes(8, "little") + make())
            while left:
                left = left[os.write(writer, left[:_CHUNK]) :]
        finally:
            os._exit(0)

    def _reap(self) -> None:
        if self._child and os.waitpid(self._child, os.WNOHANG)[0]:
            self._child = 0
