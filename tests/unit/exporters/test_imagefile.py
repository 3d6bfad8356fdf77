# SPDX-License-Identifier: Apache-2.0
"""CRIU's image files: every entry of a real dump is read, and no damaged file does harm."""

import io
import os
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.errors import CkptreeError, FormatError
from exporters.criu import bounds, criuschema, filemessages, imagefile, imagefolder, messagelist
from tests.support import criuimages
from tests.support.examples import examples, patient

CONTAINER = criuimages.dump("container")
READABLE = [name for name in CONTAINER.names() if imagefile.kind_of(name)]


def entries(name: str, data: bytes) -> list[imagefile.ImageEntry]:
    """Return the entries of a file."""
    return list(imagefile.read(io.BytesIO(data), name))


def one(name: str) -> Any:
    """Return the message of a file of the container that has one."""
    return imagefolder.one(CONTAINER, name)


def made(message: str, **fields: Any) -> Any:
    """Return a message."""
    return criuschema.messages()[message](**fields)


def framed(stem: str, *parts: bytes) -> bytes:
    """Return a file of a kind with these entries, which need be no messages."""
    magics = [struct.pack("<I", magic) for magic in imagefile.KINDS[stem].magics]
    return b"".join([*magics, *(struct.pack("<I", len(part)) + part for part in parts)])


@pytest.mark.parametrize("folder", ["container", "subtree"])
def test_every_file_of_a_dump_is_read_but_pages(folder: str) -> None:
    """Each entry is read to its end, and each file to its own."""
    files = criuimages.dump(folder)
    for name in files.names():
        if name.startswith("pages-"):
            assert imagefile.kind_of(name) is None
            continue
        found = list(imagefolder.entries(files, name))
        assert found, name
        assert found[-1].payload + found[-1].payload_bytes == len(files.data[name])


def test_the_messages_of_a_dump_say_what_was_dumped() -> None:
    """Each is of another part of the schema."""
    core: Any = one("core-1.img")
    memory: Any = one("mm-1.img")
    files: list[Any] = [entry.message for entry in imagefolder.entries(CONTAINER, "files.img")]
    descriptors: list[Any] = [entry.message for entry in imagefolder.entries(CONTAINER, "fdinfo-2.img")]
    pages: list[Any] = [entry.message for entry in imagefolder.entries(CONTAINER, "pagemap-1.img")]
    kinds = {filemessages.FILE_TYPES[each.type] for each in files}

    assert (core.mtype, core.tc.comm, core.tc.child_subreaper) == (1, b"sample", True)
    assert core.thread_info.gpregs.ip
    assert core.thread_info.fpregs.mxcsr == 0x1F80
    assert [action.sigaction for action in core.tc.sigactions][10] == 1  # SIGUSR2 is ignored; SIGKILL has no action
    assert memory.vmas[0].start < memory.vmas[0].end
    assert {"reg", "pipe", "unixsk", "eventfd", "eventpoll", "signalfd", "timerfd", "inotify", "memfd"} <= kinds
    assert {each.id for each in descriptors} <= {each.id for each in files}
    assert sum(each.nr_pages or each.compat_nr_pages for each in pages[1:]) * 4096 == len(
        CONTAINER.data[f"pages-{pages[0].pages_id}.img"]
    )


def test_what_follows_a_message_is_found() -> None:
    """Data of pipes, sockets, queues and removed files lies between or behind the messages."""
    expected = {
        "pipes-data.img": b"in the pipe",
        "sk-queues.img": b"queued",
        "ghost-file-1.img": b"gone",
        "ipcns-msg-10.img": b"message\0",
        "ipcns-sem-10.img": bytes(8),
    }
    for name, payload in expected.items():
        entry = list(imagefolder.entries(CONTAINER, name))[-1]
        assert CONTAINER.data[name][entry.payload :][: entry.payload_bytes] == payload


