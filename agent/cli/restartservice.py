# SPDX-License-Identifier: Apache-2.0
"""The restart service: it carries out restarts and dumps that a relay asks for, a process for each, with rights of its own.

Theory
------
A relay hears a network and has no rights. So it starts nothing: it passes requests to a Unix socket, on which systemd
(ckptree-restart.socket) starts this program for each connection. This program believes the relay nothing: it reads root's
configuration, in which the requester must have a permission for just what is to run, and has `ckptree restart` check
that a signer of that permission has signed the set. A relay that is taken over can so have started again only trees that
these signers have signed, with what that configuration lets run. Contents run on only from a store that the permission
names, and after the signature of their set is checked: the set has the hash of every byte of them.
"""

import os
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections import deque
from pathlib import Path
from types import FrameType
from typing import Final

from agent import interpreter
from agent.cli import contentsservice, dumpservice
from agent.daemon import audit
from agent.daemon.journal import Journal
from agent.errors import CkptreeError, NotPermittedError, UsageError, in_words
from agent.fleet import manifest, messages, relaysettings, restartlink
from agent.fleet.relaysettings import RestartRule
from agent.protocol import codec
from agent.protocol.codec import Message

_REQUEST_S: Final = 30.0
_LONGEST_S: Final = 3600.0
_END_S: Final = 10.0
_TOLD_LINES: Final = 20


def serve(config: Path) -> int:
    """Carry out the restart that is asked for over standard input, and stay with the tree; return the exit code."""
    journal = Journal()
    connection = socket.socket(fileno=os.dup(0))
    request: Message = {}
    what = "restart"
    try:
        request = _received(connection)
        settings = relaysettings.load(config)
        if request.get("what") == "dump":
            what = "dump"
            _answer(connection, dumpservice.dumped(request, settings, journal), journal)
            return 0
        rule = permitted(_checked(request), settings.rules)
        if request["plan"]:
            refused = contentsservice.planned(request, rule, settings.nats)
            _answer(connection, {"ok": True, "ready": refused}, journal)
            return 0
        return _Restart(request, rule, connection, journal, settings.nats).run()
    except CkptreeError as error:
        journal.error(audit.line(what, **_about(request), result="refused", reason=str(error)))
        _answer(connection, messages.failure(error), journal)
        return error.exit_code


def _answer(connection: socket.socket, message: Message, journal: Journal) -> None:
    try:
        connection.sendall(codec.encode(message))
    except OSError:
        journal.warning("the relay has not heard the answer")


def _about(request: Message) -> dict[str, str]:
    return {key: str(request[key])[:100] for key in ("requester", "id", "host", "run", "root") if key in request}


def _received(connection: socket.socket) -> Message:
    """Return the request.

    Raises:
        CkptreeError: none came in time, or it is none.
    """
    decoder = codec.Decoder(restartlink.MOST_BYTES, messages.MAX_PARTS)
    connection.settimeout(_REQUEST_S)
    try:
        while (request := decoder.pop()) is None:
            data = connection.recv(1 << 20)
            if not data:
                raise UsageError("the connection ended before a request was there")
            decoder.push(data)
    except OSError as error:
        raise CkptreeError(f"no request came: {error.strerror or error}") from error
    messages.checked_id(request.get("id"))
    return request


def _checked(request: Message) -> Message:
    """Return the request for a restart.

    Raises:
        UsageError: it is none.
    """
    for key, kind in (
        ("requester", str),
        ("host", str),
        ("run", str),
        ("pids", bool),
        ("pidns", bool),
        ("contents", bool),
        ("plan", bool),
        ("left_ns", int),
    ):
        if not isinstance(request.setdefault(key, False) if key in ("contents", "plan") else request.get(key), kind):
            raise UsageError(f"{key}: it is missing, or of another type")
    for key in ("manifest", "signature", "image"):
        if not isinstance(request.get(key), bytes):
            raise UsageError(f"{key}: it is missing")
    return request


def permitted(request: Message, rules: tuple[RestartRule, ...]) -> RestartRule:
    """Return the permission for a restart.

    Raises:
        NotPermittedError: there is none for this requester, or none for what is to run.
    """
    own = [rule for rule in rules if rule.requester == request["requester"]]
    if not own:
        raise NotPermittedError(
            f"{request['requester']!r} may restart nothing here: the configuration has no [[restart]] for it"
        )
    if request["contents"] or request["plan"]:
        store = contentsservice.contents_of(request).store
        for rule in own:
            if store in rule.contents:
                return rule
        raise NotPermittedError(
            f"{request['requester']} may let no contents from {store} run on here: its permission names others"
        )
    for rule in own:
        if request["run"] in rule.run:
            return rule
    allowed = sorted({word for rule in own for word in rule.run})
    raise NotPermittedError(
        f"{request['requester']} may not run {request['run']!r} here, but {', '.join(map(repr, allowed)) or 'nothing'}"
    )


