# SPDX-License-Identifier: Apache-2.0
"""All faults of a folder of CRIU images: of its files, of its tree, and between the tree and tree.ckpt beside it.

Each file of a known kind is read to its end. A living process needs the files that CRIU writes for each, and a page map
the pages that it names. The tree has to be one that a kernel can have had, as that of any other file. The tree.ckpt that
``ckptree hook criu`` left is of the instant at which CRIU held all tasks, so both trees are equal.
"""

from collections.abc import Iterator
from contextlib import closing
from typing import Any, Final

from agent.errors import FormatError
from agent.model import CKPT_PID_ROOT, OUTSIDE, Snapshot, Tag, Task, TaskState
from exporters import gcpause, registry
from exporters.checking.check import base_of
from exporters.checking.kernelrules import doubts
from exporters.content.fields import escape
from exporters.content.findings import Finding
from exporters.content.wording import plain
from exporters.criu import TREE, criutree, imagefile, imagefolder
from exporters.criu.imagefolder import ImageFiles
from exporters.criu.memorymessages import PRESENT, page_count, page_flags
from exporters.documents.document import path_of

_PAGE: Final = 4096
_CORE_DUMPED: Final = 0x80  # of a wait status
_ALIVE: Final = (TaskState.RUNNING, TaskState.STOPPED)
_NEEDED: Final = ("mm", "pagemap", "fs")
_OF_THE_TREE_ALONE: Final = ("incomplete", "workers-left-out")
"""The rules about facts that CRIU's images do not have; all others are checked with the images."""


def check_folder(files: ImageFiles) -> list[Finding]:
    """Return all findings of a folder; empty for a sound one.

    Raises:
        CkptreeError: a file cannot be opened.
        HostError: no protobuf library is installed.
    """
    with gcpause.paused():
        findings = [*_file_faults(files)]
        if criutree.has_failed(files):
            findings.append(Finding("criu-missing", criutree.INVENTORY, criutree.FAILED))
        try:
            snapshot = criutree.load(files)
        except FormatError as error:
            # The fault of a file is found twice: as that of the file, too.
            if not any(each.path == error.path and each.offset == _offset(error) for each in findings):
                findings.append(_finding("criu-image", error))
            return findings
        base = base_of(snapshot)
        findings += [
            Finding(fault.rule, path_of(fault), fault.text, None, fault.tags) for fault in doubts(base, snapshot)
        ]
        if criutree.is_dump(files):
            findings += _dump_faults(files, snapshot)
        tree = _tree(files)
        if isinstance(tree, Finding):
            findings.append(tree)
        elif tree is not None:
            findings += _tree_faults(tree, snapshot)
        if criutree.is_in_doubt(files, tree if isinstance(tree, Snapshot) else None):
            findings.append(Finding("criu-unfinished", criutree.STATISTICS, criutree.UNFINISHED))
        return findings


def _file_faults(files: ImageFiles) -> Iterator[Finding]:
    """Yield the fault of each file that is no image of its kind."""
    for name in files.names():
        if imagefile.kind_of(name):
            try:
                for _ in imagefolder.entries(files, name):
                    pass
            except FormatError as error:
                yield _finding("criu-image", error)


def _finding(rule: str, error: FormatError) -> Finding:
    return Finding(rule, error.path, error.message, _offset(error))


def _offset(error: FormatError) -> int | None:
    return None if error.offset < 0 else error.offset


def _dump_faults(files: ImageFiles, snapshot: Snapshot) -> Iterator[Finding]:
    """Yield what living processes lack: files, and pages that their page maps name."""
    names = set(files.names())
    for task in snapshot.tasks:
        if task.pid == task.tgid and task.state in _ALIVE:
            pid = snapshot.number(task.pid)
            for stem in _NEEDED:
                if f"{stem}-{pid}.img" not in names:
                    text = f"the folder has no such file, and process {pid} lives"
                    yield Finding("criu-missing", f"{stem}-{pid}.img", text, None, (task.pid,))
    for name in sorted(names):
        kind = imagefile.kind_of(name)
        if kind and kind.stem in ("pagemap", "pagemap-shmem"):
            yield from page_faults(files, name)


