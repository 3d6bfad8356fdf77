# SPDX-License-Identifier: Apache-2.0
"""Small dumps made by hand, each about one theme: a process or two, with few images and few pages.

They are sound: each theme is accepted on a host that has what it names, but for `refused`. Together they have a file of
each kind that ckptree reads. Their programs and folders are of the host, so that a check finds them there.
"""

import os
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from exporters.criu import imagefile
from exporters.criu.criuschema import DEAD, STOPPED
from exporters.criu.memorymessages import (
    ANON_PRIVATE,
    ANON_SHARED,
    AREA_AIORING,
    AREA_GUARD,
    AREA_MEMFD,
    AREA_REGULAR,
    AREA_SYSVIPC,
    AREA_VDSO,
    AREA_VVAR,
    FILE_SHARED,
    IN_PARENT,
    PRESENT,
)
from tests.support import smallsockets
from tests.support.dumpparts import (
    FREE_ADDRESS,
    MAP_SHARED,
    NAMESPACE_IDS,
    PAGE,
    ROOT,
    SHARED_IDS,
    TIMES,
    DumpedProcess,
    SmallDump,
    a_core,
    alone,
    built,
    dump,
    image,
    new,
    program,
    regular,
)
from tests.support.filledfiles import OWNER, file_entry


def _plain() -> SmallDump:
    """Return a process with a thread, timers, pending signals, filters, a limit and a group."""
    made = dump(
        *alone([regular(10, "/dev/null", flags=1), regular(11, program(), pos=7, build_id=built())], threads=[11])
    )
    core: Any = new("core_entry")
    core.CopyFrom(a_core(whole=True))
    timer = {"it_id": 1, "clock_id": 1, "si_signo": 14, "it_sigev_notify": 4, "sival_ptr": 1, "overrun": 0, **TIMES}
    core.tc.timers.MergeFrom(
        new(
            "task_timers_entry",
            **{name: {"isec": 1, "iusec": 0, "vsec": 1, "vusec": 9} for name in ("real", "virt", "prof")},
            posix=[timer | {"notify_thread_id": 11}],
        )
    )
    signal = new("siginfo_entry", siginfo=(15).to_bytes(4, "little").ljust(128, b"\0"))
    core.tc.signals_s.signals.append(signal)
    core.thread_core.signals_p.signals.append(signal)
    core.thread_core.seccomp_mode, core.thread_core.seccomp_filter = 2, 1
    core.tc.task_state = STOPPED
    core.tc.membarrier_registration_mask = 4
    filters = [{"filter": bytes(8)}, {"filter": bytes(16), "prev": 0, "flags": 2}]
    locks = [new("file_lock_entry", flag=kind, type=1, pid=ROOT, fd=1, start=0, len=9) for kind in (1, 2, 4, 8)]
    return made._replace(
        files=made.files
        | {
            "core-10.img": image("core", core),
            "seccomp.img": image("seccomp", new("seccomp_entry", seccomp_filters=filters)),
            "filelocks.img": image("filelocks", *locks),
            "timens-1.img": image(
                "timens",
                new("timens_entry", **{name: {"tv_sec": 1, "tv_nsec": 5} for name in ("monotonic", "boottime")}),
            ),
        }
    )


def _pipes() -> SmallDump:
    """Return a pipe and a FIFO with data, and an eventfd that an epoll file waits for."""
    wait = {"id": 0, "tfd": 4, "events": 1, "data": 4}
    files = [
        file_entry(10, 2, pipe_id=70, flags=0),
        file_entry(11, 2, pipe_id=70, flags=1),
        file_entry(12, 3, pipe_id=71, regf_id=19),
        file_entry(13, 3, pipe_id=71, regf_id=19),
        file_entry(14, 6, counter=7),
        file_entry(15, 7, tfd=[wait]),
    ]
    fifo = file_entry(19, 1, name=b"/run/ckptree no such fifo", pos=0, flags=2)
    made, processes = alone(files)
    pipe, queue = (new("pipe_data_entry", pipe_id=number, bytes=5, size=PAGE) for number in (70, 71))
    return dump(
        [*made, fifo],
        processes,
        pipes_data=image("pipes-data", pipe, payloads=[b"whole"]),
        fifo_data=image("fifo-data", queue, payloads=[b"whole"]),
    )


