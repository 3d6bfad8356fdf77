# SPDX-License-Identifier: Apache-2.0
"""Terminals: pairs of pseudo-terminals in the tree, what is typed into them, and the terminals of sessions.

A pseudo-terminal is known by its number, so its master must get that number again. One process makes all of them. A slave
whose master is closed has been hung up, and gets a master that is closed again. The terminal of a tree that was begun by a
shell is that of the caller.
"""

import os
import stat
import struct
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any, Final

from agent.restart.contents.descriptors import Descriptors, FileKind, OpenFile
from agent.restart.contents.fillabi import Demand
from agent.restart.contents.fillprogram import About, Argument
from agent.restart.contents.holder import AT_FDCWD, O_CLOEXEC, Holder
from agent.restart.contents.openfiles import O_NOCTTY, open_flags
from agent.restart.contents.refusals import Refused

PTY, CTTY = 1, 4
MASTER_DEVICE: Final = (5, 2)
_MASTERS: Final = range(128, 136)
TCSETS, TIOCEXCL, TIOCSCTTY, TIOCSPGRP = 0x5402, 0x540C, 0x540E, 0x5410
TIOCSWINSZ, TIOCPKT, TIOCGPTPEER, TIOCSLCKTRMIOS, TIOCSPTLCK = 0x5414, 0x5420, 0x5441, 0x5457, 0x40045431
ICANON: Final = 0o2
_CONTROLS: Final = 19
_DEFAULT_MASTER: Final = b"/dev/ptmx"


