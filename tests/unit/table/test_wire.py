# SPDX-License-Identifier: Apache-2.0
"""The agreement of bpf/events.h with its mirrors in Python, field by field, checked by two compilers."""

import os
import re
import shutil
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.table import objects, wire
from agent.table.pidspace import INITIAL_INUM
from agent.table.wire import Kind
from tests.support.records import RecordWriter, a_state

BPF = Path(__file__).parents[3] / "bpf"
HEADER = BPF / "events.h"

STRUCTS: dict[str, wire.Fields] = {
    "record": wire.RECORD,
    "record_task": wire.RECORD_TASK,
    "record_end": wire.RECORD_END,
    "record_call": wire.RECORD_CALL,
    "record_strings": wire.RECORD_STRINGS,
    "sweep_row": wire.SWEEP_ROW,
    "terminal_row": wire.TERMINAL_ROW,
    "owner_row": wire.OWNER_ROW,
    "sharing_row": wire.SHARING_ROW,
    "pid_number": wire.PID_NUMBER,
    "question": wire.QUESTION,
    "page": wire.PAGE,
    "allowance": wire.ALLOWANCE,
}
COMPILERS = {
    "gcc": ["gcc", "-std=gnu11", "-Wall", "-Werror", "-fsyntax-only"],
    "clang for bpf": ["clang", "-target", "bpf", "-Wall", "-Werror", "-fsyntax-only"],
}
FLAGS = (
    *("SUBREAPER", "UNDER_SUBREAPER", "EXITED", "RELEASED", "EXITING", "STOPPED"),
    *("KERNEL", "IO_WORKER", "AUTOREAP", "PTRACED", "MOVING", "MOVING_NOWHERE"),
)


def c_name(struct_name: str, field: str) -> str:
    """Return the name of a field in C: the head of a record is a structure inside the others."""
    inside = struct_name.startswith("record_") and field in {name for name, _ in wire.RECORD}
    return f"head.{field}" if inside else field


def layout_asserts(structs: dict[str, wire.Fields]) -> Iterator[str]:
    """Yield assertions of the size of each structure, and of the offset and size of each field."""
    for name, fields in structs.items():
        at = 0
        for field, code in fields:
            size = struct.calcsize("=" + code)
            where = f"struct {name}, {c_name(name, field)}"
            text = f"{name}.{field}"
            yield f'_Static_assert(__builtin_offsetof({where}) == {at}, "{text}: offset");'
            yield f'_Static_assert(sizeof(((struct {name} *)0)->{c_name(name, field)}) == {size}, "{text}: size");'
            at += size
        yield f'_Static_assert(sizeof(struct {name}) == {at}, "{name}: size");'


def values() -> dict[str, int]:
    """Return the constants, the kinds of record, and the flags, by their names in C."""
    values = {f"RECORD_{kind.name}": int(kind) for kind in Kind}
    values |= {f"TASK_{flag}": getattr(objects, flag) for flag in FLAGS}
    values |= {name: getattr(wire, name) for name in ("TIES_OWNED", "TIES_SHARED", "ROW_SIGNAL_SHIFT")}
    values |= {
        "MAX_LEVELS": wire.MAX_LEVELS,
        "LOST_NUMBERS": wire.LOST_NUMBERS,
        "STRINGS_BYTES": wire.STRINGS_BYTES,
        "KEPT_BYTES": wire.KEPT_BYTES,
        "KEEP_ARGUMENTS": wire.KEEP_ARGUMENTS,
        "KEEP_ENVIRONMENT": wire.KEEP_ENVIRONMENT,
        "KEEP_TIME": wire.KEEP_TIME,
        "STRINGS_BLOCK": wire.STRINGS_BLOCK,
        "sizeof(struct string_key)": wire.STRING_KEY.size,
        "INITIAL_INUM": INITIAL_INUM,
        "MAX_OBJECTS": 4,
    }
    return values


def value_asserts() -> Iterator[str]:
    """Yield an assertion of each constant."""
    for name, value in values().items():
        yield f'_Static_assert({name} == {value}, "{name}");'