def test_what_was_written_is_read() -> None:
    """An entry's offset is that of its length."""
    rows = [made("pstree_entry", pid=pid, ppid=pid - 1, pgid=1, sid=1, threads=[pid]) for pid in (1, 2)]
    data = imagefile.image("pstree", rows)
    found = entries("pstree.img", data)

    assert [entry.message for entry in found] == rows
    assert [entry.offset for entry in found] == [8, 8 + 4 + rows[0].ByteSize()]
    assert entries("pstree.img", imagefile.image("pstree", [])) == []


def test_a_field_of_a_newer_criu_is_passed_over_and_kept() -> None:
    """A new version of CRIU adds fields and never changes one."""
    row = made("pstree_entry", pid=1, ppid=0, pgid=1, sid=1).SerializeToString() + b"\xc0\x3e\x01"
    ((_, message, *_),) = entries("pstree.img", framed("pstree", row))

    assert message.SerializeToString() == row


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("core-5.img", "core"),
        ("pagemap-shmem-12.img", "pagemap-shmem"),
        ("ipcns-shm-9.img", "ipcns-shm"),
        ("ghost-file-1f.img", "ghost-file"),
        ("tty-info.img", "tty-info"),
        ("stats-dump", "stats"),
        ("stats-restore", "stats"),
        ("signal-p-4.img", "signal-p"),
    ],
)
def test_a_name_tells_the_kind(name: str, stem: str) -> None:
    """Names end with a number, decimal or hexadecimal, or with none."""
    kind = imagefile.kind_of(name)

    assert kind is not None
    assert kind.stem == stem


@pytest.mark.parametrize(
    "name", ["pages-1.img", "dump.log", "core-5", "core-5.img.tmp", "../core-5.img", "core-.img", ""]
)
def test_other_names_tell_none(name: str) -> None:
    """A file of such a name cannot be read."""
    assert imagefile.kind_of(name) is None
    with pytest.raises(FormatError, match="no kind of image file"):
        entries(name, b"")


def test_every_message_of_every_kind_is_in_the_schema() -> None:
    """A kind's order names each message that its files may have."""
    for kind in imagefile.KINDS.values():
        order = kind.order()
        name, _ = next(order)
        assert name in criuschema.MESSAGES
        named = {"qnum": 1} if name == "ipc_msg_entry" else {}
        assert order.send(made(name, **named))[0] in criuschema.MESSAGES


ROW = bytes.fromhex("0801100018012001")  # pid 1, ppid 0, pgid 1, sid 1


@pytest.mark.parametrize(
    ("data", "message", "offset"),
    [
        (b"", "ends within the magic number", 0),
        (b"\x19CVT0", "ends within the magic number", 4),
        (bytes(8), "the magic number is 0x00000000, and that of pstree is 0x54564319", 0),
        (framed("core"), "the magic number is 0x55053847", 4),
        (framed("pstree") + b"\x01", "the file ends where an entry's length", 8),
        (framed("pstree") + b"\x05\0\0\0abc", "an entry of 5 bytes, and the file has 3 more", 8),
        (framed("pstree", ROW) + b"\xff\xff\xff\xff", "an entry of 4294967295 bytes", 20),
        (framed("pstree", ROW, b"\x08"), "cannot be decoded", 20),
        (framed("pstree", ROW, ROW[:6]), "the entry lacks sid", 20),
        (framed("pstree", ROW + b"\x0c" + ROW), "cannot be decoded", 8),
        (framed("pstree", b""), "the entry lacks pid, ppid, pgid, sid", 8),
    ],
)
def test_a_damaged_file_is_refused_with_its_name_and_the_byte(data: bytes, message: str, offset: int) -> None:
    """The entries before the fault have been handed out by then."""
    with pytest.raises(FormatError, match=message) as raised:
        entries("pstree.img", data)

    assert raised.value.offset == offset
    assert raised.value.path.startswith("pstree.img")


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("pagemap-1.img", framed("pagemap"), "pagemap_head at byte 8: the file ends"),
        (
            "pipes-data.img",
            framed("pipes-data", b"\x08\x01\x10\x09") + b"8 bytes.",
            "followed by 9 bytes, and the file has 8",
        ),
        ("ghost-file-1.img", framed("ghost-file"), "ghost_file_entry at byte 8: the file ends"),
    ],
)
def test_a_file_that_ends_too_early_is_refused(name: str, data: bytes, message: str) -> None:
    """A head or data is missing."""
    with pytest.raises(FormatError, match=message):
        entries(name, data)


