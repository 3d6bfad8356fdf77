# SPDX-License-Identifier: Apache-2.0
"""A folder of CRIU images in place of a file, as ``criu:DIR``.

The tree is that of tree.ckpt, where ``ckptree hook criu`` left one, for it has the births; else that of the images.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from agent.cli import allowance, storefiles
from agent.cli.terminal import say
from agent.errors import CkptreeError, FormatError
from agent.record import replace
from exporters.criu import PREFIX, TREE, criutree
from exporters.criu.imagefolder import ImageFolder

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.model import Snapshot
    from exporters.content.findings import Finding


_Made = TypeVar("_Made")

ALONE: Final = "it holds the tree alone, as `ckptree convert -f criu` writes it"
"""The reason why a folder has no contents."""


def folder(file: str) -> ImageFolder:
    """Return the folder that a FILE of this kind names.

    Raises:
        CkptreeError: it is no folder.
    """
    name = file.removeprefix(PREFIX)
    path = storefiles.folder_of(file)
    if not name:
        raise CkptreeError(f"{file} names no folder: write {PREFIX}DIR")
    if not path.is_dir():
        raise CkptreeError(f"cannot read {file}: {'it is no folder' if path.exists() else 'there is no such folder'}")
    return ImageFolder(path, name)


def tree_file(images: ImageFolder) -> Path | None:
    """Return the image of the tree beside CRIU's; None where there is none."""
    path = images.path / TREE
    return path if path.is_file() else None


def has_contents(images: ImageFolder) -> bool:
    """Return True for a folder that CRIU wrote, False for one of the format criu, which holds the tree alone.

    Raises:
        FormatError: a dump that failed has left the folder, or it has no tree at all.
    """
    if criutree.has_failed(images):
        raise FormatError(f"{images.shown}/{criutree.INVENTORY}", criutree.FAILED)
    if tree_file(images) is None:
        _named(images, criutree.require)
    return criutree.is_dump(images)


def require_contents(images: ImageFolder) -> None:
    """Refuse a folder without contents.

    Raises:
        FormatError: it has none.
    """
    if not has_contents(images):
        then = f"`ckptree convert {PREFIX}{images.shown} tree.ckpt`, and restart tree.ckpt, which has no contents"
        raise FormatError(f"{images.shown}/{criutree.INVENTORY}", f"the folder has no such file: {ALONE}: {then}")


def load(images: ImageFolder) -> "Snapshot":
    """Read the tree of the images; a format error names the folder."""
    with allowance.bounded(images.shown, images.size()):
        return _named(images, criutree.load)


def _named(images: ImageFolder, work: "Callable[[ImageFolder], _Made]") -> "_Made":
    """Work on a folder; a format error names it."""
    try:
        return work(images)
    except FormatError as error:
        raise FormatError(f"{images.shown}/{error.path}", error.message, error.offset) from error


def doubt(images: ImageFolder, snapshot: "Snapshot") -> str:
    """Return the reason why the tree of a folder is incomplete, where nothing else has said one; else an empty text."""
    done = snapshot.completeness
    if done.complete or done.reasons or tree_file(images) is not None:
        return ""
    return (
        f"{images.shown} has no {TREE}, as `ckptree hook criu` leaves one: CRIU's images tell of no births and no check"
    )


def reasoned(images: ImageFolder, snapshot: "Snapshot") -> "Snapshot":
    """Return the tree of a folder with the reason why it is incomplete, where nothing else has said one."""
    reason = doubt(images, snapshot)
    done = snapshot.completeness
    return replace(snapshot, completeness=replace(done, reasons=(reason,))) if reason else snapshot


def warn_failed(images: ImageFolder) -> None:
    """Print on standard error that a failed dump has left a folder, of which the tree alone can be read."""
    if criutree.has_failed(images):
        say(f"{images.shown}/{criutree.INVENTORY}: {criutree.FAILED}; the tree alone is read")


def warn_unfinished(images: ImageFolder, snapshot: "Snapshot") -> None:
    """Print on standard error that a dump may have failed after its images were written.

    Args:
        images: the folder.
        snapshot: its tree.
    """
    if criutree.is_in_doubt(images, snapshot):
        say(f"{images.shown}/{criutree.STATISTICS}: {criutree.UNFINISHED}")


def check(images: ImageFolder) -> "list[Finding]":
    """Return all findings of the folder."""
    from exporters.checking.criucheck import check_folder

    with allowance.bounded(images.shown, images.size()):
        return check_folder(images)
