# SPDX-License-Identifier: Apache-2.0
"""The agreement of the helper's headers with their mirrors in Python, and of a program with its plan."""

import os
import re
import shutil
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.model import Capabilities, ProgramFile
from agent.restart.contents import fillabi
from agent.restart.planning.plan import CloneBits, Op, Phase, Role
from agent.restart.rebuild import helperabi, helperprogram
from agent.restart.rebuild.preflight import MOST_LEVELS
from tests.support.plans import PlanWriter

FOLDER = Path(__file__).parents[3] / "agent" / "restart" / "helper"
HEADERS = ("program.h", "control.h", "fill.h", "resume.h")
Fields = tuple[tuple[str, str], ...]
STRUCTS: dict[str, Fields] = {
    "program_head": helperprogram.PROGRAM_HEAD,
    "program_actor": helperprogram.PROGRAM_ACTOR,
    "program_step": helperprogram.PROGRAM_STEP,
    "stage_head": helperprogram.STAGE_HEAD,
    "stage_read": helperprogram.STAGE_READ,
    "message": helperabi.MESSAGE_FIELDS,
    "answer": helperabi.ANSWER_FIELDS,
    "run_entry": helperabi.RUN_ENTRY_FIELDS,
    "fill_head": fillabi.HEAD_FIELDS,
    "fill_entry": fillabi.ENTRY_FIELDS,
    "fill_start": fillabi.START_FIELDS,
    "fill_part": fillabi.PART_FIELDS,
    "fill_state": fillabi.STATE_FIELDS,
    "fill_operation": fillabi.OPERATION_FIELDS,
    "resume_head": fillabi.RESUME_HEAD_FIELDS,
    "resume_thread": fillabi.RESUME_THREAD_FIELDS,
    "resume_component": fillabi.RESUME_COMPONENT_FIELDS,
    "resume_message": fillabi.RESUME_MESSAGE_FIELDS,
}
VALUES: dict[str, object] = {
    **{f"OP_{op.name}": int(op) for op in Op},
    **{f"CLONE_BIT_{bit.name}": int(bit) for bit in CloneBits},
    **{f"PHASE_{phase.name}": int(phase) for phase in Phase},
    **{f"SAID_{said.name}": int(said) for said in helperabi.Said},
    **{f"REASON_{reason.name}": int(reason) for reason in helperabi.Reason},
    **{f"SETUP_{setup.name}": int(setup) for setup in helperabi.Setup},
    **{f"RUN_{run.name}": int(run) for run in helperabi.Run},
    **{f"DOING_{doing.name}": int(doing) for doing in helperabi.Doing},
    **{name: getattr(helperprogram, name) for name in dir(helperprogram) if name.startswith(("PROGRAM_", "ACTOR_"))},
    **{name: getattr(helperabi, name) for name in ("FD_PROGRAM", "FD_CONTROL", "RUN_OPENED")},
    **{name: getattr(helperabi, name) for name in dir(helperabi) if name.startswith("RIGHTS_")},
    **{f"FILL_{special.name}": int(special) for special in fillabi.Special},
    **{f"FILL_{demand.name}": int(demand) for demand in fillabi.Demand},
    **{f"RESUMED_{resumed.name}": int(resumed) for resumed in fillabi.Resumed},
    "FILL_STACK": fillabi.STACK,
    "FILL_ASIDE_STACK": fillabi.ASIDE_STACK,
    "FILL_NO_SLOT": fillabi.NO_SLOT,
    "FILL_ARGUMENTS": fillabi.ARGUMENTS,
    "PROGRAM_MAGIC": helperprogram.MAGIC,
    "PROGRAM_VERSION": helperprogram.VERSION,
    "NO_ACTOR": helperprogram.NO_ACTOR,
    "MAX_LEVELS": MOST_LEVELS + 1,
    "PHASES": len(Phase),
}


