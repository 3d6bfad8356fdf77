# SPDX-License-Identifier: Apache-2.0
"""Folders of files in a store: pieces under their hashes, and a list."""

import json
import os
import stat
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from agent.errors import CkptreeError, FormatError, UsageError
from agent.fleet.folderstore import FolderStore
from agent.fleet.stores import address, errand, folders, plainfolder
from agent.fleet.stores.folders import get_folder, get_named, object_name, put_folder, put_named
from agent.fleet.stores.opening import opened
from agent.fleet.stores.store import MissingError, StoreError, sha256
from tests.support import stores

FILES = {"pstree.img": b"1" * 10, "pages-1.img": bytes(range(256)) * 9, "inventory.img": b"", "tree.ckpt": b"2" * 33}


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut into pieces of a kilobyte: three for the pages."""
    monkeypatch.setattr(folders, "PIECE_BYTES", 1024)


@pytest.fixture
def dump(tmp_path: Path) -> Path:
    """Return a folder of files."""
    made = tmp_path / "dump"
    made.mkdir()
    for name, data in FILES.items():
        (made / name).write_bytes(data)
    return made


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    """Return a store."""
    made = tmp_path / "store"
    made.mkdir()
    return FolderStore(made)


def content(folder: Path) -> dict[str, bytes]:
    """Return the files of a folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_folder_comes_back_for_its_owner_alone(store: FolderStore, dump: Path, tmp_path: Path) -> None:
    """Empty files are files, too."""
    digits = put_folder(store, dump)
    get_folder(store, digits, tmp_path / "back")
    assert content(tmp_path / "back") == FILES
    assert stat.S_IMODE((tmp_path / "back").stat().st_mode) == 0o700
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in (tmp_path / "back").iterdir())


def test_files_have_the_times_that_they_had(store: FolderStore, dump: Path, tmp_path: Path) -> None:
    """CRIU's images do not say otherwise when their dump was. A list without times is read, too."""
    os.utime(dump / "pstree.img", ns=(10**18, 10**18 + 1))
    digits = put_folder(store, dump)
    get_folder(store, digits, tmp_path / "back")
    assert (tmp_path / "back" / "pstree.img").stat().st_mtime_ns == 10**18 + 1
    document = json.loads(store.get(object_name(digits)))
    for each in document["files"].values():
        del each["mtime_ns"]
    store.put("named", json.dumps(document).encode())
    get_named(store, "named", tmp_path / "again")
    assert content(tmp_path / "again") == FILES


