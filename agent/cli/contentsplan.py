# SPDX-License-Identifier: Apache-2.0
"""``plan criu:DIR``: which objects of the contents a restart would refuse."""

from pathlib import Path
from typing import TYPE_CHECKING

from agent.cli import allowance, contents, criusource
from exporters.criu import PREFIX

if TYPE_CHECKING:
    from agent.model import Snapshot
    from agent.restart.contents.external import External
    from agent.restart.contents.refusals import ContentRefusal
    from agent.restart.planning.plan import Plan


def folder_of(file: str) -> Path | None:
    """Return the folder of the contents that a FILE names; None for a FILE of another kind, or without contents."""
    if not file.startswith(PREFIX):
        return None
    images = criusource.folder(file)
    return images.path if criusource.has_contents(images) else None


def refusals(
    folder: Path, snapshot: "Snapshot", plan: "Plan", allowed: "External"
) -> "tuple[list[ContentRefusal], Plan]":
    """Return the objects that a restart would refuse here, and its plan: it asks this host for files and addresses.

    Args:
        folder: of the images.
        snapshot: the tree.
        plan: of the same tree.
        allowed: the objects outside of the tree that it may have.
    """
    from exporters.criu.imagefolder import ImageFolder

    with allowance.bounded(str(folder), ImageFolder(folder).size()):
        found = contents.examined(folder, snapshot, plan, allowed)
    return found.refusals, found.plan