def _waiting() -> SmallDump:
    """Return the files that wait for a signal, a time, a change of a folder, the end of a process."""
    root = os.stat("/")
    watch = {"id": 0, "i_ino": root.st_ino, "mask": 0x100, "ignored_mask": 0, "s_dev": root.st_dev, "wd": 1}
    handle = {"bytes": 8, "type": 1, "handle": [2, 0]}
    watches = [watch | {"f_handle": handle | {"path": b"/"}}, watch | {"f_handle": handle | {"path": b"/"}, "wd": 2}]
    files = [
        file_entry(16, 9, sigmask=512),
        file_entry(17, 17, clockid=1, ticks=2, settime_flags=0, **TIMES),
        file_entry(18, 8, wd=watches),
        file_entry(20, 20, ino=3, nspid=ROOT),
        file_entry(21, 14, ns_id=1, ns_cflag=0x4000000),
    ]
    return dump(*alone(files))


def _memory() -> SmallDump:
    """Return two processes of one program, with a zombie: shared memory, and pages shared since a fork."""
    pages = FREE_ADDRESS + 8 * PAGE
    areas = [
        _area(0, 2, shmid=77, flags=MAP_SHARED, status=AREA_REGULAR | ANON_SHARED),
        _area(3, 4, shmid=12, flags=1, fdflags=2, status=AREA_REGULAR | FILE_SHARED | AREA_MEMFD),
        _area(8, 11, status=AREA_REGULAR | ANON_PRIVATE),
    ]
    memfd = file_entry(12, 18, pos=0, inode_id=9)
    have = [(12, 18)]
    processes = [
        DumpedProcess(ROOT, 0, have, areas, [(pages, 2, PRESENT)]),
        DumpedProcess(12, ROOT, have, areas, [(pages + PAGE, 2, PRESENT)]),
    ]
    about = {"name": b"mem", "uid": 0, "gid": 0, "size": PAGE, "shmid": 78, "seals": 1, "inode_id": 9, "mode": 33279}
    made = dump(
        [memfd],
        processes,
        memfd=image("memfd", new("memfd_inode_entry", **about)),
        pagemap_shmem_77=_page_map(20),
        pagemap_shmem_78=_page_map(21),
    )
    tree = [
        new("pstree_entry", pid=pid, ppid=ppid, pgid=ROOT, sid=ROOT, threads=[pid])
        for pid, ppid in ((ROOT, 0), (12, ROOT), (13, ROOT))
    ]
    core: Any = new("core_entry", mtype=1)
    core.tc.MergeFrom(a_core().tc)
    for field in ("timers", "rlimits", "sigactions", "signals_s"):
        core.tc.ClearField(field)
    core.tc.task_state, core.tc.exit_code = DEAD, 768
    more = {"pstree.img": image("pstree", *tree), "core-13.img": image("core", core)}
    return made._replace(files=made.files | {f"pages-{number}.img": bytes(PAGE) for number in (20, 21)} | more)


def _segments() -> SmallDump:
    """Return the objects of System V of a process that attaches a segment, a ring of requests, and a guard region."""
    areas = [
        _area(5, 6, shmid=4, flags=MAP_SHARED, status=AREA_REGULAR | ANON_SHARED | AREA_SYSVIPC),
        _area(12, 13, status=ANON_PRIVATE | AREA_AIORING, flags=1),
        _area(14, 17, status=AREA_REGULAR | ANON_PRIVATE),
        _area(14, 15, status=AREA_REGULAR | ANON_PRIVATE | AREA_GUARD),
    ]
    ring = {"id": FREE_ADDRESS + 12 * PAGE, "nr_req": 8, "ring_len": PAGE}
    desc = {"key": 3, "uid": 0, "gid": 0, "cuid": 0, "cgid": 0, "mode": 0o600, "id": 4}
    queue = [new("ipc_msg_entry", desc=desc, qbytes=16384, qnum=1), new("ipc_msg", mtype=3, msize=7)]
    numbers = ("msg_ctlmax", "msg_ctlmnb", "msg_ctlmni", "auto_msgmni", "shm_ctlmni", "shm_ctlmax", "shm_ctlall")
    others = ("shm_rmid_forced", "mq_queues_max", "mq_msg_max", "mq_msgsize_max")
    variables = dict.fromkeys((*numbers, *others), 4096)
    made = dump(
        *alone([], areas=areas, pages=[(FREE_ADDRESS + 12 * PAGE, 1, PRESENT)], rings=[ring]),
        pagemap_shmem_4=_page_map(22),
        ipcns_shm_5=image("ipcns-shm", new("ipc_shm_entry", desc=desc, size=PAGE, in_pagemaps=True)),
        ipcns_msg_5=image("ipcns-msg", *queue, payloads=[b"", b"message\0"]),
        ipcns_sem_5=image("ipcns-sem", new("ipc_sem_entry", desc=desc, nsems=3), payloads=[bytes(8)]),
        ipcns_var_5=image("ipcns-var", new("ipc_var_entry", **variables, sem_ctls=[1, 2, 3, 4])),
    )
    own = {**NAMESPACE_IDS, "ipc_ns_id": 5, "pid_ns_id": 1}
    ids = image("ids", new("task_kobj_ids_entry", **dict.fromkeys(SHARED_IDS, 2), **own))
    return made._replace(files=made.files | {"pages-22.img": bytes(PAGE), f"ids-{ROOT}.img": ids})