def compiled(compiler: str, header: str, asserts: Iterator[str], folder: Path) -> str:
    """Return the compiler's messages; empty if there are none."""
    program = folder / "layout.c"
    program.write_text(header + "\n" + "\n".join(asserts) + "\n")
    command = [*COMPILERS[compiler], "-I", str(BPF / "include"), str(program)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stderr if done.returncode else ""


@pytest.fixture(params=COMPILERS)
def compiler(request: pytest.FixtureRequest) -> str:
    """Return each compiler that must accept the header."""
    name: str = request.param
    if shutil.which(COMPILERS[name][0]) is None:
        assert os.geteuid(), f"{name} is missing, which `make setup` installs for root"
        pytest.skip(f"{name}: no such compiler here")
    return name


def test_every_field_stands_where_the_header_has_it(compiler: str, tmp_path: Path) -> None:
    """Each compiler lays out offsets, field sizes and structure sizes."""
    assert compiled(compiler, HEADER.read_text(), layout_asserts(STRUCTS), tmp_path) == ""


def test_every_constant_has_the_value_of_the_header(compiler: str, tmp_path: Path) -> None:
    """These are record kinds, task flags, and limits."""
    assert compiled(compiler, HEADER.read_text(), value_asserts(), tmp_path) == ""


@pytest.mark.parametrize(
    ("in_header", "instead", "complaint"),
    [
        ("__u64 parent; /* address of real_parent */\n __u64 leader;", "__u64 leader;\n __u64 parent;", "parent"),
        ("__u32 exit_code; /* raw wait status", "__u64 exit_code; /* raw wait status", "exit_code: size"),
        ("__u32 value;\n", "__u32 value;\n __u64 more;\n", "record_call: size"),
        ("RECORD_EXIT,", "RECORD_NEW, RECORD_EXIT,", "RECORD_EXIT"),
        ("TASK_EXITED (1u << 2)", "TASK_EXITED (1u << 12)", "TASK_EXITED"),
        ("#define LOST_NUMBERS 512", "#define LOST_NUMBERS 256", "LOST_NUMBERS"),
    ],
    ids=["swapped fields", "wider field", "field added", "kind added", "flag moved", "limit changed"],
)
def test_a_header_that_differs_is_noticed(
    compiler: str, tmp_path: Path, in_header: str, instead: str, complaint: str
) -> None:
    """Each kind of difference makes the comparison fail, and the message names the place."""
    header = re.sub(r"[ \t]+", " ", HEADER.read_text())
    changed = header.replace(in_header, instead, 1)
    asserts = iter([*layout_asserts(STRUCTS), *value_asserts()])

    assert changed != header
    assert complaint in compiled(compiler, changed, asserts, tmp_path)


def test_every_structure_and_every_constant_of_the_header_is_compared() -> None:
    """A new one in the header must be added here."""
    header = re.sub(r"/\*.*?\*/", "", HEADER.read_text(), flags=re.DOTALL)
    structures = set(re.findall(r"^struct (\w+) \{", header, re.MULTILINE))
    constants = set(re.findall(r"^#define (\w+)[ \t]+\S", header, re.MULTILINE))
    kinds = re.findall(r"\bRECORD_\w+\b", header)

    assert structures == {*STRUCTS, "string_key"}  # an array, whose size is compared
    assert {*constants, *kinds, "sizeof(struct string_key)"} == values().keys()


def test_task_state_names_the_fields_of_record_task_in_order() -> None:
    """So the values that TASK unpacks get their names by position."""
    assert wire.TaskRecord._fields == tuple(name for name, _ in wire.RECORD_TASK)


def test_a_reader_yields_the_wanted_fields_in_the_order_of_the_header() -> None:
    """The order of the request does not matter; other fields are skipped."""
    data = wire.END.pack(1, 8, 3, 9, 4, 5, 6, 7)

    assert wire.reader(wire.RECORD_END, "tid", "seq", "task").unpack_from(data) == (1, 4, 6)
    assert wire.reader(wire.RECORD_END, "tid").size == wire.END.size


def test_a_reader_refuses_a_name_that_is_no_field() -> None:
    """A typing error shows at the import of the module."""
    with pytest.raises(ValueError, match="nosuch"):
        wire.reader(wire.RECORD_END, "tid", "nosuch")


def test_a_pid_object_is_told_once_with_the_first_role_that_has_it() -> None:
    """The levels 2, 0, 1, 0 mean: own numbers, tgid the same, pgid another, sid as pgid."""
    own = a_state((100, 5), (1, 2))
    group = a_state((90,), (1,))
    record = RecordWriter().task(Kind.STATE, roles=((7, own), (7, own), (8, group), (8, group)))

    assert [wire.pid_state(record, 0, role) for role in range(4)] == [own, None, group, None]
    assert len(record) == wire.TASK_BYTES + 3 * wire.NUMBER.size


def test_the_numbers_of_a_pid_object_are_read_at_any_place() -> None:
    """The record may be in the middle of a buffer, also of a memoryview."""
    own = a_state((100, 5, 1), (1, 2, 3))
    record = b"\xff" * 24 + RecordWriter().task(Kind.STATE, roles=((7, own),) * 4)

    assert wire.pid_state(memoryview(record), 24, 0) == own


def test_the_deepest_pid_object_has_33_numbers() -> None:
    """Level 32 is the deepest of a namespace."""
    own = a_state(tuple(range(1000, 1033)), tuple(range(1, 34)))
    record = RecordWriter().task(Kind.STATE, roles=((7, own),) * 4)

    assert wire.pid_state(record, 0, 0) == own
    assert wire.record_bytes(record, 0, Kind.STATE) == len(record) == wire.TASK_BYTES + 33 * 16


@pytest.mark.parametrize("kind", Kind)
def test_the_length_of_a_record_follows_from_its_kind(kind: Kind) -> None:
    """Bytes behind a record are not part of it."""
    writer = RecordWriter()
    if kind <= Kind.STATE:
        record = writer.task(kind, roles=((7, a_state((100, 5), (1, 2))),) * 4)
    elif kind is Kind.MARKER:
        record = writer.marker()
    elif kind is Kind.STRINGS:
        record = writer.strings(0, tid=3, start_ns=2, text=b"sh\0-c\0", kept=True)
    elif kind in (Kind.WAITED, Kind.REGROUPED):
        record = writer.call(kind, task=1, tid=2, value=3)
    else:
        record = writer.end(kind, task=1, start_ns=2, tid=3)

    assert wire.record_bytes(b"\0" * 8 + record + b"\xff" * 64, 8, kind) == len(record)


@given(st.lists(st.integers(min_value=0, max_value=wire.MAX_LEVELS), min_size=4, max_size=4))
def test_any_levels_are_read_back(levels: list[int]) -> None:
    """Each role's numbers are behind those of the roles before it; 0 levels mean no numbers."""
    states = [
        wire.PidState(tuple(range(n)), tuple(range(10, 10 + n)), tuple(range(50, 50 + n))) if n else None
        for n in levels
    ]
    numbers = [zip(*state, strict=True) for state in states if state is not None]
    tail = b"".join(wire.NUMBER.pack(*number) for role in numbers for number in role)
    fields = {name: 0 for name, _ in wire.RECORD_TASK} | {"levels": bytes(levels), "comm": b""}
    record = wire.TASK.pack(*fields.values()) + tail

    assert [wire.pid_state(record, 0, role) for role in range(4)] == states
