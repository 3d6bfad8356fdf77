# SPDX-License-Identifier: Apache-2.0
"""A writer of the records of bpf/events.h, as the BPF programs write them."""

import random

from agent.table import wire
from agent.table.areas import string_hash
from agent.table.objects import CLONE_PARENT, CLONE_THREAD
from agent.table.wire import Kind, PidState

INITIAL_INUM = 0xEFFFFFFC
KEY = wire.STRING_KEY.unpack(random.Random(1).randbytes(wire.STRING_KEY.size))
"""struct string_key of an invented kernel."""


def a_state(numbers: tuple[int, ...], ns_ids: tuple[int, ...], inums: tuple[int, ...] | None = None) -> PidState:
    """Return the state of a pid object in a record."""
    return PidState(numbers, inums or tuple(INITIAL_INUM - n for n in ns_ids), ns_ids)


class RecordWriter:
    """A writer that packs records and numbers them.

    Attributes:
        seq: number of the next record.
        time_ns: of the next records.
    """

    def __init__(self, seq: int = 0) -> None:
        self.seq = seq
        self.time_ns = 0

    def _head(self, kind: Kind, argument: int = 0) -> tuple[int, int, int, int]:
        self.seq += 1
        return self.seq - 1, int(kind), argument, self.time_ns

    def task(self, kind: Kind, argument: int = 0, *, roles: tuple[tuple[int, PidState], ...], **fields: int) -> bytes:
        """Return struct record_task; roles are identity and numbers of pid, tgid, pgrp and session."""
        values: dict[str, int | bytes] = dict.fromkeys((name for name, _ in wire.RECORD_TASK), 0)
        values.update(fields, comm=b"task")
        values["seq"], values["kind"], values["argument"], values["time_ns"] = self._head(kind, argument)
        values["pid"], values["tgid"], values["pgid"], values["sid"] = identities = [identity for identity, _ in roles]
        levels, tail = [], b""
        for role, (identity, state) in enumerate(roles):
            told = identity in identities[:role] or not identity
            levels.append(0 if told else len(state.numbers))
            if not told:
                tail += b"".join(wire.NUMBER.pack(*number) for number in zip(*state, strict=True))
        values["levels"] = bytes(levels)
        return wire.TASK.pack(*values.values()) + tail

    def end(self, kind: Kind, task: int, start_ns: int, tid: int = 0, exit_code: int = 0) -> bytes:
        """Return struct record_end."""
        return wire.END.pack(*self._head(kind), task, start_ns, tid, exit_code)

    def call(self, kind: Kind, task: int, tid: int, value: int) -> bytes:
        """Return struct record_call."""
        return wire.CALL.pack(*self._head(kind), task, tid, value)

    def strings(
        self, which: int, *, tid: int, start_ns: int, text: bytes, address: int = 1, kept: bool = False
    ) -> bytes:
        """Return struct record_strings; `which` is 0 for arguments and 1 for the environment."""
        head = self._head(Kind.STRINGS, which)
        told = text[: wire.KEPT_BYTES] if kept else b""
        return wire.STRINGS.pack(*head, 1, start_ns, tid, len(told), address, len(text), *string_hash(text, KEY)) + told

    def marker(self, argument: int = 0) -> bytes:
        """Return a plain struct record."""
        return wire.HEAD.pack(*self._head(Kind.MARKER, argument))


def nonsense(writer: RecordWriter, kind: Kind, seed: int) -> bytes:
    """Return a well-formed record with random contents; task, number and identity are from a few, so that they meet."""
    chance = random.Random(seed)
    numbers = [tuple(chance.choices(range(1, 5), k=chance.randint(1, 3))) for _ in range(4)]
    roles = [(chance.randint(0, 4), a_state(each, tuple(range(1, 1 + len(each))))) for each in numbers]
    names = [name for name, code in wire.RECORD_TASK[4:] if code in ("Q", "I")]
    fields = {name: chance.randint(0, 5) for name in names} | {"flags": chance.getrandbits(12)}
    argument = chance.choice([0, 1, 2, CLONE_THREAD, CLONE_PARENT])
    if kind <= Kind.STATE:
        return writer.task(kind, argument, roles=(roles[0], roles[1], roles[2], roles[3]), **fields)
    if kind is Kind.STRINGS:
        return writer.strings(
            argument & 1, tid=chance.randint(0, 4), start_ns=chance.randint(0, 4), text=b"a\0" * argument
        )
    return writer.end(kind, *chance.choices(range(5), k=4))