class TerminalFiles(FileKind):
    """The terminals of a tree.

    Args:
        files: the file_entry of each open file.
        infos: the tty_info_entry of each terminal, by its id.
        data: the bytes that nobody has read from a terminal, by its id.
        caller: the path of the caller's terminal, for a tree that was begun by a shell; else empty.
    """

    def __init__(
        self, files: Mapping[int, Any], infos: Mapping[int, Any], data: Mapping[int, bytes], caller: bytes
    ) -> None:
        self._files = files
        self._infos = infos
        self._data = data
        self._caller = caller
        self._all = [int(entry.id) for entry in files.values() if entry.HasField("tty")]
        self._masters: dict[int, Any] = {}
        for identity in self._all:
            info = infos.get(int(files[identity].tty.tty_info_id))
            if info is not None and _is_master(info):
                self._masters[int(info.pty.index)] = files[identity]
        self._restored: set[int] = set()
        self._hung_up: set[int] = set()

    def check(self, entry: Any, _numbers: AbstractSet[int]) -> None:
        """Refuse a terminal outside the tree, a number that another terminal has, and a path that is none of it."""
        info = self._infos.get(int(entry.tty.tty_info_id))
        name = os.fsdecode(self._path(entry))
        rule = text = ""
        if info is None or (info.type == PTY) != info.HasField("pty"):
            rule, text = "missing", "the images do not describe it"
        elif info.type == PTY and self._is_the_callers(info):
            if not self._caller:
                rule, text = "outside", f"{name} is the terminal of a process outside the tree: use --shell-job"
        elif info.type == PTY:
            rule, text = self._fault_of_pair(entry, info)
        elif info.type == CTTY:
            if self._of_session(int(info.sid)) is None and not self._caller:
                rule, text = "outside", f"{name} is a terminal outside the tree: use --shell-job"
        elif _device(name) is None:
            rule, text = "missing", f"{name} is not there, or no terminal: give the host this terminal"
        if rule:
            raise Refused("tty", str(entry.id), rule, text)

    def together(self, entry: Any) -> Iterable[int]:
        """Return all terminals: the search for a number takes other numbers for a moment."""
        return [int(entry.id), *self._all]

    def create(self, file: OpenFile) -> int:
        """Open a master at its number, or a slave once its master is there."""
        info = self._info(file)
        flags = open_flags(int(file.entry.tty.flags)) | O_CLOEXEC
        if info.type == CTTY:
            session = self._of_session(int(info.sid))
            info = info if session is None else session
        if info.type != PTY:
            path = self._caller if info.type == CTTY else self._path(file.entry)
            return self._opened(file, path, flags)
        index = int(info.pty.index)
        if self._is_the_callers(info):
            return self._opened(file, self._caller, flags)
        if _is_master(info):
            return self._master(file, self._path(file.entry), flags, index)
        if index in self._masters:
            file.everything.made(int(self._masters[index].id))
            return self._opened(file, self._slave(index), flags)
        if index not in self._hung_up:  # its end with the other high descriptors hangs up all that opened the slave
            self._hung_up.add(index)
            self._master(file, _DEFAULT_MASTER, os.O_RDWR | O_NOCTTY | O_CLOEXEC, index)
        return self._opened(file, self._slave(index), flags)

    def load(self, file: OpenFile) -> None:
        """Give a terminal what was typed and written and not read, then its modes, size and owner, once."""
        info = self._info(file)
        if info.type != PTY or not info.HasField("termios") or int(info.id) in self._restored:
            return
        self._restored.add(int(info.id))
        if _is_master(info):
            self._type(file, int(info.id))
        if _is_master(info) or self._is_the_callers(info):
            file.name("modes")
            if any((info.termios_locked.c_iflag, info.termios_locked.c_oflag, info.termios_locked.c_lflag)):
                file.script.call("ioctl", file.number, TIOCSLCKTRMIOS, file.data(_termios(info.termios_locked)))
            file.script.call("ioctl", file.number, TCSETS, file.data(_termios(info.termios)))
        if _is_master(info):
            size = info.winsize
            content = struct.pack("<4H", *(each & 0xFFFF for each in (size.ws_row, size.ws_col)), *_pixels(size))
            file.script.call("ioctl", file.number, TIOCSWINSZ, file.data(content))
            if info.packet_mode:
                file.script.call("ioctl", file.number, TIOCPKT, file.data(struct.pack("<i", 1)))
        elif not self._is_the_callers(info):
            file.name("owner")
            if info.HasField("uid"):
                file.script.call("fchown", file.number, int(info.uid), int(info.gid))
            regular = self._files[int(file.entry.tty.regf_id)].reg
            if regular.HasField("mode"):
                file.script.call("fchmod", file.number, int(regular.mode) & 0o7777)

    def join(self, holder: Holder, everything: Descriptors) -> None:
        """Have the leader of a session take its terminal and name the group in its foreground."""
        script = holder.leader
        sessions = {int(info.sid): info for info in self._infos.values() if info.type == PTY and info.sid}
        info = sessions.get(holder.image.pid)
        if info is not None and not self._is_the_callers(info):
            script.about = About("tty", f"{info.id}, terminal of session {info.sid}")
            path = self._slave(int(info.pty.index))
            self._lead(holder, path, everything.seen_by(holder).get(int(info.pgrp)), takes=True)
        elif self._caller and holder is everything.holders[0]:
            script.about = About("tty", "the caller's")
            self._lead(holder, self._caller, holder.numbers[-1], takes=False)

    def complete(self, file: OpenFile) -> None:
        """Lock a master whose slave nobody may open, and keep others out of a terminal that is exclusive."""
        info = self._info(file)
        if info.locked and _is_master(info):
            file.script.call("ioctl", file.number, TIOCSPTLCK, file.data(struct.pack("<i", 1)))
        if info.exclusive and not self._is_the_callers(info):
            file.script.call("ioctl", file.number, TIOCEXCL, 0)

    def _fault_of_pair(self, entry: Any, info: Any) -> tuple[str, str]:
        """Return the rule and the text of the reason to refuse an end of a pseudo-terminal of the tree; empty: none."""
        path, index = self._path(entry), int(info.pty.index)
        name = os.fsdecode(path)
        folder, _, number = name.rpartition("/")
        if not path or b"\0" in path:
            return "missing", "the images do not say which path it has: dump it again"
        if _is_master(info):
            if _device(name) != MASTER_DEVICE:
                return (
                    "path",
                    f"{name} makes no terminals, as {os.fsdecode(_DEFAULT_MASTER)} does: put the device there",
                )
        elif number != str(index) or _device(f"{folder}/ptmx") != MASTER_DEVICE:
            return "path", f"{name} is not the path of terminal {index} in a mount of devpts: mount it there"
        if Path(f"/dev/pts/{index}").exists():
            text = (
                f"/dev/pts/{index} is another terminal meanwhile: end the program that has it, or restart "
                f"among mounts with a new /dev/pts, as docs/restart.md tells"
            )
            return "number", text
        return "", ""

    def _info(self, file: OpenFile) -> Any:
        return self._infos[int(file.entry.tty.tty_info_id)]

    def _path(self, entry: Any) -> bytes:
        regular = self._files.get(int(entry.tty.regf_id))
        return bytes(regular.reg.name) if regular is not None and regular.HasField("reg") else b""

    def _slave(self, index: int) -> bytes:
        """Return the path of the slave of a number."""
        for identity in self._all:
            entry = self._files[identity]
            info = self._infos.get(int(entry.tty.tty_info_id))
            if info is not None and info.type == PTY and info.pty.index == index and not _is_master(info):
                return self._path(entry)
        return f"/dev/pts/{index}".encode()

    def _is_the_callers(self, info: Any) -> bool:
        """Return True for a slave that has its master outside the tree."""
        return info.HasField("termios") and info.type == PTY and int(info.pty.index) not in self._masters

    def _of_session(self, session: int) -> Any:
        """Return the pseudo-terminal in the tree that a session has; None if it has none."""
        found = (each for each in self._infos.values() if each.type == PTY and session and each.sid == session)
        return next((each for each in found if int(each.pty.index) in self._masters), None)

    def _opened(self, file: OpenFile, path: bytes, flags: int) -> int:
        return file.high(file.script.kept("openat", AT_FDCWD, file.data(path + b"\0"), flags, 0))

    def _master(self, file: OpenFile, path: bytes, flags: int, index: int) -> int:
        made = file.high(file.script.terminal(file.data(path + b"\0"), flags | O_NOCTTY, index))
        file.script.call("ioctl", made, TIOCSPTLCK, file.data(struct.pack("<i", 0)))
        return made

    def _type(self, file: OpenFile, identity: int) -> None:
        """Put into both ends what nobody has read, in modes that pass it on as it is."""
        typed, written = self._data.get(identity - 1, b""), self._data.get(identity, b"")
        if not typed and not written:
            return
        file.name("what nobody has read")
        plain = bytearray(_termios(self._info(file).termios))
        struct.pack_into("<2I", plain, 0, 0, 0)
        struct.pack_into("<I", plain, 12, int(self._info(file).termios.c_lflag) & ICANON)
        file.script.call("ioctl", file.number, TCSETS, file.data(bytes(plain)))
        slave: Argument = -1
        if written:
            slave = file.script.kept("ioctl", file.number, TIOCGPTPEER, os.O_RDWR | O_NOCTTY)
        for number, content in ((file.number, typed), (slave, written)):
            if content:
                file.script.exact("write", number, file.data(content), len(content), wanted=len(content))
        if written:
            file.script.call("close", slave)

    def _lead(self, holder: Holder, path: bytes, group: int | None, *, takes: bool) -> None:
        script, program = holder.leader, holder.program
        slave = script.kept("openat", AT_FDCWD, program.data(path + b"\0"), os.O_RDWR | O_NOCTTY | O_CLOEXEC, 0)
        if takes:
            script.call("ioctl", slave, TIOCSCTTY, 0)
        if group is not None:
            demand = Demand.SUCCESS if takes else Demand.ANY  # the caller may be in the background
            script.call("ioctl", slave, TIOCSPGRP, program.data(struct.pack("<i", group)), demand=demand)
        script.call("close", slave)


def _device(name: str) -> tuple[int, int] | None:
    """Return the numbers of the character device at a path; None if there is none."""
    try:
        found = os.stat(name)
    except (OSError, ValueError):  # a path from an image may hold a byte 0
        return None
    return (os.major(found.st_rdev), os.minor(found.st_rdev)) if stat.S_ISCHR(found.st_mode) else None


def _is_master(info: Any) -> bool:
    device = os.major(int(info.rdev)), os.minor(int(info.rdev))
    return info.type == PTY and (device == MASTER_DEVICE or device[0] in _MASTERS)


def _pixels(size: Any) -> tuple[int, int]:
    return int(size.ws_xpixel) & 0xFFFF, int(size.ws_ypixel) & 0xFFFF


def _termios(modes: Any) -> bytes:
    """Return struct termios. CRIU copies the control characters as they lie in memory, four into each number."""
    words = b"".join(int(each).to_bytes(4, "little") for each in modes.c_cc)
    controls = words[:_CONTROLS].ljust(_CONTROLS, b"\0")
    flags = (modes.c_iflag, modes.c_oflag, modes.c_cflag, modes.c_lflag)
    return struct.pack("<4IB", *flags, int(modes.c_line) & 0xFF) + controls
