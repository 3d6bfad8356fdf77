# SPDX-License-Identifier: Apache-2.0
"""Dumps of contents that a relay asks for, by the service that has the rights for them (agent.cli.restartservice).

CRIU dumps, with the options of root's configuration, and ``ckptree hook criu`` writes the tree while CRIU holds it. A
dump without its tree fails, and the programs run on. The folder goes into the store that the configuration names, under
its hash; the environment of the service has the credentials of the store. Nothing of it stays on this host, unless the
programs have ended and the store does not take it.
"""

import os
import shlex
import shutil
import signal
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from agent import interpreter, rootname
from agent.cli import contentsservice
from agent.cli.signals import handled
from agent.daemon import audit
from agent.daemon.journal import Journal
from agent.environment import NATS_VARIABLE
from agent.errors import CkptreeError, HostError, UsageError
from agent.fleet import manifest, messages
from agent.fleet.hostwork import is_there
from agent.fleet.manifest import HostContents
from agent.fleet.relaysettings import DumpRule, RelaySettings, permitted_dump
from agent.fleet.stores import errand, folders, keptfolder
from agent.proc import topmost
from agent.protocol.codec import Message
from exporters.criu import TREE

_IMAGES: Final = "images"
_MOST_TOLD: Final = 5


def dumped(request: Message, settings: RelaySettings, journal: Journal) -> Message:
    """Dump a tree with its contents into a store; return the answer.

    Args:
        request: of the relay, as agent.fleet.restartlink has it.
        settings: root's configuration.
        journal: for audit lines.

    Raises:
        NotPermittedError: the configuration does not permit it.
        CkptreeError: the dump fails, or the store does not take it.
    """
    root, end = _checked(request)
    rule = permitted_dump(settings.dumps, request["requester"], root, end=end)
    about: dict[str, int | float | str | bytes] = {
        "requester": rule.requester,
        "id": str(request["id"]),
        "root": root,
        "end": int(end),
    }
    meant = rootname.parse_target(root)
    _pid(meant)
    for left in keptfolder.remove_left():
        journal.warning(f"removed {left}, which a process that was killed had left")
    # A service that is stopped while CRIU has its code in the tasks of the tree finishes first.
    with (
        handled((signal.SIGTERM,), lambda _number, _frame: journal.notice("stopped when the dump is done")),
        _Folder() as folder,
    ):
        time.sleep(max(0.0, (request["at_ns"] - time.time_ns()) / 1e9))
        before_ns = time.time_ns()
        _dump(_pid(meant), rule, settings, folder.path, end=end)
        after_ns = time.time_ns()
        if end:
            folder.hold_all()
        images = folder.path / _IMAGES
        contents = _stored(images, rule, settings)
        tree = (images / TREE).read_bytes()
    journal.notice(audit.line("dump", **about, store=contents.store, contents=contents.listed, result="ok"))
    return {
        "ok": True,
        "image": tree,
        "before_ns": before_ns,
        "after_ns": after_ns,
        **_facts(tree),
        "contents": manifest.contents_document(contents),
    }


def _checked(request: Message) -> tuple[str, bool]:
    """Return the tree, and if it is to end; UsageError: the request makes no sense."""
    for key, kind in (("requester", str), ("root", str), ("end", bool), ("at_ns", int), ("left_ns", int)):
        if not isinstance(request.get(key), kind):
            raise UsageError(f"{key}: it is missing, or of another type")
    messages.checked_requester(request["requester"])
    if request["at_ns"] - time.time_ns() > request["left_ns"]:
        raise UsageError("at_ns: expected a time before the deadline, by this host's clock")
    return request["root"], request["end"]


def _pid(meant: rootname.Target) -> str:
    """Return the pid of the process that a ROOT means; CkptreeError: there is none, or it is no single process."""
    found = topmost.answered(meant, str)
    if not found.isdecimal():
        raise UsageError(f"{meant}: criu dumps a process: name it by its pid, cgroup, unit, job, container or pod")
    is_there(found)
    return found


class _Folder:
    """A folder for root alone, which is removed at the end of the block; after a kill, by the next that makes one.

    Attributes:
        path: of the folder.
    """

    def __init__(self) -> None:
        self.path, self._lock = keptfolder.private_folder()
        self._holds_all = False

    def __enter__(self) -> Self:
        """Return the folder itself."""
        return self

    def hold_all(self) -> None:
        """Note that the programs are nowhere else now: the folder stays, and is named, if they are not stored."""
        self._holds_all = True
        self.path = self.path.rename(self.path.with_name(f"ckptree-dump.{self.path.name.rpartition('.')[2]}"))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove the folder."""
        try:
            if error is not None and self._holds_all:
                where = self.path / _IMAGES
                raise CkptreeError(
                    f"{error}; the programs have ended, and their images stay in {where} here"
                ) from error
            shutil.rmtree(self.path, ignore_errors=True)
        finally:
            os.close(self._lock)


def _dump(pid: str, rule: DumpRule, settings: RelaySettings, folder: Path, *, end: bool) -> None:
    """Have CRIU dump a tree, with the tree beside the images."""
    criu = shutil.which(rule.criu)
    if criu is None:
        raise HostError(f"there is no program {rule.criu} here, which dumps: install criu, or name it as dump.criu")
    images, script, log = folder / _IMAGES, folder / "hook", folder / "log"
    images.mkdir(mode=0o700)
    words = ["hook", "criu", "--required"]
    words += ["--socket", os.fspath(settings.socket)] if settings.socket is not None else []
    script.write_text(f"#!/bin/sh\nexec {shlex.join(interpreter.verb(*words))}\n")
    script.chmod(0o700)
    command = [criu, "dump", "-t", pid, "-D", os.fspath(images), "--action-script", os.fspath(script)]
    command += [*([] if end else ["--leave-running"]), *rule.options]
    with log.open("wb") as out:
        ran = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, check=False)
    if ran.returncode or not (images / TREE).is_file():
        raise CkptreeError(f"criu could not dump {pid}: {_last_words(log, ran.returncode)}")


def _last_words(log: Path, code: int) -> str:
    """Return what CRIU and the hook have said of a failure."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines()]
    told = [line.removeprefix("ckptree: ") for line in lines if line.startswith("ckptree: ")]
    told += [line for line in lines if "Error" in line][:_MOST_TOLD]
    return "; ".join(told) or f"it ended with {code}"


def _stored(images: Path, rule: DumpRule, settings: RelaySettings) -> HostContents:
    """Put a folder into the store of a permission."""
    server = contentsservice.environment(settings.nats).get(NATS_VARIABLE)
    size = sum(path.stat().st_size for path in images.iterdir())
    digits = errand.store_hashed_folder(folders.list_address(rule.store, "0" * 64), server, images)
    return HostContents(rule.store, f"sha256:{digits}", size)


def _facts(tree: bytes) -> Message:
    """Return what the answer tells of the tree."""
    from exporters import registry

    snapshot = registry.load(tree)
    reasons = snapshot.completeness.reasons
    return {"tasks": len(snapshot.tasks), "complete": not reasons, "reasons": list(reasons)}