@pytest.mark.slow
@pytest.mark.parametrize("scheme", stores.SCHEMES)
def test_a_folder_comes_back_from_each_kind_of_store(
    scheme: str, dump: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The names of its objects are names in all of them."""
    with stores.running(tmp_path / "servers") as there:
        for name, value in there.environment.items():
            monkeypatch.setenv(name, value)
        with opened(address.parse(there.address(scheme, "x"))) as found:
            digits = put_folder(found, dump, "dump-")
            get_folder(found, digits, tmp_path / "back", "dump-")
            put_named(found, "named", dump)
            get_named(found, "named", tmp_path / "again")
    assert content(tmp_path / "back") == content(tmp_path / "again") == FILES


@pytest.mark.slow
@pytest.mark.parametrize("scheme", stores.SCHEMES)
def test_a_folder_that_is_named_by_its_hash_has_an_address(
    scheme: str, dump: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a process of its own. It is verified, and read, as any other."""
    with stores.running(tmp_path / "servers") as there:
        for name, value in there.environment.items():
            monkeypatch.setenv(name, value)
        place = there.address(scheme, "x").removesuffix(":x").removesuffix("/x")
        place += "" if scheme == "oci" else "/of/a"
        digits = errand.store_hashed_folder(folders.list_address(place, "0" * 64), None, dump)
        where = folders.list_address(place, digits)
        assert errand.verify_folder(where, None) == digits
        errand.fetch_folder(where, None, tmp_path / "back")
    assert content(tmp_path / "back") == FILES


@pytest.mark.parametrize("place", ["nats://", "s3://UPPER", "oci://registry", "/srv/dumps", "", "nats://a/../b"])
def test_a_place_that_can_have_no_folder_is_refused(place: str) -> None:
    """The message has the form of a right one."""
    with pytest.raises(UsageError, match="expected"):
        folders.list_address(place, "0" * 64)


def test_equal_pieces_are_stored_once(store: FolderStore, dump: Path, tmp_path: Path) -> None:
    """A second dump that differs in one file adds that file and a list."""
    first = put_folder(store, dump)
    before = set(os.listdir(tmp_path / "store"))
    assert put_folder(store, dump) == first
    assert set(os.listdir(tmp_path / "store")) == before
    (dump / "pstree.img").write_bytes(b"3")
    assert put_folder(store, dump) != first
    assert len(set(os.listdir(tmp_path / "store")) - before) == 2


def _spoil(store: FolderStore, name: str, data: bytes | None) -> None:
    path = Path(store.address, name)
    if data is None:
        path.unlink()
    else:
        path.write_bytes(data)


@pytest.mark.parametrize(
    ("data", "error"),
    [(b"x" * 1024, FormatError), (b"x", FormatError), (b"x" * 2000, FormatError), (None, MissingError)],
)
def test_a_piece_that_was_changed_leaves_no_folder(
    store: FolderStore, dump: Path, tmp_path: Path, data: bytes | None, error: type[Exception]
) -> None:
    """Neither does one that is missing, nor a temporary folder."""
    digits = put_folder(store, dump)
    _spoil(store, object_name(sha256(FILES["pages-1.img"][:1024])), data)
    with pytest.raises(error):
        get_folder(store, digits, tmp_path / "back")
    assert sorted(os.listdir(tmp_path)) == ["dump", "store"]


def test_a_list_that_was_changed_is_refused(store: FolderStore, dump: Path, tmp_path: Path) -> None:
    """Its own hash is the name of the folder."""
    digits = put_folder(store, dump)
    _spoil(store, object_name(digits), b"{}")
    with pytest.raises(FormatError, match="has been changed"):
        get_folder(store, digits, tmp_path / "back")


def _with_name(name: str) -> Callable[[dict[str, object]], object]:
    return lambda files: files.__setitem__(name, files.pop("tree.ckpt"))


@pytest.mark.parametrize(
    "change",
    [
        *map(_with_name, ("../evil", "", ".", "..", "a/b", "a\0b")),
        lambda files: files["tree.ckpt"].__setitem__("size", 34),
        lambda files: files["tree.ckpt"].__setitem__("size", -1),
        lambda files: files["tree.ckpt"].__setitem__("size", 1 << 50),
        lambda files: files["tree.ckpt"].__setitem__("size", "x"),
        lambda files: files["tree.ckpt"].__setitem__("pieces", ["../../etc/passwd"]),
        lambda files: files["tree.ckpt"].__setitem__("pieces", [7]),
        lambda files: files["tree.ckpt"].__setitem__("mtime_ns", "x"),
        lambda files: files["tree.ckpt"].__setitem__("mtime_ns", -1),
        lambda files: files["tree.ckpt"].__setitem__("mtime_ns", 1 << 63),
        lambda files: files["tree.ckpt"]["pieces"].append("0" * 64),
        lambda files: files.__setitem__("tree.ckpt", None),
    ],
)
def test_a_list_that_makes_no_sense_is_refused(
    store: FolderStore, dump: Path, tmp_path: Path, change: Callable[[object], object]
) -> None:
    """Nothing is written outside of the new folder, and none is left."""
    document = json.loads(store.get(object_name(put_folder(store, dump))))
    change(document["files"])
    data = json.dumps(document).encode()
    store.put(object_name(sha256(data)), data)
    with pytest.raises(FormatError):
        get_folder(store, sha256(data), tmp_path / "back")
    assert sorted(os.listdir(tmp_path)) == ["dump", "store"]


def test_a_folder_above_the_bound_is_not_read(store: FolderStore, dump: Path, tmp_path: Path) -> None:
    """The list says how large it is, and each piece is checked against it."""
    digits = put_folder(store, dump)
    with pytest.raises(FormatError, match="has more than 2000 bytes"):
        get_folder(store, digits, tmp_path / "back", most=2000)


def test_a_folder_that_the_disk_has_no_room_for_is_not_begun(
    store: FolderStore, dump: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some room stays free for others."""
    digits = put_folder(store, dump)
    blocks = os.statvfs(tmp_path)
    free = (plainfolder._SPARE_BYTES + sum(map(len, FILES.values()))) // blocks.f_frsize
    for available in (free, free + 1):
        monkeypatch.setattr(
            os, "statvfs", lambda _, found=available: SimpleNamespace(f_bavail=found, f_frsize=blocks.f_frsize)
        )
        if available == free:
            with pytest.raises(CkptreeError, match=rf"cannot write into {tmp_path}: .* must stay so"):
                get_folder(store, digits, tmp_path / "back")
            assert sorted(os.listdir(tmp_path)) == ["dump", "store"]
        else:
            get_folder(store, digits, tmp_path / "back")


def test_files_are_left_out_by_the_beginning_of_their_names(store: FolderStore, dump: Path, tmp_path: Path) -> None:
    """Their pieces are not asked for; the hash is that of the whole list."""
    put_named(store, "named", dump)
    _spoil(store, object_name(sha256(FILES["pages-1.img"][:1024])), None)
    come: list[tuple[int, int]] = []
    digits = get_named(
        store, "named", tmp_path / "back", without="pages-", report=lambda size, of: come.append((size, of))
    )
    assert content(tmp_path / "back") == {name: data for name, data in FILES.items() if name != "pages-1.img"}
    assert digits == sha256(store.get("named"))
    assert come[-1] == (43, 43)


def _note(told: list[tuple[int, int]], come: int, of: int) -> None:
    told.append((come, of))


def test_progress_is_that_of_all_bytes(store: FolderStore, dump: Path) -> None:
    """Bytes of pieces that are there already count, too."""
    size = sum(map(len, FILES.values()))
    for name in ("named", "again"):
        gone: list[tuple[int, int]] = []
        put_named(store, name, dump, partial(_note, gone))
        assert gone[-1] == (size, size)
        assert [come for come, _ in gone] == sorted({come for come, _ in gone})


def test_a_folder_is_verified_without_a_copy(store: FolderStore, dump: Path, tmp_path: Path) -> None:
    """Every piece is read."""
    put_named(store, "named", dump)
    before = sorted(os.listdir(tmp_path))
    assert folders.verify(store, "named") == sha256(store.get("named"))
    assert sorted(os.listdir(tmp_path)) == before
    _spoil(store, object_name(sha256(FILES["pages-1.img"][:1024])), b"x" * 1024)
    with pytest.raises(FormatError, match="has been changed"):
        folders.verify(store, "named")


def test_what_is_no_file_is_refused_by_name(store: FolderStore, dump: Path, tmp_path: Path) -> None:
    """The link of an incremental dump to its parent, folders and pipes."""
    for make, word in (
        (lambda path: path.symlink_to(dump), "link"),
        (lambda path: path.mkdir(), "no file"),
        (os.mkfifo, "no file"),
    ):
        make(dump / "parent")
        with pytest.raises(CkptreeError, match=f"cannot copy {dump}/parent: .*{word}"):
            put_folder(store, dump)
        (dump / "parent").rename(tmp_path / f"seen {len(os.listdir(tmp_path))}")


def test_a_copy_on_this_host_is_whole_or_not_there(dump: Path, tmp_path: Path) -> None:
    """It has the times of the files, and is for its owner alone; what breaks off leaves nothing."""
    os.utime(dump / "pstree.img", ns=(10**18, 10**18))
    plainfolder.copy(dump, tmp_path / "back")
    assert content(tmp_path / "back") == FILES
    assert (tmp_path / "back/pstree.img").stat().st_mtime_ns == 10**18
    assert stat.S_IMODE((tmp_path / "back").stat().st_mode) == 0o700
    (dump / "zz").symlink_to(dump)
    with pytest.raises(CkptreeError, match=f"cannot copy {dump}/zz: a link"):
        plainfolder.copy(dump, tmp_path / "more")
    (dump / "zz").unlink()
    with pytest.raises(CkptreeError, match=f"cannot write {tmp_path}/back: Directory not empty"):
        plainfolder.copy(dump, tmp_path / "back")
    assert sorted(os.listdir(tmp_path)) == ["back", "dump"]


def test_a_folder_that_has_files_is_not_replaced(store: FolderStore, dump: Path, tmp_path: Path) -> None:
    """An empty one is."""
    digits = put_folder(store, dump)
    (tmp_path / "back").mkdir()
    get_folder(store, digits, tmp_path / "back")
    with pytest.raises(CkptreeError, match="cannot write"):
        get_folder(store, digits, tmp_path / "back")
    assert content(tmp_path / "back") == FILES


def test_a_store_that_is_full_half_way_has_no_folder(
    store: FolderStore, dump: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another attempt puts what is missing."""
    put, left = store.put, [2]

    def full(name: str, data: bytes) -> None:
        if not left[0]:
            raise StoreError("full")
        left[0] -= 1
        put(name, data)

    monkeypatch.setattr(store, "put", full)
    with pytest.raises(StoreError, match="full"):
        put_folder(store, dump)
    left[0] = 100
    get_folder(store, put_folder(store, dump), tmp_path / "back")
    assert content(tmp_path / "back") == FILES
    assert left[0] == 100 - 3  # of the five objects two were there
