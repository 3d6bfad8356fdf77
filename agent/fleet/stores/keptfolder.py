# SPDX-License-Identifier: Apache-2.0
"""A folder of a store on this host, for as long as a verb needs it.

Theory
------
A verb that reads an untrusted folder gives up the right to remove it. So the process that fetches the folder keeps it:
it waits for the end of a pipe, which comes when the verb closes it or ends in whatever way, and removes the folder. It is
in a session of its own, for no signal of a terminal may end it before. Both processes hold a lock on the folder. Where
both are killed at once, the folder stays: whoever fetches next finds it without a lock, and removes it.
"""

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgpack

from agent import interpreter
from agent.errors import CkptreeError
from agent.fleet.stores import address as addresses
from agent.fleet.stores import errand

if TYPE_CHECKING:
    from agent.fleet.stores.address import Address

PREFIX: Final = "ckptree-images."
_FOLDER: Final = "/var/tmp"  # noqa: S108 - images may be larger than the memory in which /tmp may lie
_PROGRAM: Final = "from agent.fleet.stores.keptfolder import main; main()"
_IMAGES: Final = "images"
_REMOVAL_S: Final = 60.0
_AT_ONCE: Final = 1 << 16


def parent() -> Path:
    """Return the folder in which folders are kept: TMPDIR, else /var/tmp."""
    return Path(os.environ.get("TMPDIR") or _FOLDER)


def remove_left() -> list[Path]:
    """Remove the folders of this user that killed processes have left; return their paths."""
    removed = []
    with suppress(OSError):
        for path in parent().glob(f"{PREFIX}*"):
            lock = _locked(path)
            if lock is not None:
                shutil.rmtree(path, ignore_errors=True)
                os.close(lock)
                removed.append(path)
    return removed


def _locked(path: Path) -> int | None:
    """Lock a folder; return the descriptor that holds the lock, or None where another process has it."""
    try:
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        if os.fstat(folder).st_uid == os.geteuid():
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return folder
    except OSError:
        pass
    os.close(folder)
    return None


class KeptFolder:
    """A folder that is fetched, for this user alone, and kept until `close`, or the end of this process.

    Args:
        place: address of its list.
        server: of NATS; None: that of the environment.
        without: files whose names begin so are left out; empty: none is.

    Attributes:
        path: of the folder.
        digits: the hash of its list, hexadecimal.

    Raises:
        CkptreeError: as folders.get_named does.
    """

    def __init__(self, place: "Address", server: str | None, without: str = "") -> None:
        self._private, self._lock = private_folder()
        self.path = self._private / _IMAGES
        command = interpreter.command(_PROGRAM, os.fspath(self._private))
        try:
            self._keeper = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                pass_fds=(self._lock,),
                start_new_session=True,
            )
        except BaseException:
            shutil.rmtree(self._private, ignore_errors=True)
            os.close(self._lock)
            raise
        try:
            found = self._fetched(place, server, without)
        except BaseException:
            self.close()
            raise
        self.digits = str(found["digits"])

    def _fetched(self, place: "Address", server: str | None, without: str) -> dict[str, Any]:
        asked, told = self._keeper.stdin, self._keeper.stdout
        if asked is None or told is None:
            raise CkptreeError("the process that keeps a folder has no pipes")
        wish = {"address": str(place), "server": server, "without": without}
        with suppress(BrokenPipeError):
            asked.write(msgpack.packb(wish))
            asked.flush()
        return errand.found_in(told.read(), place, self._keeper.poll())

    def close(self) -> None:
        """Have the folder removed, and wait until it is."""
        for pipe in (self._keeper.stdin, self._keeper.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):
                    pipe.close()
        with suppress(subprocess.TimeoutExpired):
            self._keeper.wait(_REMOVAL_S)
        shutil.rmtree(self._private, ignore_errors=True)  # where the other process was killed
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def private_folder() -> tuple[Path, int]:
    """Make a folder for this user alone; return its path, and a descriptor that holds its lock.

    When the descriptor is closed, `remove_left` may remove the folder.

    Raises:
        CkptreeError: it cannot be made.
    """
    try:
        while True:  # another process may take a folder that is not locked yet for one that was left
            made = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent()))
            if (lock := _locked(made)) is not None:
                if made.exists():
                    return made, lock
                os.close(lock)
    except OSError as error:
        raise CkptreeError(f"cannot make a folder in {parent()}: {error.strerror}: TMPDIR names another one") from error


def main() -> None:
    """Fetch the folder that standard input names into that of the argument; remove this at the end of standard input."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    private = Path(sys.argv[1])
    unpacker = msgpack.Unpacker()
    wish: dict[str, Any] | None = None
    while wish is None and (data := os.read(0, _AT_ONCE)):
        unpacker.feed(data)
        wish = next(iter(unpacker), None)
    keeping = threading.Thread(target=_keep, args=(private,))
    keeping.start()
    try:
        if wish is not None:
            given = wish
            os.write(1, errand.answer_to(lambda: _done(given, private / _IMAGES)))
    finally:
        os.close(1)


def _keep(private: Path) -> None:
    """Wait for the end of standard input, remove the folder, and end this process, whatever its other thread does."""
    while os.read(0, _AT_ONCE):
        pass
    until_s = time.monotonic() + _REMOVAL_S
    while private.exists() and time.monotonic() < until_s:  # the other thread may make another file meanwhile
        shutil.rmtree(private, ignore_errors=True)
    os._exit(0)


def _done(wish: dict[str, Any], target: Path) -> dict[str, Any]:
    from agent.fleet.stores import folders, progress
    from agent.fleet.stores.opening import opened

    place = addresses.parse(wish["address"])
    with opened(place, wish["server"]) as store:
        told = progress.reporting(str(place), "fetched")
        return {"digits": folders.get_named(store, place.name, target, without=wish["without"], report=told)}