def _area(begin: int, end: int, **fields: int) -> dict[str, int]:
    """Return the fields of an area by its first page and the one behind it."""
    return {"start": FREE_ADDRESS + begin * PAGE, "end": FREE_ADDRESS + end * PAGE, **fields}


def _page_map(pages: int) -> bytes:
    """Return the page map of an object of one page, which is in the file of pages of a number."""
    row = new("pagemap_entry", vaddr=0, compat_nr_pages=1, flags=PRESENT)
    return image("pagemap-shmem", new("pagemap_head", pages_id=pages), row)


def _refused() -> SmallDump:
    """Return a process with files of the kinds that are refused, which are read all the same."""
    mark = {"id": 0, "type": 1, "mflags": 0, "mask": 1, "ignored_mask": 0, "s_dev": 1}
    ring = dict.fromkeys(
        ("block_size", "block_nr", "frame_size", "frame_nr", "retire_tmo", "sizeof_priv", "features"), 1
    )
    packet = dict.fromkeys(("aux_data", "orig_dev", "vnet_hdr", "loss"), False)
    files = [
        file_entry(
            10,
            10,
            type=3,
            protocol=1,
            ifindex=1,
            version=1,
            reserve=0,
            timestamp=0,
            copy_thresh=0,
            **packet,
            rx_ring=ring,
        ),
        file_entry(11, 12, faflags=0, evflags=0, mark=[mark]),
        file_entry(12, 15, netdev=b"tap0"),
        file_entry(13, 16),
        file_entry(
            14, 19, pos=0, map_type=1, key_size=4, value_size=4, map_id=1, max_entries=1, map_flags=0, memlock=0
        ),
    ]
    files[-1].bpf.frozen, files[-1].bpf.map_name, files[-1].bpf.ifindex = False, b"map", 0
    made, processes = alone(files)
    bpf = new("bpfmap_data_entry", map_id=1, keys_bytes=4, values_bytes=4, count=1)
    return dump(
        made,
        processes,
        bpfmap_data=image("bpfmap-data", bpf, payloads=[bytes(8)]),
        ext_files=image("ext-files", new("ext_file_entry", id=13, fown=OWNER)),
        cgroup=image("cgroup", new("cgroup_entry", sets=[{"id": 1, "ctls": [{"name": b"", "path": b"/"}]}])),
        cpuinfo=image("cpuinfo", new("cpuinfo_entry")),
        apparmor=image("apparmor", new("apparmor_entry")),
        utsns_9=image("utsns", new("utsns_entry", nodename=b"a", domainname=b"b")),
        userns_9=image("userns", new("userns_entry", uid_map=[{"first": 0, "lower_first": 7, "count": 9}])),
        pidns_9=image("pidns", new("pidns_entry")),
    )


def _deleted() -> SmallDump:
    """Return deleted files: a ghost in chunks, a folder and a link, one with a second name, one of a dead process."""
    names = (
        b"/run/ckptree gone",
        b"/run/ckptree folder",
        b"/run/ckptree link",
        b"/run/ckptree second",
        b"/proc/77/maps",
    )
    files = [file_entry(10 + at, 1, name=name, pos=0, flags=2) for at, name in enumerate(names)]
    remaps = [
        new("remap_file_path_entry", orig_id=10 + at, remap_id=at + 1 if at != 3 else 15, remap_type=kind)
        for at, kind in enumerate((1, 1, 1, 0, 2))
    ]
    time = {"tv_sec": 5, "tv_usec": 6}
    ghost = {"uid": 5, "gid": 6, "atim": time, "mtim": time}
    sparse = [
        new("ghost_file_entry", **ghost, mode=0o100600, chunks=True, size=9000),
        new("ghost_chunk_entry", len=4, off=4096),
        new("ghost_chunk_entry", len=2, off=8192),
    ]
    made, processes = alone(files[:4])
    return dump(
        [*made, files[4], regular(15, program())],
        processes,
        remap_fpath=image("remap-fpath", *remaps[:4]),
        ghost_file_1=image("ghost-file", *sparse, payloads=[b"", b"some", b"hi"]),
        ghost_file_2=image("ghost-file", new("ghost_file_entry", **ghost, mode=0o40700)),
        ghost_file_3=image("ghost-file", new("ghost_file_entry", **ghost, mode=0o120777, symlnk_target=b"/usr")),
    )