def page_faults(files: ImageFiles, name: str) -> Iterator[Finding]:
    """Yield a fault where the pages of a page map are not as many as it says. Other page maps may use the same file."""
    pages, end, pages_id = 0, 0, None
    try:
        for entry in imagefolder.entries(files, name):
            row: Any = entry.message
            if pages_id is None:
                pages_id = row.pages_id
                continue
            count = page_count(row)
            pages += count if page_flags(row) & PRESENT else 0
            if count and row.vaddr < end:
                text = f"the pages at {row.vaddr:#x} lie below {end:#x}, where those of the entry before them end"
                yield Finding("criu-pages", name, text, entry.offset)
            end = max(end, row.vaddr + count * _PAGE)
    except FormatError:
        return  # reported with the files
    there = _size(files, f"pages-{pages_id}.img")
    if there is None and pages:
        text = f"its {pages} pages are in pages-{pages_id}.img, and the folder has no such file"
        yield Finding("criu-pages", name, text)
    elif there is not None and there < pages * _PAGE:
        text = f"its {pages} pages take {pages * _PAGE} bytes, and pages-{pages_id}.img has {there}"
        yield Finding("criu-pages", name, text)


def _size(files: ImageFiles, name: str) -> int | None:
    """Return the length of a file, bytes; None where there is none."""
    opened = files.open(name)
    if opened is None:
        return None
    with closing(opened):
        return opened.seek(0, 2)


def _tree(files: ImageFiles) -> Snapshot | Finding | None:
    """Return the tree of tree.ckpt, or the fault of that file; None where there is no such file."""
    opened = files.open(TREE)
    if opened is None:
        return None
    with closing(opened):
        data = opened.read()
    try:
        return registry.load(data)
    except FormatError as error:
        return Finding("criu-tree", f"{TREE}: {error.path}", error.message, _offset(error))


def _tree_faults(tree: Snapshot, images: Snapshot) -> Iterator[Finding]:
    """Yield each difference between the tree of the images and that of tree.ckpt, and the doubts of that one itself."""
    for fault in doubts(base_of(tree), tree):
        if fault.rule in _OF_THE_TREE_ALONE:
            yield Finding(fault.rule, f"{TREE}: {path_of(fault)}", fault.text, None, fault.tags)
    ours = {tree.number(task.pid): task for task in tree.tasks}
    theirs = {images.number(task.pid): task for task in images.tasks}
    sides = _SideNumbers(tree), _SideNumbers(images)
    for number, task in ours.items():
        if number not in theirs:
            text = f"{_said(number, task)} is in {TREE}, and not in the images"
            yield Finding("criu-tree", f"{TREE}: {_said(number, task)}: pid", text, None, (task.pid,))
    for number, task in theirs.items():
        if number not in ours:
            text = f"{_said(number, task)} is in the images, and not in {TREE}"
            yield Finding("criu-tree", f"{TREE}: {_said(number, task)}: pid", text)
            continue
        for field, in_tree, in_images in _differences(sides[0], ours[number], sides[1], task):
            text = f"is {in_tree} in {TREE}, and {in_images} in the images"
            yield Finding("criu-tree", f"{TREE}: {_said(number, task)}: {field}", text, None, (ours[number].pid,))


def _said(number: int, task: Task) -> str:
    return f"task {number} ({_shown(task.comm or b'')})"


class _SideNumbers:
    """The numbers of one side's ids in the root's namespace."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._groups = {task.pid: task.tgid for task in snapshot.tasks}

    def parent(self, task: Task) -> int:
        """Return the number of the process that is the parent: CRIU knows no parent's thread."""
        return self._snapshot.number(self._groups[task.ppid]) if task.ppid != OUTSIDE else 0

    def number(self, tag: Tag) -> int | str:
        """Return the number of a session, group or process."""
        return "outside" if tag in (OUTSIDE, CKPT_PID_ROOT) else self._snapshot.number(tag)


def _differences(
    tree: _SideNumbers, ours: Task, images: _SideNumbers, theirs: Task
) -> Iterator[tuple[str, object, object]]:
    """Yield the fields in which a task differs, with the value of each side. A fact that a side lacks is no difference."""
    pairs = [
        ("tgid", tree.number(ours.tgid), images.number(theirs.tgid)),
        ("ppid", tree.parent(ours), images.parent(theirs)),
        ("pgid", tree.number(ours.pgid), images.number(theirs.pgid)),
        ("sid", tree.number(ours.sid), images.number(theirs.sid)),
        ("state", ours.state, theirs.state),
        ("exit_code", _status(ours.exit_code), _status(theirs.exit_code)),
        ("comm", ours.comm, theirs.comm),
        ("subreaper", ours.subreaper, theirs.subreaper),
        ("uid", ours.uid, theirs.uid),
        ("gid", ours.gid, theirs.gid),
    ]
    for field, mine, other in pairs:
        if mine is not None and other is not None and mine != other:
            yield field, _shown(mine), _shown(other)


def _shown(value: object) -> object:
    return plain(escape(value)) if isinstance(value, bytes) else value


def _status(code: int | None) -> int | None:
    return None if code is None else code & ~_CORE_DUMPED
