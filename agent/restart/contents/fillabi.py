# SPDX-License-Identifier: Apache-2.0
"""The fill section and the resumer's table: the mirror of fill.h and resume.h, which explain the parts."""

import struct
from collections.abc import Mapping
from enum import IntEnum
from typing import Final

from agent.record import NamedTuple
from agent.restart.contents.syscalls import CALLS

# (field, struct code), in the order of the headers.
HEAD_FIELDS = (("code_offset", "Q"), ("code_size", "Q"), ("state_offset", "Q"), ("state_size", "Q"))
ENTRY_FIELDS = (
    *(("base", "Q"), ("program_offset", "Q"), ("program_size", "Q"), ("start", "Q"), ("stack", "Q")),
    *(("threads", "I"), ("reserved", "I")),
)
START_FIELDS = (
    *(("state", "Q"), ("operations", "Q"), ("slots", "Q"), ("data", "Q"), ("count", "I"), ("actor", "I")),
    *(("first", "I"), ("reserved", "I")),
)
PART_FIELDS = (("ready", "I"), ("reserved", "I"), ("offset", "Q"), ("size", "Q"), ("address", "Q"))
STATE_FIELDS = (
    *(("filled", "I"), ("failing", "I"), ("failed", "I"), ("actor", "I"), ("operation", "I"), ("error", "i")),
    ("bytes", "Q"),
)
OPERATION_FIELDS = (
    *(("call", "I"), ("keep", "H"), ("demand", "B"), ("from_slots", "B"), ("from_data", "B")),
    *(("count", "B"), ("reserved", "6x"), ("arguments", "6Q"), ("wanted", "Q")),
)
RESUME_HEAD_FIELDS = (("size", "Q"), ("state_offset", "Q"), ("state_size", "Q"), ("threads", "I"), ("options", "I"))
RESUME_THREAD_FIELDS = (
    *(("tid", "i"), ("stop_signal", "I"), ("region", "Q"), ("region_size", "Q"), ("mask", "Q")),
    *(("registers_offset", "Q"), ("floating_offset", "Q"), ("features", "Q"), ("components", "I"), ("status", "I")),
)
RESUME_COMPONENT_FIELDS = (("index", "I"), ("size", "I"))
RESUME_MESSAGE_FIELDS = (("what", "I"), ("thread", "I"), ("error", "i"), ("reserved", "I"))


def _struct(fields: tuple[tuple[str, str], ...]) -> struct.Struct:
    return struct.Struct("=" + "".join(code for _, code in fields))


HEAD: Final = _struct(HEAD_FIELDS)
ENTRY: Final = _struct(ENTRY_FIELDS)
START: Final = _struct(START_FIELDS)
PART: Final = _struct(PART_FIELDS)
STATE: Final = _struct(STATE_FIELDS)
OPERATION: Final = _struct(OPERATION_FIELDS)
RESUME_HEAD: Final = _struct(RESUME_HEAD_FIELDS)
RESUME_THREAD: Final = _struct(RESUME_THREAD_FIELDS)
RESUME_COMPONENT: Final = _struct(RESUME_COMPONENT_FIELDS)
RESUME_MESSAGE: Final = _struct(RESUME_MESSAGE_FIELDS)

STACK: Final = 20480
ASIDE_STACK: Final = 4096
NO_SLOT: Final = 0xFFFF
ARGUMENTS: Final = 6
PACK_SIGNED: Final = tuple(
    struct.Struct(OPERATION.format.replace("6Q", f"{count}q{8 * (ARGUMENTS - count)}x")).pack
    for count in range(ARGUMENTS + 1)
)
"""Packs an OPERATION, by the number of its arguments; those that are missing are 0."""
WORD: Final = 4
SLOT: Final = 8


MOST_HELPERS: Final = STACK // ASIDE_STACK - 2
"""Helper processes of a thread: its own part of the stack, and a spare one, remain."""


class Special(IntEnum):
    """The operations that are no system calls; see enum fill_special."""

    WAIT = 0x10000
    POST = 0x10001
    READ = 0x10002
    STORE = 0x10003
    LOAD = 0x10004
    ADDRESS = 0x10005
    TIMER = 0x10006
    ASIDE = 0x10007
    JOIN = 0x10008
    TERMINAL = 0x10009
    MERGE = 0x1000A
    PART = 0x1000B
    RING = 0x1000C
    SPENT = 0x1000D


NAMES: Final[Mapping[int, str]] = {
    **{number: name for name, number in CALLS.items()},
    **{each: each.name.lower() for each in Special},
    Special.ASIDE: "read",
    Special.TERMINAL: "open",
}
"""The names of operations, for people."""


class Demand(IntEnum):
    """The answers of an operation that are right."""

    ANY = 0
    SUCCESS = 1
    EXACT = 2


class Resumed(IntEnum):
    """The resumer's messages."""

    READY = 1
    ALL = 2
    SETUP = 3
    SEIZE = 4
    WAIT_FAILED = 5
    DIED = 6
    FILL_FAILED = 7
    REGISTERS = 8
    FLOATING = 9
    COMPONENT = 10
    MASK = 11
    REGION = 12


class ResumeMessage(NamedTuple):
    """One packet of the resumer; `thread` is an index of the table."""

    what: int
    thread: int
    error: int
    reserved: int = 0
