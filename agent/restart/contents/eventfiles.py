# SPDX-License-Identifier: Apache-2.0
"""The open files that wait for something: eventfd, epoll, signalfd, timerfd, inotify, pidfd."""

import ctypes
import os
import struct
import time
from collections.abc import Collection
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any, Final

from agent.restart.contents.clocks import now
from agent.restart.contents.descriptors import FileKind, OpenFile
from agent.restart.contents.holder import O_CLOEXEC
from agent.restart.contents.pathaccess import following
from agent.restart.contents.refusals import Refused
from agent.restart.rebuild.timenamespace import NO_OFFSETS, ClockOffsets

EPOLL_CTL_ADD: Final = 1
EPOLLONESHOT: Final = 1 << 30
_MODES: Final = 1 << 31 | EPOLLONESHOT | 1 << 29 | 1 << 28
"""The bits of a target's events that are none: EPOLLET, EPOLLONESHOT, EPOLLWAKEUP, EPOLLEXCLUSIVE."""
SIGNALFD_NEW: Final = -1
TFD_TIMER_ABSTIME: Final = 1
TFD_IOC_SET_TICKS: Final = 0x40085400
INOTIFY_IOC_SETNEXTWD: Final = 0x40044900
POLLIN: Final = 1
PIDFD_NONBLOCK: Final = 0o4000
IN_USER: Final = 0xFFF | 1 << 26 | 1 << 31
"""The bits of a mask that a program gives: all events, IN_EXCL_UNLINK and IN_ONESHOT."""
O_PATH: Final = 0o10000000
_MASK: Final = 8
_NS_PER_S: Final = 1_000_000_000
_HANDLE: Final = struct.Struct("<II")
_MOST_HANDLE: Final = 128  # MAX_HANDLE_SZ
_MAJOR: Final = 20
_CLOCKS: Final = (time.CLOCK_REALTIME, time.CLOCK_MONOTONIC, time.CLOCK_BOOTTIME, 8, 9)
"""8 and 9 are the alarms of the real time and of the time since boot."""
_MOST_SECONDS: Final = 1 << 33


class EventCounters(FileKind):
    """Eventfds."""

    def create(self, file: OpenFile) -> int:
        """Create an eventfd with its counter."""
        # The flags are those of the open file, which is always open for reading and writing; eventfd2() takes fewer.
        made = file.script.kept("eventfd2", 0, int(file.entry.efd.flags) & os.O_NONBLOCK | O_CLOEXEC)
        if file.entry.efd.counter:
            counter = file.data(int(file.entry.efd.counter).to_bytes(8, "little"))
            file.script.exact("write", made, counter, 8, wanted=8)
        return file.high(made)


class Epolls(FileKind):
    """Epoll files. A target is known by its number, so targets are added when all descriptors have theirs."""

    def check(self, entry: Any, numbers: AbstractSet[int]) -> None:
        """Refuse a target that its process has closed, and that another process or a message still holds."""
        for target in entry.epfd.tfd:
            if int(target.tfd) not in numbers:
                text = f"it waits for descriptor {target.tfd}, which its process has closed: have the program remove it"
                raise Refused("epoll", str(entry.id), "target", text)

    def create(self, file: OpenFile) -> int:
        """Create an epoll file without targets."""
        return file.high(file.script.kept("epoll_create1", O_CLOEXEC))

    def complete(self, file: OpenFile) -> None:
        """Add the targets; first those that have reported once, for they report once more while they are added."""
        for target in sorted(file.entry.epfd.tfd, key=_waits):
            file.name(f"target {target.tfd}")
            event = file.data(struct.pack("<IQ", int(target.events), int(target.data)))
            if _waits(target):
                file.script.call("epoll_ctl", file.number, EPOLL_CTL_ADD, int(target.tfd), event)
            else:
                file.script.spent(file.number, int(target.tfd), event)


class SignalFiles(FileKind):
    """Signalfds."""

    def create(self, file: OpenFile) -> int:
        """Create a signalfd with its mask."""
        mask = file.data(int(file.entry.sgfd.sigmask).to_bytes(_MASK, "little"))
        return file.high(file.script.kept("signalfd4", SIGNALFD_NEW, mask, _MASK, O_CLOEXEC))


class TimerFiles(FileKind):
    """Timerfds.

    Args:
        clocks: how far the clocks of the tree are ahead of this host's.
    """

    def __init__(self, clocks: ClockOffsets = NO_OFFSETS) -> None:
        self._clocks = clocks

    def check(self, entry: Any, _numbers: AbstractSet[int]) -> None:
        """Refuse a clock that the kernel does not know, and times that it cannot have."""
        timer = entry.tfd
        times = int(timer.vsec), int(timer.vnsec), int(timer.isec), int(timer.insec)
        if int(timer.clockid) not in _CLOCKS or max(times) >= _MOST_SECONDS:
            text = f"clock {timer.clockid} and times {times} are none of a timer: dump it again"
            raise Refused("timerfd", str(entry.id), "time", text)

    def create(self, file: OpenFile) -> int:
        """Create a timerfd of its clock."""
        return file.high(file.script.kept("timerfd_create", int(file.entry.tfd.clockid), O_CLOEXEC))

    def load(self, file: OpenFile) -> None:
        """Arm it with the time that was left, and give it the expirations that its program has not read.

        The kernel re-arms a periodic timer when its program reads. One that waits for that has no time left, so it
        is made to expire first.
        """
        timer, script, number = file.entry.tfd, file.script, file.number
        value = int(timer.vsec) * _NS_PER_S + int(timer.vnsec)
        interval = int(timer.isec) * _NS_PER_S + int(timer.insec)
        expired = not value and bool(interval) and bool(timer.ticks)
        flags = int(timer.settime_flags)
        if expired:
            value, flags = 1, 0
        if value or interval:  # one that is off keeps its interval (timerfd_setup() of the kernel)
            if value and flags & TFD_TIMER_ABSTIME:
                value += now(int(timer.clockid), self._clocks)
            setting = struct.pack("<4Q", *divmod(interval, _NS_PER_S), *divmod(value, _NS_PER_S))
            script.call("timerfd_settime", number, flags, file.data(setting), 0)
        if expired:
            script.exact("ppoll", file.data(struct.pack("<ihh", number, POLLIN, 0)), 1, 0, 0, 0, wanted=1)
        if timer.ticks:
            ticks = file.data(int(timer.ticks).to_bytes(8, "little"))
            script.call("ioctl", number, TFD_IOC_SET_TICKS, ticks)


