# SPDX-License-Identifier: Apache-2.0
"""``plan criu:DIR``: the objects of the contents that a restart would refuse."""

from typing import TYPE_CHECKING

from agent.cli import allowance, contents, criusource, terminal
from agent.cli.terminal import say
from exporters.criu import PREFIX

if TYPE_CHECKING:
    from agent.model import Snapshot
    from agent.restart.contents.external import External
    from agent.restart.planning.plan import Plan
    from exporters.criu.imagefolder import ImageFolder


def folder_of(file: str) -> "ImageFolder | None":
    """Return the folder of the contents that a FILE names; None for a FILE of another kind, or without contents.

    Raises:
        FormatError: a dump that failed has left the folder, or it has no tree at all.
        CkptreeError: there is no such folder.
    """
    if not file.startswith(PREFIX):
        return None
    images = criusource.folder(file)
    return images if criusource.has_contents(images) else None


def remedy(file: str, *, pids: bool) -> str:
    """Return what to do where a FILE is planned without contents, and an option is about them."""
    if not file.startswith(PREFIX):
        return f"name a folder that CRIU wrote, as {PREFIX}DIR"
    if not pids:
        return "leave out --no-pids, with which the tree alone is planned"
    return f"name a folder that CRIU wrote; {file} {criusource.ALONE.removeprefix('it ')}"


def examined(
    file: str, folder: "ImageFolder", snapshot: "Snapshot", plan: "Plan", allowed: "External", *, as_json: bool
) -> "Plan":
    """Return the plan of a tree with its contents, none of which a restart would refuse: this host is asked for files,
    addresses and pids. The number of objects goes to standard error.

    Args:
        file: the FILE, for messages.
        folder: of the images.
        snapshot: the tree.
        plan: of the same tree.
        allowed: the objects outside of the tree that it may have.
        as_json: print what is refused, as data.

    Raises:
        RefusedError: a restart would refuse an object.
        HostError: this host cannot have the tree now.
    """
    from agent.restart import planview
    from agent.restart.rebuild.preflight import preflight
    from exporters.content.wording import count

    criusource.warn_unfinished(folder, snapshot)
    with allowance.bounded(folder.shown, folder.size()):
        found = contents.examined(folder.path, snapshot, plan, allowed)
    if found.refusals and as_json:
        terminal.tell_json(planview.refusal_of_contents(found.refusals, pidns=plan.pidns))
    contents.whole(found)
    preflight(found.plan)
    processes, files = found.counts
    had = f"{count(processes, 'process', 'processes')}, {count(files, 'file')} (open, mapped or run, and folders)"
    memory = f"{found.page_bytes / (1 << 20):.1f} MiB of memory"
    say(f"{file}: the contents were examined on this host: {had}, {memory}; a restart refuses none of it")
    return found.plan


def tell_left_out(file: str, *, pids: bool) -> None:
    """Print on standard error that a folder of CRIU's images is planned without contents, and why."""
    if pids:
        say(f"{file}: no contents were examined: {criusource.ALONE}")
    else:
        say(
            f"{file}: no contents were examined: with --no-pids the tree alone is planned, for contents need their pids"
        )
