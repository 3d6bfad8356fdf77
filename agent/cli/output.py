# SPDX-License-Identifier: Apache-2.0
"""The output of a verb that writes a snapshot: a file, a folder or standard output, checked before the work.

A binary format does not go to a terminal, a folder does not go to a stream, and a name that ends in a slash is a
folder's.
"""

import os
import stat
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from agent.cli import storefiles, terminal
from agent.errors import UsageError
from agent.fleet.stores import address
from agent.record import replace
from exporters import destination, registry, store
from exporters.criu import PREFIX
from exporters.format import Dump

if TYPE_CHECKING:
    from agent.model import Dialect, Snapshot
    from exporters.format import Format


def find_format(name: str) -> "Format":
    """Return the format of a name; raise UsageError where there is none.

    The dump of `svg` is that of `dot`: an exporter starts no program that could lay it out (agent.picture).
    """
    if name == "svg":
        return replace(registry.find("dot"), name=name)
    try:
        return registry.find(name)
    except UsageError as error:
        raise UsageError(f"{error}, svg") from error


def misnamed(name: str) -> str | None:
    """Return the format, other than ckpt, that a file's suffix names; None where it names none."""
    suffix = Path(name).suffix.removeprefix(".").lower()
    return suffix if suffix != "ckpt" and suffix in (*registry.FORMATS, "svg") else None


class Target:
    """An output.

    Args:
        name: a path, ``-`` for standard output, or an address in a store.
        fmt: name of the format.
        key: to sign with (agent.cli.signature); None: do not sign.
        server: of NATS, for an address there; None: that of the environment.

    Attributes:
        format: of the snapshot.

    Raises:
        UsageError: name, format and key do not fit together, or there is no such format.
    """

    def __init__(self, name: str, fmt: str, key: Path | None = None, server: str | None = None) -> None:
        self.format = find_format(fmt)
        self._name = storefiles.named(name, server)
        self._key = key
        if isinstance(self._name, storefiles.StoredFile):
            if self.format.directory:
                raise UsageError(
                    f"the format {fmt} is a folder of files: name one on this host, for a store takes a file"
                )
            from agent.fleet.stores import opening

            opening.check(self._name.address, server)
        if not name:
            raise UsageError("an empty name: name a file, or - for standard output")
        if name.startswith(PREFIX):
            raise UsageError(
                f"{name} names a folder to which `ckptree convert` copies another, {PREFIX}DIR: "
                f"-f criu writes a tree into a folder that is named without {PREFIX}"
            )
        if not isinstance(self._name, storefiles.StoredFile):
            address.check_file(name)
        if self.format.directory and name == "-":
            raise UsageError(f"the format {fmt} is a folder of files: name one, for it cannot go to a stream")
        if not self.format.directory and name.endswith("/"):
            raise UsageError(f"{name} names a folder, and the format {fmt} is a file: name one in it")
        if not self.format.directory and not self.format.text and _is_terminal(self._name):
            raise UsageError(f"the format {fmt} is binary and no terminal's: name a file with -o, or choose -f json")

        if key is not None and (self.format.directory or name == "-"):
            raise UsageError("--sign puts the signature beside a file, FILE.sig: name a file with -o")
        if key is not None and not key.is_file():
            raise UsageError(f"--sign {key}: there is no such key file. ssh-keygen -t ed25519 makes a pair")

    @property
    def lossless(self) -> bool:
        """True where a daemon can send this format itself."""
        return self.format.name in registry.LOSSLESS

    def made(
        self, snapshot: "Snapshot", say: Callable[[str], None], dialect: "Dialect | None" = None
    ) -> bytes | dict[str, bytes]:
        """Return what is to be written, before another program has drawn it, and print what the format cannot
        express."""
        made = self._dumped(replace(snapshot, dialect=dialect) if dialect else snapshot)
        for note in made.notes:
            say(f"{self.format.name}: {note}")
        return made.data

    def _dumped(self, snapshot: "Snapshot") -> Dump:
        """Return a snapshot in this format; drawings name its users, as `show` does."""
        if self.format.name not in ("dot", "svg", "html"):
            return self.format.dump(snapshot)
        from agent.proc import users
        from exporters.drawing import dot, htmlpage

        drawing = htmlpage if self.format.name == "html" else dot
        return Dump(drawing.dumps(snapshot, users.names(snapshot.boot_id)))

    def write_made(self, data: bytes | dict[str, bytes]) -> None:
        """Draw what `made` has returned, if the format is a picture, and write it."""
        if self.format.name == "svg" and isinstance(data, bytes):
            from agent import picture

            data = picture.svg(data)
        self.write(data)

    def write(self, data: bytes | dict[str, bytes]) -> None:
        """Write the bytes or files of a format."""
        if self._name == "-" and isinstance(data, bytes):
            terminal.write(data, is_json=self.format.name == "json")
            return
        if isinstance(data, bytes) and _is_terminal(self._name):
            data = terminal.shown(data, is_json=self.format.name == "json")
        signed = None
        if self._key is not None and isinstance(data, bytes):
            from agent.cli import signature

            signed = signature.sign(data, self._key)  # first, so that a failure leaves no file
        if isinstance(self._name, storefiles.StoredFile) and isinstance(data, bytes):
            storefiles.write(self._name, data, signed)
            return
        store.write(Path(self._name), data)
        if signed is not None:
            store.write(signature.beside(self._name), signed)


def check_stream(name: str, *, is_binary: bool = False) -> None:
    """Refuse the name of an output to which parts cannot go.

    Args:
        name: a path, or ``-`` for standard output.
        is_binary: a terminal is refused.

    Raises:
        UsageError: the name is empty, that of an address, or a terminal's where `is_binary`.
    """
    if not name:
        raise UsageError("an empty name: name a file, or - for standard output")
    address.check_file(name)
    if is_binary and _is_terminal(name):
        raise UsageError("this format is binary and no terminal's: name a file with -o")


def write_stream(name: str, parts: Iterable[bytes]) -> None:
    """Write parts as they come, to standard output, or to a file that is there once it is whole.

    Args:
        name: a path, or ``-`` for standard output; `check_stream` has not refused it.
        parts: of the file.
    """
    if name != "-":
        store.write(Path(name), b"".join(parts))
        return
    for part in parts:
        terminal.write(part)
    sys.stdout.buffer.flush()


def _is_terminal(name: str) -> bool:
    """Return True if an output is a terminal. A device that another user may have laid there is not opened.

    Raises:
        CkptreeError: exporters.destination refuses the place.
    """
    if name == "-":
        return sys.stdout.isatty()
    if isinstance(name, storefiles.StoredFile):
        return False
    try:
        found = destination.find(Path(name))
        if found.special is None or not stat.S_ISCHR(found.special.st_mode):
            return False
        fd = found.open(os.O_NONBLOCK)
    except (OSError, RuntimeError):  # RuntimeError: a cycle of links, before Python 3.13
        return False
    try:
        return os.isatty(fd)
    finally:
        os.close(fd)
