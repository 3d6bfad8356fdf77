# SPDX-License-Identifier: Apache-2.0
"""The parts of dumps made by hand: images of messages, processes with their memory, the files that all of them have."""

import os
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple

from agent.restart.contents.buildids import build_id
from exporters.criu import imagefile
from exporters.criu.criuschema import messages
from exporters.criu.memorymessages import (
    ANON_PRIVATE,
    AREA_REGULAR,
    AREA_STACK,
    FILE_PRIVATE,
    PRESENT,
)
from tests.support import criuimages
from tests.support.filledfiles import file_entry

PAGE: Final = 4096
ROOT: Final = 10
"""The number of the first process."""
_EXE, _CWD, _ROOT_FOLDER = 1, 2, 3
MAP_ANONYMOUS, MAP_SHARED = 0x22, 0x21
_AREA: Final = {"pgoff": 0, "shmid": 0, "prot": 3, "flags": MAP_ANONYMOUS, "status": AREA_REGULAR, "fd": -1}
_CODE, _HEAP, FREE_ADDRESS, _STACK = 0x400000, 0x500000, 0x7F0000000000, 0x7FFD10000000
_MARKS: Final = {
    **{f"mm_{name}": _CODE for name in ("start_code", "start_data", "end_data")},
    "mm_end_code": _CODE + PAGE,
    **{f"mm_{name}": _HEAP for name in ("start_brk", "brk")},
    **{f"mm_{name}": _STACK for name in ("start_stack", "arg_start", "arg_end", "env_start", "env_end")},
}
SHARED_IDS: Final = ("vm_id", "files_id", "fs_id", "sighand_id")
NAMESPACE_IDS: Final = {f"{kind}_ns_id": 1 for kind in ("net", "ipc", "uts", "mnt", "user", "cgroup", "time")}
TIMES: Final = {"isec": 0, "insec": 0, "vsec": 5, "vnsec": 7}


class SmallDump(NamedTuple):
    """A dump.

    Attributes:
        files: the contents of its images, by name.
        before: of the dump before it, which has pages that did not change since; empty: there is none.
    """

    files: dict[str, bytes]
    before: dict[str, bytes]


class DumpedProcess(NamedTuple):
    """A process of a dump.

    Attributes:
        pid, ppid: its number, and its parent's.
        descriptors: the id and the kind of each open file, which get descriptors from 0 on.
        areas: fields of its further areas, in order of address.
        pages: address, number and flags of its further pages.
        threads: the numbers of its other threads.
        rings: its rings of asynchronous I/O.
    """

    pid: int
    ppid: int
    descriptors: Sequence[tuple[int, int]] = ()
    areas: Sequence[Mapping[str, int]] = ()
    pages: Sequence[tuple[int, int, int]] = ()
    threads: Sequence[int] = ()
    rings: Sequence[Mapping[str, int]] = ()


def image(stem: str, *entries: Any, payloads: Sequence[bytes] = ()) -> bytes:
    """Return an image of messages, each with the bytes behind it."""
    parts = [magic.to_bytes(4, "little") for magic in imagefile.KINDS[stem].magics]
    for at, entry in enumerate(entries):
        content = entry.SerializeToString()
        parts += [len(content).to_bytes(4, "little"), content, payloads[at] if at < len(payloads) else b""]
    return b"".join(parts)


def new(name: str, /, **fields: Any) -> Any:
    """Return a message by its name."""
    return messages()[name](**fields)


@cache
def a_core(*, whole: bool = False) -> Any:
    """Return the core_entry of a dump by CRIU with few actions and limits; `whole`: with all that XSAVE has kept."""
    files = criuimages.dump("container")
    core: Any = next(imagefile.read(files.open("core-1.img"), "core-1.img")).message  # type: ignore[arg-type]
    del core.tc.sigactions[2:]
    del core.tc.rlimits.rlimits[3:]
    if not whole:
        core.thread_info.fpregs.ClearField("xsave")
    core.thread_core.creds.cap_bnd[:] = (2**32 - 1, 2**9 - 1)
    return core


def regular(identity: int, path: str, **fields: Any) -> Any:
    """Return the file_entry of a file of this host."""
    found = os.stat(path)
    known = {"name": path.encode(), "pos": 0, "mode": found.st_mode, "flags": os.O_RDONLY}
    if os.path.isfile(path):
        known["size"] = found.st_size
    return file_entry(identity, 1, **(known | fields))


