# SPDX-License-Identifier: Apache-2.0
"""A folder of CRIU images in place of a file, as ``criu:DIR``.

The tree is that of tree.ckpt, where ``ckptree hook criu`` left one, for it has the births; else that of the images.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from agent.cli import allowance, storefiles
from agent.errors import CkptreeError, FormatError
from agent.record import replace
from exporters.criu import PREFIX, TREE, criutree
from exporters.criu.imagefolder import ImageFolder

if TYPE_CHECKING:
    from agent.model import Snapshot
    from exporters.content.findings import Finding


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
    """Return True for a folder that CRIU wrote, False for one of the format criu, which holds the tree alone."""
    return criutree.is_dump(images)


def load(images: ImageFolder) -> "Snapshot":
    """Read the tree of the images; a format error names the folder."""
    with allowance.bounded(images.shown, images.size()):
        try:
            return criutree.load(images)
        except FormatError as error:
            raise FormatError(f"{images.shown}/{error.path}", error.message, error.offset) from error


def reasoned(images: ImageFolder, snapshot: "Snapshot") -> "Snapshot":
    """Return the tree of a folder with the reason why it is incomplete, where nothing else has said one."""
    done = snapshot.completeness
    if done.complete or done.reasons or tree_file(images) is not None:
        return snapshot
    reason = (
        f"{images.shown} has no {TREE}, as `ckptree hook criu` leaves one: CRIU's images tell of no births and no check"
    )
    return replace(snapshot, completeness=replace(done, reasons=(reason,)))


def check(images: ImageFolder) -> "list[Finding]":
    """Return all findings of the folder."""
    from exporters.checking.criucheck import check_folder

    with allowance.bounded(images.shown, images.size()):
        return check_folder(images)
