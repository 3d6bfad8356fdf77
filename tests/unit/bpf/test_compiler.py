# SPDX-License-Identifier: Apache-2.0
"""The store of compiled programs: the kernel loads its contents, so the owner of each file matters."""

import os
from pathlib import Path

import pytest

from agent.errors import HostError
from bpf import compiler, syscall
from bpf.layout import layout

BUNDLE = compiler.Bundle(
    {"on_fork": b"\x95" + bytes(7)}, {"ring": syscall.MapShape(27, 0, 0, 4096, 0)}, {"change_pid": 7}
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return the path of a bundle in the store, two folders below any that exists."""
    return tmp_path / "cache" / "ckptree" / "0123.bundle"


@pytest.mark.live  # as root
def test_what_was_stored_comes_back(path: Path) -> None:
    """A bundle has code, maps and ids."""
    compiler._store(path, BUNDLE)

    assert compiler._restore(path) == BUNDLE


@pytest.mark.live
def test_a_store_is_nobody_elses_to_write_and_everybodys_to_pass_through(path: Path) -> None:
    """The daemon's own user has its store below root's."""
    compiler._store(path, BUNDLE)

    assert path.parent.stat().st_mode & 0o777 == 0o755
    assert path.stat().st_mode & 0o777 == 0o644
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


@pytest.mark.live
@pytest.mark.parametrize("place", ["folder", "file"])
def test_what_others_can_write_is_not_loaded(path: Path, place: str) -> None:
    """Another user may have written such a file."""
    compiler._store(path, BUNDLE)
    (path if place == "file" else path.parent).chmod(0o777)

    assert compiler._restore(path) is None


@pytest.mark.live
@pytest.mark.parametrize("place", ["folder", "file"])
def test_what_the_loading_user_can_write_is_not_loaded_nor_stored(
    path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service's user has no capability when it is ready, and the next start has some; the former must not gain the
    latter.
    """
    compiler._store(path, BUNDLE)
    os.chown(path if place == "file" else path.parent, 12345, 12345)
    monkeypatch.setattr(os, "geteuid", lambda: 12345)

    assert compiler._restore(path) is None
    os.unlink(path)
    compiler._store(path, BUNDLE)
    assert list(path.parent.iterdir()) == []


@pytest.mark.live
def test_another_user_loads_what_root_has_stored(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The service does so."""
    compiler._store(path, BUNDLE)
    monkeypatch.setattr(os, "geteuid", lambda: 12345)

    assert compiler._restore(path) == BUNDLE


@pytest.mark.skipif(os.geteuid() != 0, reason="giving a file away takes root")
@pytest.mark.parametrize("place", ["folder", "file"])
def test_what_is_another_users_is_not_loaded(path: Path, place: str) -> None:
    """Root's daemon and the service's daemon do not trust each other's files."""
    compiler._store(path, BUNDLE)
    os.chown(path if place == "file" else path.parent, 65534, 65534)

    assert compiler._restore(path) is None


@pytest.mark.skipif(os.geteuid() != 0, reason="giving a folder away takes root")
def test_nothing_is_stored_in_another_users_folder(path: Path) -> None:
    """The owner could never read such a file, and it would block the name."""
    path.parent.mkdir(parents=True)
    os.chown(path.parent, 65534, 65534)
    compiler._store(path, BUNDLE)

    assert list(path.parent.iterdir()) == []


def test_a_place_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    """The next start compiles again."""
    (tmp_path / "file").write_bytes(b"")
    compiler._store(tmp_path / "file" / "0123.bundle", BUNDLE)

    assert compiler._restore(tmp_path / "file" / "0123.bundle") is None


@pytest.mark.live
def test_a_program_that_cannot_be_built_is_no_question_of_rights(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same holds for the caller's uid: the service has the rights and is not root."""
    btf = compiler.vmlinux()
    monkeypatch.setattr(os, "geteuid", lambda: 65534)
    with pytest.raises(HostError, match="bcc could not build the programs"):
        compiler._compile("no C at all", btf, layout(btf))


@pytest.mark.live
def test_who_may_not_create_maps_is_told_what_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """bcc fails without giving the reason."""

    def refused(*_: object) -> int:
        raise PermissionError(1, "Operation not permitted")

    btf = compiler.vmlinux()
    monkeypatch.setattr(syscall, "create_map", refused)
    with pytest.raises(HostError, match=r"not permitted: .* CAP_BPF"):
        compiler._compile("no C at all", btf, layout(btf))
