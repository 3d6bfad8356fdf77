# SPDX-License-Identifier: Apache-2.0
"""The kernel side as the loading helper passes it on: descriptors of maps, programs and links, and operations on them.

This process imports no bcc and needs no capability: a descriptor alone allows a process to read the mapped ring, start
an iterator from its link and run a program once.
"""

import mmap
import os
import sys
from collections.abc import Callable, Iterable

from agent.capture.loading import Loaded, Loading
from agent.capture.ring import Page, Ring
from agent.table import wire
from agent.table.wire import Tie
from bpf import syscall

_CALLED = {"program:state", "program:marker", "program:on_announce raw_tracepoint", "program:on_announce tracepoint"}
_TIES: tuple[Tie, ...] = ("terminals", "owners", "sharing")
_ITERATOR_CHUNK = 1 << 16  # a read yields half of that at most; a far larger buffer would be mapped anew each time
_MOST_USERS = 2048
_ALLOWANCE = wire.reader(wire.ALLOWANCE)
_SECOND_NS = 1_000_000_000


class Probes:
    """The loaded kernel side.

    Args:
        ring_bytes: size of the ring, a power of two of pages.
        without: kernel features to treat as missing, and hooks not to load: for tests and measurements.
        loaded: the kernel side that is loaded already, or is being loaded, with the same arguments; None: load it now.
        waiting: called every few seconds while the helper works.

    Attributes:
        loaded: the kernel side as it was passed on.
        is_taken_over: True where it was loaded before, so that its ring may hold records.
        ring: the records.
        page: the counters.
        hooks: by feature, the hooks in force; an empty list: none worked.
        tried: by hook, the error of the kernel or of bcc for those that did not work.
        missing: features this kernel lacks.
        string_key: key of the exec hook's hash; for agent.table.areas alone: it must not leave this process.
        keeps_strings: True where the table is to keep the text of arguments and environments.
        records: True where all records are recorded: arguments are told then, and not kept.
        filters: whether the ties of a single process can be asked for.

    Raises:
        HostError: the caller lacks the rights, or the kernel lacks a feature.
        UsageError: the environment leaves out a hook that does not exist.
    """

    def __init__(
        self,
        ring_bytes: int,
        without: Iterable[str] = (),
        loaded: Loaded | Loading | None = None,
        waiting: Callable[[], None] = lambda: None,
    ) -> None:
        if loaded is None:
            loaded = Loading(ring_bytes, without)
        self.is_taken_over = not isinstance(loaded, Loading)
        self.keeps_strings = self.records = False
        self.loaded = loaded.result(waiting) if isinstance(loaded, Loading) else loaded
        self._descriptors = self.loaded.descriptors
        self.hooks, self.tried, self.missing = self.loaded[1:]
        self.ring = Ring(self._descriptors["map:ring"], ring_bytes)
        self.page = Page(self._descriptors["map:page"])
        self.ask = syscall.TestRun(self._descriptors["program:state"])
        self._marker = syscall.TestRun(self._descriptors["program:marker"])
        # the programs that hooks run; the others are called, by one of these or by this process
        self._misses = syscall.RecursionMisses(
            [fd for name, fd in self._descriptors.items() if name.startswith("program:") and name not in _CALLED]
        )
        self.string_key = wire.STRING_KEY.unpack(_mapped(self._descriptors["map:string_key"], wire.STRING_KEY.size))
        self.filters = self._try_filter()

    def _try_filter(self) -> bool:
        try:
            for tie in self.ties[:1]:
                self.tied(tie, os.getpid())
        except OSError:
            return False
        return True

    def fileno(self) -> int:
        """Return a descriptor that becomes readable once in some thousand records."""
        return self._descriptors["map:ring"]

    @property
    def ring_name(self) -> str:
        """The kernel's name of the ring, unique within a boot."""
        return syscall.identity(self._descriptors["map:ring"])

    def mark(self, argument: int = 0) -> None:
        """Put a marker into the stream."""
        self._marker(argument, 0)

    def rows(self) -> bytes:
        """Walk all tasks; return struct sweep_row, one after the other."""
        return _walk(self._descriptors["iterator"])

    @property
    def ties(self) -> tuple[Tie, ...]:
        """The kinds of ties that can be read on this kernel."""
        return tuple(tie for tie in _TIES if f"iterator:{tie}" in self._descriptors)

    def tied(self, tie: Tie, process: int = 0) -> bytes:
        """Read ties of a kind, as the struct of its row in bpf/events.h: all, or those of a process.

        Raises:
            OSError: the call is for one process, and `filters` is False.
        """
        link = syscall.link_iterator(self._descriptors[f"iterator:{tie}"], process)
        try:
            return _walk(link)
        finally:
            os.close(link)

    def skipped(self) -> int:
        """Return the count of program runs that found no scratch buffer, or that the kernel skipped; these took no
        number.
        """
        return self.page.nested + self._misses()

    def keep_strings(self, *, wanted: bool) -> None:
        """Make the exec hook tell the text of arguments and environments, or their hashes alone."""
        self.keeps_strings = wanted
        self.tell_arguments(wanted=False)

    def record(self) -> None:
        """Make the hooks tell the time of each record, and the text of arguments, from now on."""
        self.records = True
        self.tell_arguments(wanted=True)

    def tell_arguments(self, *, wanted: bool) -> None:
        """Make the exec hook tell the text of arguments, for a time; where strings are kept it does so in any case."""
        both = wire.KEEP_ARGUMENTS | wire.KEEP_ENVIRONMENT
        word = both if self.keeps_strings else wire.KEEP_ARGUMENTS if wanted or self.records else 0
        word |= wire.KEEP_TIME if self.records else 0
        syscall.set_word(self._descriptors["map:keep"], 0, word)

    def allow(self, per_second: int) -> None:
        """Set the allowance of each user, changes of groups and subreaper flags a second; root's is in proportion."""
        syscall.set_word(self._descriptors["map:price"], 0, _SECOND_NS // per_second)

    def withheld(self) -> dict[int, int]:
        """Return by uid the changes of groups and subreaper flags beyond the user's allowance (bpf/quiet.h)."""
        items = syscall.map_items(self._descriptors["map:allowances"], _MOST_USERS)
        counts = ((int.from_bytes(key, sys.byteorder), _ALLOWANCE.unpack(value)[1]) for key, value in items)
        return {uid: count for uid, count in counts if count}

    def usage(self) -> dict[str, syscall.Usage]:
        """Return the runs, run time and misses of each program, by its name."""
        named = ((name, fd) for name, fd in self._descriptors.items() if name.startswith("program:"))
        return {name.removeprefix("program:"): syscall.usage(fd) for name, fd in named}

    def close(self) -> None:
        """Close all descriptors, which detaches the hooks."""
        self.ring.close()
        self.page.close()
        for fd in self._descriptors.values():
            os.close(fd)
        self._descriptors.clear()


def _mapped(fd: int, size: int) -> bytes:
    """Read the content of an array map by mmap(), for which the descriptor is enough."""
    with mmap.mmap(fd, -(-size // mmap.PAGESIZE) * mmap.PAGESIZE, mmap.MAP_SHARED, mmap.PROT_READ) as mapped:
        return mapped[:size]


def _walk(link: int) -> bytes:
    iterator = syscall.create_iterator(link)
    try:
        chunks = []
        while chunk := os.read(iterator, _ITERATOR_CHUNK):
            chunks.append(chunk)
        return b"".join(chunks)
    finally:
        os.close(iterator)