def test_a_queue_needs_all_its_messages() -> None:
    """Its entry tells their number."""
    whole = CONTAINER.data["ipcns-msg-10.img"]
    last = entries("ipcns-msg-10.img", whole)[-1]

    with pytest.raises(FormatError, match=r"ipc_msg at byte \d+: the file ends"):
        entries("ipcns-msg-10.img", whole[: last.offset])


def test_a_file_with_one_message_has_no_second() -> None:
    """Nor may it have none."""
    row = made("fs_entry", cwd_id=1, root_id=2).SerializeToString()

    assert imagefile.one(io.BytesIO(framed("fs", row)), "fs-1.img").SerializeToString() == row
    with pytest.raises(FormatError, match="second entry"):
        imagefile.one(io.BytesIO(framed("fs", row, row)), "fs-1.img")
    with pytest.raises(FormatError, match="no entry"):
        imagefile.one(io.BytesIO(framed("fs")), "fs-1.img")


def test_a_large_message_is_decoded_where_it_is_not_crowded() -> None:
    """100,000 areas of memory are as many as some databases have."""
    area = made("vma_entry", start=2**47, end=2**47 + 1, pgoff=0, shmid=0, prot=3, flags=2, status=1, fd=-1)
    memory = made(
        "mm_entry", **dict.fromkeys([f.name for f in criuschema.fields("mm_entry") if f.label == "required"], 1)
    )
    memory.vmas.extend([area] * 100_000)

    assert len(imagefile.one(io.BytesIO(imagefile.image("mm", [memory])), "mm-1.img").vmas) == 100_000  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x72\x00" * (1 << 19) + bytes(2), "more than 87381 messages within it"),
        (b"\x73" * (bounds.SMALL + 1), "wire type 3"),
        (b"\x80" * (bounds.SMALL + 1), "a number that does not end"),
        (b"\x0d" * (bounds.SMALL + 1), "ends behind its message"),
    ],
)
def test_a_large_message_that_would_take_much_memory_is_refused(data: bytes, message: str) -> None:
    """Empty messages take two bytes in a file and a hundred in memory."""
    with pytest.raises(FormatError, match=message):
        entries("mm-1.img", framed("mm", data))


def test_a_deep_message_is_refused() -> None:
    """Folders of control groups lie within each other."""
    deep = b"\x0a\x01a"
    for _ in range(200):
        deep = b"\x0a\x01a\x12" + _varint(len(deep)) + deep
    with pytest.raises(FormatError, match="cannot be decoded"):
        entries("cgroup.img", framed("cgroup", b"\x12" + _varint(len(deep)) + deep))
    with pytest.raises(bounds.BoundError, match="within each other"):
        bounds.check(b"\x12" + _varint(len(deep)) + deep + b"\x08\x01" * bounds.SMALL, "cgroup_entry")


def _varint(value: int) -> bytes:
    return bytes([value & 0x7F | 0x80, value >> 7]) if value > 0x7F else bytes([value])


