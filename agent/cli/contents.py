# SPDX-License-Identifier: Apache-2.0
"""The contents of a restart on the command line: where they are, and what of them cannot be restored."""

import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from agent.cli import storefiles
from agent.errors import RefusedError, UsageError
from agent.record import replace
from exporters import gcpause
from exporters.criu import PREFIX, TREE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from agent.cli.restartwish import RestartWish
    from agent.model import Snapshot
    from agent.restart.contents.contents import Contents
    from agent.restart.contents.external import External
    from agent.restart.contents.filling import Filling
    from agent.restart.planning.plan import Plan
    from agent.restart.rebuild.coordinator import Rebuild


def named_by(file: str, contents: str) -> str:
    """Return the name of the folder of the contents, ``criu:DIR`` or ``criu:ADDRESS``; empty without contents.

    Args:
        file: FILE of the command line: such a name means the tree in it, with its contents.
        contents: the option ``--contents``; empty where it is not given.
    """
    if contents and not contents.startswith(PREFIX):
        raise UsageError(f"--contents {contents}: name a folder of CRIU's images, as in criu:DIR")
    return contents or (file if file.startswith(PREFIX) else "")


def located(wish: "RestartWish") -> "RestartWish":
    """Return a wish whose tree is a file, and whose contents are a folder on this host, fetched from their stores.

    Raises:
        UsageError: the contents would be fetched for nothing: this process has no terminal to give.
        CkptreeError: as storefiles.fetch does.
    """
    file, contents = wish.file, wish.contents
    if isinstance(contents, storefiles.StoredFolder):
        with_terminal(wish.allowed)
    if file.startswith(PREFIX):
        storefiles.fetch(file, pages=contents == file)
        tree = storefiles.folder_of(file) / TREE
        file = str(tree) if tree.exists() else file
    return replace(wish, file=file, images=storefiles.folder_of(contents) if contents else None)


def tree_of(wish: "RestartWish", keys: "Sequence[Path]") -> "Snapshot":
    """Return the tree of a wish with contents, which are looked at once their signature has been checked.

    Args:
        wish: a restart; its folder is fetched.
        keys: each must have signed the set of the contents.

    Raises:
        FormatError: the folder has no contents.
        CkptreeError: there is no such folder; or as setcontents.check_wish raises it.
    """
    from agent.cli import criusource
    from agent.cli.fileverbs import load_file

    if keys or wish.of_set is not None:
        from agent.cli import setcontents

        setcontents.check_wish(wish, keys)
    images = criusource.folder(wish.contents)
    criusource.require_contents(images)
    snapshot = load_file(wish.file)
    criusource.warn_unfinished(images, snapshot)
    return snapshot


def with_terminal(allowed: "External") -> "External":
    """Return what a tree may have with the terminal of this process, if it may have that.

    Raises:
        UsageError: this process has none.
    """
    return allowed._replace(terminal=_own_terminal()) if allowed.terminal else allowed


def examined(folder: Path, snapshot: "Snapshot", plan: "Plan", allowed: "External | None" = None) -> "Contents":
    """Return the contents in a folder, with all that would be refused on this host.

    Args:
        folder: of CRIU's images.
        snapshot: the tree.
        plan: of the same tree.
        allowed: the objects outside of the tree that it may have; None: none.
    """
    from agent.restart.contents.contents import Contents
    from agent.restart.contents.external import NOTHING
    from agent.restart.contents.filling import host_specials
    from agent.restart.contents.hostfacts import this_host
    from agent.restart.contents.images import Images

    with gcpause.paused():
        contents = Contents(Images(folder), snapshot, plan, allowed or NOTHING)
        contents.check_host(this_host(pidns=plan.pidns))
        contents.check_vdso(host_specials())
    return contents


def whole(contents: "Contents") -> "Contents":
    """Return contents of which nothing is refused.

    Raises:
        RefusedError: a part of them cannot be restored; nothing has been made.
    """
    if contents.refusals:
        raise RefusedError("\n".join(str(refusal) for refusal in contents.refusals))
    return contents


def external(
    *,
    with_contents: bool,
    stays: bool = True,
    remedy: str = "add --contents",
    shell_job: bool,
    tcp_established: bool,
    tcp_close: bool,
) -> "External":
    """Return the objects outside of the tree that the options allow it. A terminal has a name that stands for that of a
    restart, which `with_terminal` looks for.

    Args:
        with_contents: the tree has contents.
        stays: this process stays with the tree.
        remedy: what to do where the tree has no contents.
        shell_job, tcp_established, tcp_close: the options.

    Raises:
        UsageError: a tree without contents has none, or they contradict each other.
    """
    options = ("--shell-job", shell_job), ("--tcp-established", tcp_established), ("--tcp-close", tcp_close)
    for option, given in options:
        if given and not with_contents:
            raise UsageError(f"{option} is about a tree with contents: {remedy}")
    if tcp_established and tcp_close:
        raise UsageError("--tcp-established makes connections again, and --tcp-close closes them: leave out one")
    if shell_job and not stays:
        raise UsageError("--shell-job gives the tree the terminal of restart, which must stay: leave out --detach")
    from agent.restart.contents.external import External

    return External(b"/dev/tty" if shell_job else b"", tcp_established, tcp_close)


def _own_terminal() -> bytes:
    """Return the path of the terminal of this process.

    Raises:
        UsageError: no standard stream is one.
    """
    for stream in range(3):
        if os.isatty(stream):
            return os.fsencode(os.ttyname(stream))
    raise UsageError("--shell-job gives the tree the terminal of restart, which has none: call it on a terminal")


@contextmanager
def filling(rebuild: "Rebuild", contents: "Contents | None") -> "Iterator[Filling | None]":
    """Yield the fill of a tree, which is ended with the context; None without contents."""
    if contents is None:
        yield None
        return
    from agent.restart.contents.filling import Filling

    fill = Filling(rebuild, contents)
    try:
        yield fill
    finally:
        fill.close()


def run_on(fill: "Filling", *files: str) -> None:
    """Let a tree with contents run; what was fetched of FILEs for it is not needed any more."""
    fill.run()
    for file in files:
        if isinstance(file, storefiles.StoredFolder):
            file.close()