class _Restart:
    """A restart that is carried out by a child, `ckptree restart`.

    Args:
        request: of the relay.
        rule: permits it.
        connection: to the relay.
        journal: for audit lines, and what the child says.
        nats: addresses of servers, where the environment names none.
    """

    def __init__(
        self, request: Message, rule: RestartRule, connection: socket.socket, journal: Journal, nats: str
    ) -> None:
        self._nats = nats
        self._request = request
        self._rule = rule
        self._connection = connection
        self._journal = journal
        self._out, self._out_of_child = os.pipe()
        self._err, self._err_of_child = os.pipe()
        self._until_s = time.monotonic() + min(_LONGEST_S, max(0.0, request["left_ns"] / 1e9))
        self._said: deque[str] = deque(maxlen=_TOLD_LINES)

    def run(self) -> int:
        """Have the tree made, and stay with it as long as it is to be kept; return the child's exit code."""
        with tempfile.TemporaryDirectory(prefix="ckptree-restart.") as name:
            child = self._started(Path(name))
            signal.signal(signal.SIGTERM, lambda number, frame: _pass_on(child, number, frame))
            saying = threading.Thread(target=self._listen, daemon=True)
            saying.start()
            ready = self._ready()
            if ready is None:
                _end(child)
                saying.join(1)
                raise CkptreeError("; ".join(self._said) or "the tree did not stand by the deadline")
        about = {**_about(self._request), "root": ready.get("root", 0)}
        try:
            self._tell({"ok": True, "ready": ready})
            self._await_keep()
        except (CkptreeError, OSError) as error:
            _end(child)
            self._journal.error(audit.line("restart", **about, result="taken down", reason=in_words(error)))
            return CkptreeError.exit_code
        self._journal.notice(audit.line("restart", **about, result="ok"))
        self._connection.close()
        threading.Thread(target=_drain, args=(self._out,), daemon=True).start()
        code = child.wait()
        self._journal.notice(audit.line("restart", **about, result="ended", code=code))
        return code if code >= 0 else 128 - code

    def _started(self, folder: Path) -> "subprocess.Popen[bytes]":
        """Start the child, which checks signature and hash of the very bytes that it uses."""
        request = self._request
        for name, key in (("set", "manifest"), ("set.sig", "signature"), ("image", "image")):
            (folder / name).write_bytes(request[key])
        made = manifest.loads(request["manifest"])
        images = {each.host: each.image for each in made.hosts}
        if images.get(request["host"]) != manifest.hash_of(request["image"]):
            raise NotPermittedError(f"the image is not that of {request['host']!r} in the set {made.id}")
        child = subprocess.Popen(
            interpreter.verb(*self._words(folder)),
            env=contentsservice.environment(self._nats),
            stdin=subprocess.DEVNULL,
            stdout=self._out_of_child,
            stderr=self._err_of_child,
        )
        os.close(self._out_of_child)
        os.close(self._err_of_child)
        return child

    def _words(self, folder: Path) -> list[str]:
        """Return the command line of the child."""
        request = self._request
        signed = ["--set", str(folder / "set"), "--verify", str(self._rule.signers)]
        pidns = "--pidns" if request["pidns"] else "--no-pidns"
        if not request["contents"]:
            pids = "--pids" if request["pids"] else "--no-pids"
            return ["restart", str(folder / "image"), *signed, "--json", "--run", request["run"], pids, pidns]
        return ["restart", contentsservice.file(request, self._rule), *signed, "--json", pidns, *self._rule.options]

    def _listen(self) -> None:
        """Note what the child says, and pass it on."""
        with open(self._err, errors="replace") as lines:
            for line in lines:
                text = line.rstrip().removeprefix("ckptree: ")
                self._said.append(text)
                self._journal.info(text)

    def _ready(self) -> Message | None:
        """Return the line with which the child says that the tree stands; None: it ended, or the time is over."""
        import json
        import select

        said = b""
        while b"\n" not in said:
            left_s = self._until_s - time.monotonic()
            if left_s <= 0 or not select.select([self._out], [], [], left_s)[0]:
                return None
            data = os.read(self._out, 1 << 16)
            if not data:
                return None
            said += data
        line, _, rest = said.partition(b"\n")
        os.write(2, rest)  # of the programs of the tree
        found: Message = json.loads(line)
        return found

    def _tell(self, message: Message) -> None:
        self._connection.settimeout(max(0.1, self._until_s - time.monotonic()))
        self._connection.sendall(codec.encode(message))

    def _await_keep(self) -> None:
        """Wait until the relay says that the tree is to be kept.

        Raises:
            CkptreeError: it hung up instead, or the time is over.
        """
        decoder = codec.Decoder(messages.MAX_REQUEST)
        while (message := decoder.pop()) is None:
            self._connection.settimeout(max(0.001, self._until_s - time.monotonic()))
            data = self._connection.recv(1 << 16)
            if not data:
                raise CkptreeError("the requester gave up, for another host failed or its time was over")
            decoder.push(data)
        if message.get("keep") is not True:
            raise UsageError("expected the word that the tree is to be kept")
        self._tell({"ok": True})


def _pass_on(child: "subprocess.Popen[bytes]", number: int, _frame: FrameType | None) -> None:
    child.send_signal(number)


def _drain(reader: int) -> None:
    """Pass on what the programs of the tree print, to where this process prints."""
    while data := os.read(reader, 1 << 16):
        os.write(2, data)


def _end(child: "subprocess.Popen[bytes]") -> None:
    """Have the child take the tree down."""
    child.terminate()
    try:
        child.wait(_END_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