def asserts() -> Iterator[str]:
    """Yield an assertion for each field's offset and size, and for each constant's value."""
    for name, fields in STRUCTS.items():
        at = 0
        for field, code in fields:
            size = struct.calcsize("=" + code)
            yield f'_Static_assert(__builtin_offsetof(struct {name}, {field}) == {at}, "{name}.{field}: offset");'
            yield f'_Static_assert(sizeof(((struct {name} *)0)->{field}) == {size}, "{name}.{field}: size");'
            at += size
        yield f'_Static_assert(sizeof(struct {name}) == {at}, "{name}: size");'
    for name, value in VALUES.items():
        if isinstance(value, int):
            yield f'_Static_assert({name} == {value}, "{name}");'


def complaints(headers: str, folder: Path) -> str:
    """Return the compiler's messages; empty if there are none."""
    source = folder / "layout.c"
    source.write_text(headers + "\n".join(asserts()) + "\n")
    command = ["gcc", "-std=gnu11", "-Wall", "-Werror", "-fsyntax-only", str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stderr if done.returncode else ""


def texts() -> str:
    """Return the text of the headers."""
    if shutil.which("gcc") is None:
        assert os.geteuid(), "gcc is missing, which `make setup` installs for root"
        pytest.skip("no gcc here")
    return "".join((FOLDER / name).read_text() for name in HEADERS)


def test_every_field_and_constant_is_as_the_headers_have_it(tmp_path: Path) -> None:
    """C and Python share one definition."""
    assert complaints(texts(), tmp_path) == ""


def test_every_constant_of_the_headers_is_compared() -> None:
    """A new one must be added here."""
    headers = re.sub(r"/\*.*?\*/", "", texts(), flags=re.DOTALL)
    constants = set(re.findall(r"^#define (\w+)[ \t]+\S", headers, re.MULTILINE))
    listed = {
        name
        for body in re.findall(r"\benum \w+ \{(.*?)\}", headers, re.DOTALL)
        for name in re.findall(r"[A-Z]\w+", body)
    }
    structures = set(re.findall(r"^struct (\w+) \{", headers, re.MULTILINE))

    assert constants | listed == {name for name, value in VALUES.items() if isinstance(value, int)}
    assert structures == STRUCTS.keys()


@pytest.mark.parametrize(
    ("in_header", "instead", "complaint"),
    [
        ("uint32_t op;\n uint32_t by;", "uint32_t by;\n uint32_t op;", "program_step.op"),
        ("int32_t value;\n uint64_t offset;", "int64_t value;\n uint64_t offset;", "message.value: size"),
        ("OP_SUBREAPER,\n OP_ENTER", "OP_ENTER,\n OP_SUBREAPER", "OP_SUBREAPER"),
        ("SAID_GO = 16", "SAID_GO = 17", "SAID_GO"),
        ("uint32_t uid; /*", "uint64_t uid; /*", "run_entry.uid: size"),
        ("DOING_CAPGET,\n DOING_SETGROUPS", "DOING_SETGROUPS,\n DOING_CAPGET", "DOING_CAPGET"),
        ("ACTOR_TASK 4u", "ACTOR_TASK 16u", "ACTOR_TASK"),
    ],
    ids=["swapped", "wider", "operations", "messages", "rights", "calls", "flags"],
)
def test_a_header_that_differs_is_noticed(tmp_path: Path, in_header: str, instead: str, complaint: str) -> None:
    """So the comparison can fail."""
    headers = re.sub(r"[ \t]+", " ", texts())
    changed = headers.replace(in_header, instead, 1)

    assert changed != headers
    assert complaint in complaints(changed, tmp_path)


def test_a_program_sorts_steps_by_actor_and_keeps_what_they_wait_for() -> None:
    """A dependency is an index in the sorted list; `place` is the index in the plan."""
    writer = PlanWriter()
    root = writer.actor(1)
    child = writer.born(root, 7)
    joined = writer.step(Op.SETPGID, child, child, child)
    writer.step(Op.SETSID, root, after=(joined,))
    code = helperprogram.encode(writer.plan())
    start = helperprogram.HEAD.size + 2 * helperprogram.ACTOR.size
    steps = [helperprogram.STEP.unpack_from(code, start + n * helperprogram.STEP.size) for n in range(3)]
    tail = struct.unpack("=1I2i", code[start + 3 * helperprogram.STEP.size :])

    assert [(step[0], step[1], step[-1]) for step in steps] == [
        (Op.CLONE, root, 0),
        (Op.SETSID, root, 2),
        (Op.SETPGID, child, 1),
    ]
    assert tail == (2, 1, 7)


def test_spare_numbers_are_those_that_nobody_has_at_any_level() -> None:
    """They are between 301 and the largest."""
    writer = PlanWriter()
    root = writer.actor(1)
    writer.born(root, 10000, 400, depth=1)
    writer.born(root, role=Role.HELPER)

    assert helperprogram.spare_numbers(writer.plan(), 32768) == (10001, 32768)


def test_a_run_section_has_each_string_once_and_points_to_it() -> None:
    """A thousand tasks share one environment."""
    env = (b"A=1", b"B=2")
    programs = {
        0: helperabi.Program(b"/bin/x", (b"x", b"A=1"), env),
        2: helperabi.Program(b"/bin/x", (b"x",), env, b"/tmp"),
    }
    section = helperabi.run_section(programs, 3)

    def text(at: int) -> bytes:
        return section[at : section.index(b"\0", at)]

    def array(at: int) -> list[bytes]:
        found = []
        while offset := struct.unpack_from("=Q", section, at)[0]:
            found.append(text(offset))
            at += 8
        return found

    entries = [helperabi.RUN_ENTRY.unpack_from(section, n * helperabi.RUN_ENTRY.size) for n in range(3)]
    assert not any(entries[1])
    assert [array(entries[0][1]), array(entries[0][2])] == [[b"x", b"A=1"], list(env)]
    assert (text(entries[2][0]), array(entries[2][1]), text(entries[2][3])) == (b"/bin/x", [b"x"], b"/tmp")
    assert section.count(b"A=1\0") == section.count(b"/bin/x\0") == 1


def test_a_run_section_has_the_rights_of_each() -> None:
    """Groups are a list of their own; a process without an entry keeps its rights."""
    caps = Capabilities(1, 2, 3, 4, 1 << 40)
    rights = helperabi.Rights(1, 2, 3, 4, (5, 6), caps, no_new_privs=True, umask=0o22)
    file = ProgramFile(os.makedev(300, 70000), 1 << 40, 5, 6, -7)
    programs = {
        0: helperabi.Program(b"/bin/x", (b"x",), ()),
        1: helperabi.Program(
            b"/bin/x", (b"x",), (), b"/", rights, file, opened=True, cwd_id=(os.makedev(301, 70001), 1 << 41)
        ),
        2: helperabi.Program(b"/bin/x", (b"x",), (), b"/", rights._replace(groups=None, no_new_privs=False)),
        3: helperabi.Program(b"/bin/x", (b"x",), (), b"/", rights._replace(groups=(7,), no_new_privs=False)),
    }
    section = helperabi.run_section(programs, 4)
    names = [name for name, _ in helperabi.RUN_ENTRY_FIELDS]
    entries = [
        dict(zip(names, helperabi.RUN_ENTRY.unpack_from(section, n * helperabi.RUN_ENTRY.size), strict=True))
        for n in range(4)
    ]
    groups = [struct.unpack_from(f"={each['group_count']}I", section, each["groups"]) for each in entries]

    assert [each["flags"] for each in entries] == [0, 39, 1, 3]
    assert groups == [(), (5, 6), (), (7,)]
    assert {name: entries[1][name] for name in names[5:]} == {
        "inheritable": 1,
        "permitted": 2,
        "effective": 3,
        "bounding": 4,
        "ambient": 1 << 40,
        "flags": 39,
        "umask": 0o22,
        "uid": 1,
        "euid": 2,
        "gid": 3,
        "egid": 4,
        "group_count": 2,
        "device_major": 300,
        "device_minor": 70000,
        "reserved": 0,
        "inode": 1 << 40,
        "changed_ns": -7,
        "cwd_major": 301,
        "cwd_minor": 70001,
        "cwd_inode": 1 << 41,
    }
    assert section[entries[3]["path"] :].startswith(b"/bin/x\0")