@settings(patient, max_examples=examples(600))
@given(st.sampled_from(READABLE), st.data())
def test_no_mutation_of_a_file_does_harm(name: str, data: st.DataObject) -> None:
    """Only the project's own error comes out, and it names the file."""
    mutated = bytearray(CONTAINER.data[name])
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(mutated)))
        kind = data.draw(st.sampled_from(["flip", "cut", "insert", "drop", "length"]))
        if kind == "cut":
            del mutated[at:]
        elif kind == "insert":
            mutated[at:at] = data.draw(st.binary(max_size=9))
        elif kind == "drop":
            del mutated[at : at + data.draw(st.integers(1, 9))]
        elif kind == "length":
            mutated[at : at + 4] = struct.pack("<I", data.draw(st.integers(0, 2**32 - 1)))
        elif at < len(mutated):
            mutated[at] ^= 1 << data.draw(st.integers(0, 7))
    try:
        found = entries(name, bytes(mutated))
    except FormatError as error:
        assert error.path.startswith(name)  # noqa: PT017  # most mutations are refused, and some are not
    else:
        assert all(entry.payload + entry.payload_bytes <= len(mutated) for entry in found)


def test_a_folder_opens_regular_files_alone(tmp_path: Path) -> None:
    """A link may lead out of the folder, and a pipe may never be written to."""
    (tmp_path / "pstree.img").write_bytes(framed("pstree"))
    (tmp_path / "link.img").symlink_to("pstree.img")
    (tmp_path / "folder.img").mkdir()
    os.mkfifo(tmp_path / "pipe.img")
    folder = imagefolder.ImageFolder(tmp_path)

    assert list(imagefolder.entries(folder, "pstree.img")) == []
    assert folder.open("core-1.img") is None
    assert imagefolder.optional(folder, "core-1.img") is None
    with pytest.raises(FormatError, match="no such file"):
        imagefolder.one(folder, "core-1.img")
    for name in ("link.img", "folder.img", "pipe.img"):
        with pytest.raises(CkptreeError, match=f"cannot read .*/{name}: it is"):
            folder.open(name)
        with pytest.raises(CkptreeError, match=f"cannot read .*/{name}: it is"):
            folder.content(name, 8)
    assert folder.content("core-1.img", 8) is None
    assert [len(folder.content("pstree.img", most) or b"") for most in (4, 8, 100)] == [4, 8, 8]
    assert folder.names() == ["folder.img", "link.img", "pipe.img", "pstree.img"]
    with pytest.raises(CkptreeError, match="cannot read"):
        imagefolder.ImageFolder(tmp_path / "none").names()


def test_a_folder_knows_the_dump_before(tmp_path: Path) -> None:
    """CRIU's link to it is called parent."""
    (tmp_path / "first").mkdir()
    (tmp_path / "second").mkdir()
    (tmp_path / "second/parent").symlink_to("../first")
    second = imagefolder.ImageFolder(tmp_path / "second").parent()

    assert second is not None
    assert second.path.samefile(tmp_path / "first")
    assert second.parent() is None


def test_many_short_messages_are_decoded_as_each_would_be_by_itself() -> None:
    """All at once; one by one where an entry is wrong, so that the error names it."""
    entry = criuschema.messages()["pagemap_entry"]
    good = [entry(vaddr=page << 12, compat_nr_pages=1, nr_pages=page, flags=4) for page in range(50)]
    head = criuschema.messages()["pagemap_head"](pages_id=1).SerializeToString()
    data = framed("pagemap", head, *(each.SerializeToString() for each in good))
    found = list(imagefile.read(io.BytesIO(data), "pagemap-1.img"))
    listed = messagelist.decoded(data, "pagemap_entry", found[1].offset)

    assert [each.message for each in found[1:]] == good == [message for *_, message in listed]
    assert [(each.offset, each.payload) for each in found[1:]] == [place[:2] for place in listed]
    assert found[-1].payload == len(data)
    for wrong, text in ((b"\x08\x01", "lacks compat_nr_pages"), (b"\x08", "cannot be decoded"), (b"\x0c", "")):
        broken = data + len(wrong).to_bytes(4, "little") + wrong
        assert messagelist.decoded(broken, "pagemap_entry", found[1].offset) == []
        with pytest.raises(FormatError, match=f"pagemap_entry at byte {len(data)}: .*{text}"):
            list(imagefile.read(io.BytesIO(broken), "pagemap-1.img"))