def _earlier() -> SmallDump:
    """Return a process whose pages are partly in the dump before, with the kernel's own areas of another kernel."""
    code = _vdso()
    size = PAGE
    vdso = FREE_ADDRESS + 32 * PAGE
    areas = [
        {"start": FREE_ADDRESS, "end": FREE_ADDRESS + 3 * PAGE, "status": AREA_REGULAR | ANON_PRIVATE},
        {"start": vdso - 4 * PAGE, "end": vdso, "prot": 1, "status": 1 | ANON_PRIVATE | AREA_VVAR},
        {"start": vdso, "end": vdso + size, "prot": 5, "status": 1 | ANON_PRIVATE | AREA_VDSO},
    ]
    pages = [(FREE_ADDRESS, 1, IN_PARENT), (FREE_ADDRESS + PAGE, 1, PRESENT), (vdso, size // PAGE, PRESENT)]
    made = dump(*alone([regular(10, "/dev/null", flags=2)], areas=areas, pages=pages))
    whole = made.files["pages-2.img"]
    before = dump(*alone([], areas=areas[:1], pages=[(FREE_ADDRESS, 3, PRESENT)]))
    name = "pagemap-10.img"
    made.files["pages-2.img"] = whole[: 3 * PAGE] + code.ljust(size, b"\0") + bytes(PAGE)
    return made._replace(before={name: before.files[name], "pages-2.img": before.files["pages-2.img"]})


def _vdso() -> bytes:
    """Return a small vdso, of no kernel, with one function."""
    names = b"\0__vdso_time\0".ljust(16, b"\0")
    dynamic, symbols, text, code = 176, 240, 288, 304
    head = struct.pack("<4s4B8xHHIQQQIHHHHHH", b"\x7fELF", 2, 1, 1, 0, 3, 62, 1, 0, 64, 0, 0, 64, 56, 2, 0, 0, 0)
    load = struct.pack("<IIQQQQQQ", 1, 5, 0, 0, 0, PAGE, PAGE, PAGE)
    tags = struct.pack("<8Q", 5, text, 6, symbols, 11, 24, 0, 0)
    place = struct.pack("<IIQQQQQQ", 2, 4, dynamic, dynamic, dynamic, len(tags), len(tags), 8)
    symbol = bytes(24) + struct.pack("<IBBHQQ", 1, 2, 0, 1, code, 24)
    return head + load + place + tags + symbol + names + b"\x90" * 23 + b"\xc3"


def _others() -> SmallDump:
    """Return a process with an image of each kind that no other dump has, whose messages have the fields that they need."""
    made = dump(*alone([]))
    for stem, kind in imagefile.KINDS.items():
        if not any(imagefile.kind_of(name) is kind for name in _names()):
            name, _ = next(kind.order())
            entry = new(name)
            _complete(entry)
            made.files[f"{stem}-9.img"] = image(stem, entry, payloads=[bytes(kind.payload(entry) or 0)])
    return made


def _names() -> frozenset[str]:
    """Return the names of the images of all dumps but the last one."""
    return frozenset(name for make in THEMES.values() if make is not _others for name in make().files)


def _complete(message: Any) -> None:
    """Set each field of a message that must be there."""
    for field in message.DESCRIPTOR.fields:
        if field.is_required and field.message_type is not None:
            _complete(getattr(message, field.name))
        elif field.is_required:
            setattr(message, field.name, b"x" if field.type == field.TYPE_BYTES else 1)


THEMES: Final[Mapping[str, Callable[[], SmallDump]]] = {
    "plain": _plain,
    "pipes": _pipes,
    "waiting": _waiting,
    **smallsockets.THEMES,
    "refused": _refused,
    "memory": _memory,
    "segments": _segments,
    "deleted": _deleted,
    "earlier": _earlier,
    "others": _others,
}
"""The maker of each dump, by its theme."""


def put(theme: str, folder: Path) -> Path:
    """Write the dump of a theme into a new folder, and return that."""
    made = THEMES[theme]()
    for place, files in ((folder, made.files), (folder / "parent", made.before)):
        place.mkdir(parents=True)
        for name, data in files.items():
            (place / name).write_bytes(data)
    return folder
