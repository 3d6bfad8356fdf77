# SPDX-License-Identifier: Apache-2.0
"""Values that no dump has, and that a made-up one may have: each is refused by name, and none reaches the host."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent.errors import FormatError
from agent.restart.contents import buildids
from agent.restart.contents.contents import Contents
from agent.restart.contents.eventfiles import ProcessFiles, Watches
from agent.restart.contents.external import External
from agent.restart.contents.fileowners import F_SETOWN_EX
from agent.restart.contents.hostfacts import HostFacts
from agent.restart.contents.images import Images
from agent.restart.contents.inetsockets import InetSockets
from agent.restart.contents.openfiles import Fifos
from agent.restart.contents.refusals import Refused
from agent.restart.contents.tcpconnections import BlockedConnections
from agent.restart.contents.unixsockets import UnixSockets
from agent.restart.planning.search import decide
from exporters.criu import criutree, imagefile, imagefolder
from exporters.criu.criuschema import messages
from exporters.criu.imagefolder import ImageFolder
from tests.support import smalldumps
from tests.support.criuimages import changed
from tests.support.filledfiles import OWNER, calls, file_entry, filled

HOST = HostFacts("x86_64", frozenset(("avx", "avx512f", "ospke")), initial=frozenset())
MOST = 2**32 - 1


def contents(folder: Path) -> Contents:
    """Return the contents of a folder, with all that is refused."""
    snapshot, plan = decide(criutree.load(ImageFolder(folder)), pidns=True, any_numbers=False)
    found = Contents(Images(folder), snapshot, plan, External(established=True))
    found.check_host(HOST)
    return found


def with_files(folder: Path, change: Callable[[Any], None]) -> None:
    """Change the open files of a dump."""
    read = [entry.message for entry in imagefolder.entries(ImageFolder(folder), "files.img")]
    for each in read:
        change(each)
    (folder / "files.img").write_bytes(imagefile.image("files", read))


@pytest.mark.parametrize("theme", smalldumps.THEMES)
def test_each_small_dump_is_sound(theme: str, tmp_path: Path) -> None:
    """Otherwise what is changed in it would not be what is refused."""
    refused = {each.rule for each in contents(smalldumps.put(theme, tmp_path / "dump")).refusals}

    assert refused == ({"kind"} if theme == "refused" else set())


def test_huge_pages_are_refused_where_no_memory_of_a_process_can_be_restored(tmp_path: Path) -> None:
    """A segment needs them, too, and then belongs to no process."""
    folder = smalldumps.put("segments", tmp_path / "dump")
    changed(folder, "mm-10.img", lambda mm: setattr(mm.vmas[0], "end", 0))
    name = "ipcns-shm-5.img"
    changed(folder, name, lambda segment: setattr(segment, "hugetlb_flag", 1 | 30 << 26))
    changed(folder, name, lambda segment: setattr(segment, "size", 1 << 45))

    assert {"area", "huge-pages"} <= {each.rule for each in contents(folder).refusals}


def test_a_fifo_whose_path_leads_nowhere_is_refused(tmp_path: Path) -> None:
    """A link that leads to nothing is there, and has no type."""
    (tmp_path / "link").symlink_to("nothing")
    path = file_entry(2, 1, name=bytes(tmp_path / "link"), pos=0)
    kind = Fifos({2: path}, {})
    with pytest.raises(Refused, match="is no FIFO any more"):
        kind.check(file_entry(3, 3, pipe_id=1, regf_id=2), set())


def test_a_socket_without_a_name_has_none_that_was_deleted() -> None:
    """The mark of a deleted name alone is no fault."""
    known = {"ino": 1, "type": 1, "state": 7, "uflags": 0, "backlog": 0, "peer": 0}
    entry = file_entry(1, 5, **known, name=b"", deleted=True)
    (holder,) = filled([entry], {5: UnixSockets({1: entry}, {})}, [((10,), [1])])

    assert not calls(holder, "unlinkat")


def test_a_listener_that_has_a_peer_is_refused(tmp_path: Path) -> None:
    """To make the connection would take the listener, which would take the connection."""
    folder = smalldumps.put("streams", tmp_path / "dump")

    def change(file: Any) -> None:
        if file.HasField("usk") and file.usk.ino == 51:
            file.usk.name, file.usk.peer = b"/run/ckptree listens\0", 52
        elif file.HasField("usk") and file.usk.ino == 52:
            file.usk.peer = 51

    with_files(folder, change)

    assert ("unix-socket", "state") in [(each.kind, each.rule) for each in contents(folder).refusals]


@pytest.mark.parametrize(
    ("fields", "rule"), [({"ifname": b"l\0o"}, "interface"), ({"proto": 1 << 31, "src_port": 9}, "type")]
)
def test_a_socket_of_no_interface_and_of_no_protocol_is_refused(fields: dict[str, Any], rule: str) -> None:
    """The host's functions take neither a name with a byte 0 nor a number of more than 31 bits."""
    known = {"family": 2, "type": 2, "proto": 17, "state": 7, "src_port": 0, "dst_port": 0, "backlog": 0, "ino": 1}
    entry = file_entry(1, 4, **known | fields, src_addr=[0], dst_addr=[0])
    with pytest.raises(Refused) as refused:
        InetSockets({}).check(entry, set())

    assert refused.value.refusal[2] == rule