@cache
def program() -> str:
    """Return the path of the program of all processes."""
    return os.path.realpath("/bin/sh")


def _common() -> list[Any]:
    """Return the files that each process has: its program, its folder, its root."""
    return [regular(_EXE, program()), regular(_CWD, "/usr"), regular(_ROOT_FOLDER, "/")]


def built() -> list[int]:
    """Return the build id of the program, as CRIU records it."""
    built = build_id(Path(program()))
    return [int.from_bytes(built[at : at + 4].ljust(4, b"\0"), "little") for at in range(0, len(built), 4)]


def dump(files: Sequence[Any], processes: Sequence[DumpedProcess], **images: bytes) -> SmallDump:
    """Return a dump of living processes; `images` has further ones, by name with `_` for `-`."""
    own = {**dict.fromkeys(SHARED_IDS, 1), **NAMESPACE_IDS, "pid_ns_id": 1}
    inventory = new(
        "inventory_entry", img_version=2, fdinfo_per_id=True, ns_per_id=True, root_ids=own, network_lock_method=2
    )
    made = {
        "inventory.img": image("inventory", inventory),
        "files.img": image("files", *_common(), *files),
        "seccomp.img": image("seccomp", new("seccomp_entry")),
        "stats-dump": image("stats", new("stats_entry")),
    }
    tree = []
    for place, one in enumerate(processes, start=2):
        tree.append(
            new("pstree_entry", pid=one.pid, ppid=one.ppid, pgid=ROOT, sid=ROOT, threads=[one.pid, *one.threads])
        )
        made.update(_images_of(one, place))
    made["pstree.img"] = image("pstree", *tree)
    made.update({name.replace("_", "-") + ".img": content for name, content in images.items()})
    return SmallDump(made, {})


def _images_of(one: DumpedProcess, place: int) -> dict[str, bytes]:
    areas = [
        {"start": _CODE, "end": _CODE + 2 * PAGE, "shmid": _EXE, "prot": 5, "flags": 2, "status": 1 | FILE_PRIVATE},
        {"start": _HEAP, "end": _HEAP + 4 * PAGE, "status": AREA_REGULAR | ANON_PRIVATE, "madv": 1 << 14},
        *one.areas,
        {"start": _STACK, "end": _STACK + 2 * PAGE, "flags": 0x122, "status": 1 | ANON_PRIVATE | AREA_STACK},
    ]
    maps = [(_HEAP, 2, PRESENT), *one.pages, (_STACK, 1, PRESENT)]
    rows = [new("pagemap_entry", vaddr=at, compat_nr_pages=n, flags=how) for at, n, how in maps]
    fds = [
        new("fdinfo_entry", id=identity, flags=at % 2, type=kind, fd=at)
        for at, (identity, kind) in enumerate(one.descriptors)
    ]
    mm = {**_MARKS, "exe_file_id": _EXE, "mm_saved_auxv": [33, _STACK], "dumpable": 1, "aios": list(one.rings)}
    found = {
        f"mm-{one.pid}.img": image("mm", new("mm_entry", **mm, vmas=[{**_AREA, **each} for each in areas])),
        f"pagemap-{one.pid}.img": image("pagemap", new("pagemap_head", pages_id=place), *rows),
        f"pages-{place}.img": bytes(PAGE) * sum(n for _, n, how in maps if how & PRESENT),
        f"fdinfo-{place}.img": image("fdinfo", *fds),
        f"fs-{one.pid}.img": image("fs", new("fs_entry", cwd_id=_CWD, root_id=_ROOT_FOLDER, umask=18)),
        f"ids-{one.pid}.img": image(
            "ids", new("task_kobj_ids_entry", **dict.fromkeys(SHARED_IDS, place), **NAMESPACE_IDS, pid_ns_id=1)
        ),
    }
    for tid in (one.pid, *one.threads):
        core = new("core_entry")
        core.CopyFrom(a_core())
        if tid != one.pid:
            core.ClearField("tc")
        found[f"core-{tid}.img"] = image("core", core)
    return found


def alone(files: Sequence[Any], **more: Any) -> tuple[Sequence[Any], list[DumpedProcess]]:
    """Return files and one process that has them all."""
    return files, [DumpedProcess(ROOT, 0, [(int(each.id), int(each.type)) for each in files], **more)]
