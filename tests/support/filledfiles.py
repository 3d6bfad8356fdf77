# SPDX-License-Identifier: Apache-2.0
"""Open files of made-up processes, and the operations that restore them."""

from collections.abc import Mapping, Sequence
from typing import Any

from agent.restart.contents.descriptors import Descriptors, FileKind
from agent.restart.contents.fillprogram import Operation
from agent.restart.contents.fillsection import FillProgram
from agent.restart.contents.holder import Holder
from agent.restart.contents.images import ProcessImage
from exporters.criu.criuschema import messages
from exporters.criu.filemessages import FILE_FIELDS, FILE_TYPES

OWNER = {"uid": 0, "euid": 0, "signum": 0, "pid_type": 0, "pid": 0}
OPTIONS = {f"so_{name}": 0 for name in ("snd_tmo_sec", "snd_tmo_usec", "rcv_tmo_sec", "rcv_tmo_usec")} | {
    "so_sndbuf": 8192,
    "so_rcvbuf": 8192,
}


def file_entry(identity: int, kind: int, **fields: Any) -> Any:
    """Return the file_entry of an open file without an owner, of CRIU's number of its kind."""
    entry = messages()["file_entry"](id=identity, type=kind)
    part = getattr(entry, FILE_FIELDS[FILE_TYPES[kind]])
    names = {field.name for field in part.DESCRIPTOR.fields}
    known = {"id": identity, "flags": 2, "fown": OWNER, "opts": OPTIONS}
    part.MergeFrom(type(part)(**{name: value for name, value in known.items() if name in names} | fields))
    return entry


def filled(
    files: Sequence[Any],
    kinds: Mapping[int, FileKind],
    processes: Sequence[tuple[tuple[int, ...], Sequence[int]]],
) -> list[Holder]:
    """Return processes with their scripts, each given by its numbers and its open files, which get descriptors from 3."""
    program = FillProgram()
    by_id = {int(entry.id): entry for entry in files}
    info = messages()["fdinfo_entry"]
    holders = []
    for actor, (numbers, have) in enumerate(processes):
        fds = tuple(
            info(id=identity, flags=0, type=by_id[identity].type, fd=3 + at) for at, identity in enumerate(have)
        )
        image = ProcessImage(numbers[0], (numbers[0],), None, {}, {}, None, None, None, fds)
        holders.append(Holder(actor, len(numbers) - 1, numbers, image, program.process((actor,))))
    made = Descriptors(holders, by_id, kinds, {each.numbers[0]: each.numbers for each in holders})
    made.create(program.word())
    made.hand_over(program.word(), program.word())
    return holders


def calls(holder: Holder, *names: str) -> list[Operation]:
    """Return the operations of a process's first thread with some names."""
    return [each for each in holder.leader.operations if each.name in names]