def test_options_of_a_socket_may_have_all_bits() -> None:
    """The kernel then refuses what it does not take, by name."""
    known = {"family": 2, "type": 1, "proto": 6, "state": 7, "src_port": 0, "dst_port": 0, "backlog": 0, "ino": 1}
    options = {"tos": MOST, "ttl": MOST}
    entry = file_entry(1, 4, **known, src_addr=[0], dst_addr=[0], tcp_opts={"keepidle": MOST}, ip_opts=options)
    (holder,) = filled([entry], {4: InetSockets({})}, [((10,), [1])])

    assert calls(holder, "setsockopt")


def test_an_owner_of_a_file_may_have_any_type() -> None:
    """F_SETOWN_EX refuses one that is none."""
    entry = file_entry(1, 20, ino=9, nspid=10, fown=OWNER | {"pid": 10, "pid_type": MOST})
    (holder,) = filled([entry], {20: ProcessFiles([10])}, [((10,), [1])])

    assert F_SETOWN_EX in [each.arguments[1] for each in calls(holder, "fcntl")]


def test_a_handle_of_any_type_is_asked_for() -> None:
    """No file system of the device has it."""
    handle = {"bytes": 8, "type": MOST, "handle": [1, 2]}
    watch = {"id": 0, "i_ino": 2, "mask": 1, "ignored_mask": 0, "s_dev": os.stat("/").st_dev, "wd": 1}
    with pytest.raises(Refused, match="is another file, or gone"):
        Watches().check(file_entry(1, 8, wd=[watch | {"f_handle": handle}]), set())


def test_a_descriptor_of_a_process_outside_the_tree_is_refused(tmp_path: Path) -> None:
    """In the restored tree that number is nobody's, or another one's."""
    folder = smalldumps.put("waiting", tmp_path / "dump")
    with_files(folder, lambda file: setattr(file.pidfd, "nspid", 9) if file.HasField("pidfd") else None)

    assert [(each.kind, each.rule) for each in contents(folder).refusals] == [("pidfd", "process")]