class Watches(FileKind):
    """Inotify files. The images know a watched file by its path or by its handle."""

    def __init__(self) -> None:
        self._paths: dict[tuple[int, int], bytes] = {}

    def check(self, entry: Any, _numbers: AbstractSet[int]) -> None:
        """Find the files that are watched, and refuse those that are gone."""
        for watch in entry.ify.wd:
            self._paths[int(entry.id), int(watch.wd)] = _watched(int(entry.id), watch)

    def create(self, file: OpenFile) -> int:
        """Create an inotify file with its watches at their numbers. Events that were not read are lost."""
        script = file.script
        number = file.high(script.kept("inotify_init1", O_CLOEXEC))
        for watch in sorted(file.entry.ify.wd, key=lambda each: int(each.wd)):
            file.name(f"watch {watch.wd}")
            path = self._paths[int(file.entry.id), int(watch.wd)]
            script.call("ioctl", number, INOTIFY_IOC_SETNEXTWD, int(watch.wd))
            mask = int(watch.mask) & IN_USER
            with following(file.holder, path):
                script.exact("inotify_add_watch", number, file.data(path + b"\0"), mask, wanted=int(watch.wd))
        return number


class ProcessFiles(FileKind):
    """Pidfds of processes of the tree.

    Args:
        numbers: of the processes, in the root's namespace.
    """

    def __init__(self, numbers: Collection[int]) -> None:
        self._known = numbers

    def check(self, entry: Any, _numbers: AbstractSet[int]) -> None:
        """Refuse a process that has ended, or that is outside of the tree."""
        if entry.pidfd.nspid not in self._known:
            text = f"its process {entry.pidfd.nspid} has ended, or is outside of the tree: close it before the dump"
            raise Refused("pidfd", str(entry.id), "process", text)

    def create(self, file: OpenFile) -> int:
        """Open a process by its number."""
        pidfd = file.entry.pidfd
        number = file.everything.seen_by(file.holder).get(int(pidfd.nspid), int(pidfd.nspid))
        return file.high(file.script.kept("pidfd_open", number, int(pidfd.flags) & PIDFD_NONBLOCK))


def _waits(target: Any) -> bool:
    """Return True if an epoll target waits for an event. With EPOLLONESHOT it waits for none once it has reported."""
    return not target.events & EPOLLONESHOT or bool(target.events & ~_MODES)


def _watched(identity: int, watch: Any) -> bytes:
    """Return the path of a watched file.

    Raises:
        Refused: it is not there any more.
    """
    handle = watch.f_handle
    path = bytes(handle.path) if handle.HasField("path") else _path_of_handle(watch)
    try:
        same = os.stat(path).st_ino == int(watch.i_ino)
    except (OSError, ValueError):  # a path from an image may hold a byte 0
        same = False
    if not same:
        name = os.fsdecode(path) or f"inode {watch.i_ino} of device {watch.s_dev >> _MAJOR}:{watch.s_dev & 0xFFFFF}"
        text = f"watch {watch.wd}: {name} is another file, or gone: put the file there that it watched"
        raise Refused("inotify", str(identity), "watched-file", text)
    return path


def _path_of_handle(watch: Any) -> bytes:
    """Return the path of a file by its handle; empty where there is no such file."""
    handle = watch.f_handle
    content = b"".join(int(word).to_bytes(8, "little") for word in handle.handle)[: int(handle.bytes)]
    if len(content) > _MOST_HANDLE:
        return b""
    packed = _HANDLE.pack(len(content), int(handle.type)) + content
    device = f"{int(watch.s_dev) >> _MAJOR}:{int(watch.s_dev) & (1 << _MAJOR) - 1}"
    libc = ctypes.CDLL(None, use_errno=True)
    for line in Path("/proc/self/mountinfo").read_bytes().splitlines():
        words = line.split()
        if words[2].decode() != device:
            continue
        place = words[4].decode("unicode_escape").encode("latin-1")
        try:
            mount = os.open(place, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        except OSError:
            continue
        file = libc.open_by_handle_at(mount, packed, O_PATH | O_CLOEXEC)
        os.close(mount)
        if file < 0:
            continue
        path = os.readlink(f"/proc/self/fd/{file}".encode())
        os.close(file)
        return path
    return b""
