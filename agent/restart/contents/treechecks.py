# SPDX-License-Identifier: Apache-2.0
"""The checks of the images as a whole: their version, the tree beside them, what tasks share, and their namespaces."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from agent.model import Snapshot, Tag, Task, TaskState
from agent.restart.contents import fileowners
from agent.restart.contents.descriptors import KINDS, FileKind, unseen
from agent.restart.contents.hostfacts import NAMESPACES, HostFacts
from agent.restart.contents.images import Images, ProcessImage
from agent.restart.contents.refusals import Refused
from agent.restart.contents.taskchecks import ids_of_host
from exporters.criu import criuschema
from exporters.criu.criuschema import DEAD, STOPPED

Found = Iterator[tuple[int, Refused]]
"""The pid of a process, 0 for all of them, and what of it cannot be restored."""

_MOST_NAME: Final = 255
"""Bytes of the name of a plugin, a file."""
_VERSIONS: Final = (1, 2)
_NO_LSM: Final = 0
_CORE: Final = 0x80
_MADE: Final = ("time", "ipc")
"""The kinds of namespaces that a restart makes; see clocks.py and systemv.py."""
_SHARED: Final = {
    "vm_id": ("memory", "memory that two processes share (CLONE_VM) is not restored"),
    "fs_id": ("folder", "a folder and umask that two processes share (CLONE_FS) are not restored"),
    "sighand_id": ("signals", "signal handlers that two processes share (CLONE_SIGHAND) are not restored"),
}


def inventory(message: Any) -> Found:
    """Check the inventory: the version of the images, and who else has written into them."""
    if message.img_version not in _VERSIONS:
        yield 0, Refused("images", str(message.img_version), "version", "no version of images that is known here")
    if not message.fdinfo_per_id or not message.ns_per_id:
        text = "they are of a CRIU before 1.0: dump with a newer one"
        yield 0, Refused("images", str(message.img_version), "version", text)
    for plugin in message.plugins_entry.plugins:
        text = "a plugin of CRIU has dumped a part that only it can restore: dump without it"
        yield 0, Refused("plugin", bytes(plugin)[:_MOST_NAME].decode(errors="replace"), "plugin", text)


def agreement(processes: Mapping[int, ProcessImage], snapshot: Snapshot) -> Found:
    """Compare the processes of the images with the tasks of the tree: each must have the same place in both."""
    threads: dict[Tag, list[Task]] = {}
    for task in snapshot.tasks:
        threads.setdefault(task.tgid, []).append(task)
    groups = {snapshot.number(leader): members for leader, members in threads.items()}
    parents = {task.pid: task.tgid for task in snapshot.tasks}
    for pid in groups.keys() - processes.keys():
        yield pid, _tree("the tree has this process, and the images have not")
    for pid, process in processes.items():
        leader = next((task for task in groups.get(pid, ()) if task.pid == task.tgid), None)
        if leader is None:
            yield pid, _tree("the images have this process, and the tree has not")
            continue
        of_parent = snapshot.number(parents.get(leader.ppid, Tag(0)))
        for what, image, tree in (
            ("parent", process.ppid, of_parent),
            ("group", process.pgid, snapshot.number(leader.pgid)),
            ("session", process.sid, snapshot.number(leader.sid)),
        ):
            if image != tree and image and tree:
                yield pid, _tree(f"its {what} is {image} in the images, and {tree} in the tree")
        own = {snapshot.number(task.pid) for task in groups[pid]}
        if process.lives and own != set(process.threads):
            yield pid, _tree(f"its threads are {_list(process.threads)} in the images, and {_list(own)} in the tree")
        yield from _states(pid, process, leader)


def sharing(processes: Mapping[int, ProcessImage]) -> Found:
    """Refuse processes that share a thing without being threads of one process."""
    for name, (kind, text) in _SHARED.items():
        first: dict[int, int] = {}
        for pid, process in processes.items():
            identity = int(getattr(process.ids, name)) if process.lives else 0
            if identity and first.setdefault(identity, pid) != pid:
                yield (
                    pid,
                    Refused(kind, str(identity), "shared", f"{text}: it shares it with process {first[identity]}"),
                )


def namespaces(processes: Mapping[int, ProcessImage], of_criu: Any, host: HostFacts) -> Found:
    """Refuse processes whose namespaces the caller cannot stand for.

    The ids of the images tell only which processes were in one namespace, and whether CRIU itself was in it. So a tree in
    other namespaces than CRIU's is taken by a caller that is not in the host's initial ones either.

    Args:
        processes: of the images.
        of_criu: the ids of CRIU's own process.
        host: this host.
    """
    for kind in NAMESPACES:
        name = f"{kind}_ns_id"
        root = 0
        for pid, process in processes.items():
            if not process.lives or not process.ids.HasField(name):
                continue
            identity = int(getattr(process.ids, name))
            root = root or identity
            if identity != root:
                text = f"it was in another {kind} namespace than the root of the tree: such trees are not restored"
                yield pid, Refused("namespace", f"{kind} {identity}", "namespace", text)
            elif (
                kind not in _MADE
                and kind in host.initial
                and of_criu.HasField(name)
                and identity != getattr(of_criu, name)
            ):
                text = (
                    f"it was in a {kind} namespace of its own, which is not made: restart within such a namespace, as "
                    "a container runtime makes it"
                )
                yield pid, Refused("namespace", f"{kind} {identity}", "namespace", text)


def zombies(snapshot: Snapshot, host: HostFacts) -> Found:
    """Check whether zombies can have their users and groups here.

    Args:
        snapshot: the tree, with ids as the tree's user namespace numbers them.
        host: this host.
    """
    for task in snapshot.tasks:
        if task.state is TaskState.ZOMBIE and task.uid is not None and task.gid is not None:
            number = snapshot.number(task.pid)
            ids = ("user", (task.uid,), host.uids), ("group", (task.gid,), host.gids)
            yield from ((number, refused) for refused in ids_of_host(number, ids))


def owners(files: Mapping[int, Any], having: Mapping[int, int], host: HostFacts) -> Found:
    """Check whether open files can signal their owners as the users that have set these.

    Args:
        files: the file_entry of each open file.
        having: a process that has it, by each open file.
        host: this host.
    """
    for identity, pid in having.items():
        entry = files.get(identity)
        if entry is None or not fileowners.is_described(entry):
            continue
        for user in sorted({*fileowners.users(entry)}):
            if not any(user in each for each in host.uids):
                text = f"user {user} has set its owner, and there is no user {user} here"
                yield pid, Refused(KINDS[int(entry.type)], str(identity), "user", text)


def reach(images: Images, spaces: Mapping[int, tuple[int, ...]], kinds: Mapping[int, FileKind]) -> Found:
    """Yield files that a process cannot fetch from their owner.

    Args:
        images: the folder.
        spaces: the pid namespaces of each process, from the root's inward.
        kinds: the kinds of open files, by CRIU's number.
    """
    having: dict[int, list[int]] = {}
    for pid in spaces:
        for identity in dict.fromkeys(int(info.id) for info in images.processes[pid].fds):
            having.setdefault(identity, []).append(pid)
    for pid, identity, owner in unseen(spaces, having, images.files, kinds):
        text = f"process {owner} has it, too, in a pid namespace that this one does not see: close it in one of them"
        yield pid, Refused(KINDS[int(images.files[identity].type)], str(identity), "unseen", text)


def unknown(processes: Mapping[int, ProcessImage]) -> Found:
    """Refuse processes whose messages have fields that are not known here: a newer CRIU may mean something by them."""
    known: set[tuple[str, int]] = set()
    for pid, process in processes.items():
        marked = [("core", process.alike[tid], core) for tid, core in process.cores.items()]
        if process.lives:  # messages of alike processes are the same ones
            marked += ("mm", id(process.mm), process.mm), ("fs", id(process.fs), process.fs)
        for kind, mark, message in marked:
            if (kind, mark) not in known:
                found = list(criuschema.unknown_fields(message))
            elif kind == "core":  # alike cores have general registers of their own
                found = list(criuschema.unknown_fields(message.thread_info.gpregs))
            else:
                continue
            if not found:
                known.add((kind, mark))
            for name, number in found:
                text = f"field {number} of {name} is not known here: use a newer ckptree"
                yield pid, Refused("images", f"{name} {number}", "unknown", text)


def _states(pid: int, process: ProcessImage, leader: Task) -> Iterator[tuple[int, Refused]]:
    tc = process.core.tc
    state = {DEAD: TaskState.ZOMBIE, STOPPED: TaskState.STOPPED}.get(int(tc.task_state), TaskState.RUNNING)
    if leader.state is not None and leader.state != state:
        yield pid, _tree(f"its state is {state} in the images, and {leader.state} in the tree")
    elif not process.lives and leader.exit_code is not None and (leader.exit_code ^ tc.exit_code) & ~_CORE:
        yield pid, _tree(f"its wait status is {tc.exit_code:#x} in the images, and {leader.exit_code:#x} in the tree")
    if process.lives and leader.subreaper is not None and bool(tc.child_subreaper) != leader.subreaper:
        yield pid, _tree(f"it is {'a' if tc.child_subreaper else 'no'} subreaper in the images, and not so in the tree")


def _tree(text: str) -> Refused:
    return Refused("task", "tree", "tree", f"{text}: use the tree that was taken while CRIU held the tasks")


def _list(numbers: Any) -> str:
    return ", ".join(map(str, sorted(numbers)))
