# SPDX-License-Identifier: Apache-2.0
"""The daemon's audit lines: one in its log for each snapshot and subscription, with the client, the request and the
outcome.

    line  = ("snapshot" | "subscribe") { " " key "=" value }        agent.daemon.journal writes it
    value = number | word | quoted

A text that a client or a task chooses, its name or the ROOT of a request, is quoted: printable ASCII as it is, any
other byte, the quote and the backslash as ``\\xNN``. So no such text can end the line or the quotes around it.

A refusal costs its client next to nothing, and many could fill a log: at most `_REFUSALS` lines of a user in an
interval are written, and the next one has the number of those that were not. Every request that was granted has its
line.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Final

from agent.access import Viewer
from agent.daemon.journal import Journal

_LONGEST_BYTES: Final = 200  # of a quoted value
_REFUSALS: Final = 60  # lines of a user in an interval
_INTERVAL_S: Final = 60.0
_REMEMBERED: Final = 1000  # users; a new one displaces the one whose interval began longest ago
_PRINTABLE: Final = bytes(byte for byte in range(0x20, 0x7F) if byte not in b'"\\')

Value = int | float | str | bytes


def quoted(value: str | bytes, longest: int = _LONGEST_BYTES) -> str:
    """Return untrusted text or bytes in quotes, with all but printable ASCII escaped, cut to so many bytes."""
    data = value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value
    cut = data[:longest]
    if cut.translate(None, _PRINTABLE):
        text = "".join(chr(byte) if byte in _PRINTABLE else f"\\x{byte:02x}" for byte in cut)
    else:
        text = cut.decode("ascii")  # nearly always
    return f'"{text}"' + ("..." if len(cut) < len(data) else "")


def line(what: str, **fields: Value) -> str:
    """Return the text of a line. Text in it is quoted, numbers are not."""
    said = [f"{key}={quoted(value) if isinstance(value, (str, bytes)) else value}" for key, value in fields.items()]
    return " ".join((what, *said))


class Refusals:
    """The budget of written refusals of each user. It takes the time as an argument."""

    def __init__(self) -> None:
        self._seen: dict[int, tuple[float, int]] = {}  # by uid: start of the interval in s, and count
        self._unwritten: dict[int, int] = {}

    def admit(self, uid: int, now_s: float) -> int | None:
        """Count a refusal; return the number of unwritten ones before it if it is to be written, else None."""
        since, count = self._seen.get(uid, (now_s, 0))
        if now_s - since >= _INTERVAL_S:
            since, count = now_s, 0
        if count == 0:
            self._seen.pop(uid, None)  # entered again below, behind all others
            if len(self._seen) >= _REMEMBERED:
                oldest = next(iter(self._seen))
                del self._seen[oldest]
                self._unwritten.pop(oldest, None)
        self._seen[uid] = since, count + 1
        if count >= _REFUSALS:
            self._unwritten[uid] = self._unwritten.get(uid, 0) + 1
            return None
        return self._unwritten.pop(uid, 0)


class Audit:
    """The audit lines of a log.

    Args:
        log: takes the lines.
    """

    def __init__(self, log: Journal) -> None:
        self._log = log
        self._refusals = Refusals()

    def write(
        self,
        verb: str,
        viewer: Viewer,
        comm: str | bytes,
        root: object,
        said: Mapping[str, Value],
        result: str,
        elapsed_ns: int,
        now_s: float,
    ) -> None:
        """Write the line of a request, unless its user has had too many refusals.

        Args:
            verb: of the request.
            viewer: the client.
            comm: of the client's task; empty where the table has none.
            root: as the client sent it, of any type.
            said: more fields of the answer.
            result: ``ok``, or the name of the error.
            elapsed_ns: time that the answer took.
            now_s: of any clock that does not go back.
        """
        unwritten = 0 if result == "ok" else self._refusals.admit(viewer.account, now_s)
        if unwritten is None:
            return
        before = _before_time(
            verb, viewer.uid, viewer.gid, viewer.pid, comm, _as_asked(root), tuple(said.items()), result
        )
        behind = f" unwritten={unwritten}" if unwritten else ""
        self._log.info(f"{before} ms={round(elapsed_ns / 1e6, 3)}{behind}")


@lru_cache(maxsize=16)  # a client asks for the same tree again and again
def _before_time(
    verb: str,
    uid: int,
    gid: int,
    pid: int,
    comm: str | bytes,
    root: str,
    said: tuple[tuple[str, Value], ...],
    result: str,
) -> str:
    return line(verb, uid=uid, gid=gid, pid=pid, comm=comm, root=root, **dict(said), result=result)


def _as_asked(root: object) -> str:
    if root is None:
        return ""
    return str(root) if isinstance(root, (str, int)) else f"a {type(root).__name__}"