def test_a_memfd_is_never_cut_when_it_is_opened_again(tmp_path: Path) -> None:
    """The flags of an open file tell how it was made, as O_TRUNC does."""
    folder = smalldumps.put("memory", tmp_path / "dump")
    with_files(folder, lambda file: setattr(file.memfd, "flags", 0o1600) if file.HasField("memfd") else None)
    found = contents(folder)
    assert found.refusals == []
    made = found.programs([(10,), (11,), (12,), (13,)], [], found_specials())
    for process, _ in made.memories():
        process.part()
    flags = []
    for process, _ in made.rest():
        flags += [each.arguments[2] for each in process.scripts[0].operations if each.name == "openat"]
        process.part()

    assert flags
    assert not any(each & 0o1300 for each in flags if isinstance(each, int))


def found_specials() -> Any:
    """Return the special areas of a helper."""
    from agent.restart.contents.addresses import special_areas

    lines = ("7ffd00030000-7ffd00034000 r--p 0 00:00 0 [vvar]", "7ffd00034000-7ffd00036000 r-xp 0 00:00 0 [vdso]")
    return special_areas("\n".join(lines), b"")


def test_a_mapped_file_that_is_no_regular_one_is_not_opened_before_the_tree_is_built(tmp_path: Path) -> None:
    """To open a FIFO waits for a writer, and to open a device may do something."""
    folder = smalldumps.put("memory", tmp_path / "dump")
    os.mkfifo(tmp_path / "fifo")
    found = contents(folder)
    found._images.files[1].reg.name = bytes(tmp_path / "fifo")

    assert found._early_path(1, os.O_RDONLY) is None
    assert buildids.build_id(tmp_path / "fifo") == b""


@pytest.mark.parametrize("run", [b"x; flush ruleset", b"a\0b", b"x y", b"{"])
def test_only_an_identity_of_a_run_of_criu_becomes_a_word_of_a_command(run: bytes) -> None:
    """The program nft takes its arguments as one text."""
    inventory: Any = messages()["inventory_entry"](img_version=2, network_lock_method=1, dump_criu_run_id=run)
    blocked = BlockedConnections(inventory)
    blocked.add(six=False, here=("127.0.0.1", 5), there=("127.0.0.1", 6))

    assert list(blocked._commands()) == []


def test_pages_beyond_all_addresses_are_refused_in_an_earlier_dump_too(tmp_path: Path) -> None:
    """A number of pages has 64 bits, and so the bytes have more."""
    folder = smalldumps.put("earlier", tmp_path / "dump")
    name = "pagemap-10.img"
    read: list[Any] = [entry.message for entry in imagefolder.entries(ImageFolder(folder / "parent"), name)]
    read[1].nr_pages = 1 << 60
    (folder / "parent" / name).write_bytes(imagefile.image("pagemap", read))
    with pytest.raises(FormatError, match="pages that lie beyond all addresses"):
        Images(folder).pages(name)


@pytest.mark.parametrize(
    "change",
    [
        lambda ghost: setattr(ghost, "size", 1 << 63),
        lambda ghost: setattr(ghost.atim, "tv_sec", 1 << 62),
        lambda ghost: setattr(ghost, "symlnk_target", b"a\0b"),
    ],
)
def test_a_deleted_file_with_values_that_no_file_has_is_refused(change: Callable[[Any], None], tmp_path: Path) -> None:
    """Otherwise the restart would find it out when the tree stands."""
    folder = smalldumps.put("deleted", tmp_path / "dump")
    changed(folder, "ghost-file-3.img", change)

    assert [each.rule for each in contents(folder).refusals] == ["deleted"]


def test_a_piece_of_a_deleted_file_behind_all_files_is_refused(tmp_path: Path) -> None:
    """An offset has 64 bits, and a file 63."""
    folder = smalldumps.put("deleted", tmp_path / "dump")
    name = "ghost-file-1.img"
    data = (folder / name).read_bytes()
    chunk: Any = messages()["ghost_chunk_entry"](len=0, off=1 << 63)
    encoded = chunk.SerializeToString()
    (folder / name).write_bytes(data + len(encoded).to_bytes(4, "little") + encoded)

    assert [each.rule for each in contents(folder).refusals] == ["deleted"]
