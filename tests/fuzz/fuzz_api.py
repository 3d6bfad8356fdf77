# SPDX-License-Identifier: Apache-2.0
"""Fuzzer of requests to decoder, conversation and service.

``python -m tests.fuzz.fuzz_api [-runs=N] [-seed=N] [-max_total_time=S]``. No socket and no kernel: a real watch follows
a simulated kernel, in which processes live and die meanwhile. Each input is all that one client sends, cut at random
places: three of four inputs are mutated requests, the others are well-formed requests with random values. These faults
end the run and print the bytes: an exception; an internal error; an answer that no client could read; an error without
a name; a task in an answer or an event that the client may not see; anything that a client leaves behind after its end.
"""

import random
import sys
import time
from collections import Counter
from typing import Any

import msgpack

from agent.access import Viewer
from agent.daemon.conversation import Conversation
from agent.events.subscriber import KINDS
from agent.protocol import codec
from agent.table.objects import CLONE_NEWPID
from exporters import registry
from tests.support.simwatch import ROOT, Scene

TELLING_S = 10.0
LONGEST_BYTES = 1 << 12
_TURNS = 40
_STIRS = 2  # while a subscription lasts
_AGE = 2000  # clients, before a host is made anew
_KINDS_OF_ERROR = {
    *("not-permitted", "busy", "version", "protocol", "usage", "no-such-root", "host", "refused", "failed"),
}
_WORDS: tuple[Any, ...] = (
    *(
        None,
        True,
        False,
        0,
        1,
        -1,
        2**63,
        -(2**63),
        1.5,
        float("nan"),
        "",
        b"",
        b"\xff",
        "\x00",
        "1",
        "auto",
        "x" * 300,
    ),
    *([], {}, [[]], {"a": {}}, [0] * 50, msgpack.ExtType(5, b"x"), msgpack.Timestamp(1, 2)),
)
_ROOTS = ("1", "2", "3", "4", "9", "-1", "1e3", "pidns:1", "pidns:[4026531836]", "pidns:4026531836", "pidns:4026531841")
_ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "verb": codec.VERBS,
    "root": (*_ROOTS, *range(-1, 12), "cgroup:/", "²", "9" * 5000),
    "mode": ("auto", "container", "subtree"),
    "format": registry.LOSSLESS,
    "dialect": ("seed", "v23"),
    "without_entered": (True, False),
    "kinds": (list(KINDS), [], ["birth"], ["death", "death"], ["no"]),
    "snapshot": (True, False, None),
    "start_ns": (0, 1, 10**9, -1, 2**64 - 1),
    "arguments": ([b"sh\0", 3], [b"", 0], [b"x" * 9000, 9000], [b"", -1], [b""], [1, 1], None),
    "environment": ([b"A=1\0", 4], [b"", 2**64 - 1], ["", 0], None),
    "protocols": ([1, 1], [1, 9], [2, 3], [0, 0], [9, 1], [2**63, 2**64 - 1], None),
}
_TYPICAL = (
    *({"verb": "hello", "protocols": [1, 1]},) * 6,
    {"verb": "snapshot", "root": "2", "mode": "auto", "format": "ckpt", "dialect": "seed", "without_entered": False},
    {"verb": "snapshot", "root": "3", "format": "json"},
    {"verb": "subscribe", "root": "2", "kinds": ["birth", "death"], "snapshot": True},
    {"verb": "subscribe"},
    {"verb": "strings", "root": "2", "start_ns": 0, "arguments": [b"sh\0", 3], "environment": [b"A=1\0", 4]},
    {"verb": "status"},
    {"verb": "metrics"},
)


class Host:
    """A simulated host and its callers; it is made anew now and then, because it ages."""

    def __init__(self) -> None:
        self.scene = Scene()
        scene = self.scene
        alice = scene.child(ids=(1000, 1000))
        scene.child(alice)
        bob = scene.child(ids=(1001, 1001))
        init = scene.child(bob, flags=CLONE_NEWPID)
        scene.kernel.setsid(init)
        scene.child(init)
        mixed = scene.child(alice)
        mixed.ids = (1001, 1001)
        scene.watch.sweep()
        self.lasting = set(scene.kernel.threads)
        self.viewers = (ROOT, scene.viewer(alice), scene.viewer(bob), scene.viewer(init, 5), scene.viewer(mixed))

    def stir(self, chance: random.Random) -> None:
        """Let a process be born, change, or die."""
        kernel = self.scene.kernel
        thread = chance.choice(list(kernel.threads))
        match chance.randrange(4):
            case 0 | 1 if len(kernel.threads) < 20 and not thread.exiting:
                kernel.fork(thread)
            case 2 if not thread.exiting:
                kernel.exec(thread)
            case _ if thread not in self.lasting and not thread.exited:
                kernel.exit(thread)
        for zombie in kernel.zombies():
            if zombie.group.parent is not None:
                kernel.wait(zombie.group.parent, zombie)
        self.scene.watch.tend()
        self.scene.service.feed.settle()


def meant(chance: random.Random) -> bytes:
    """Return requests with the right keys, and mostly with allowed values."""
    messages = []
    for _ in range(chance.choice((1, 1, 1, 1, 1, 2, 3))):
        message: dict[Any, Any] = dict(chance.choice(_TYPICAL))
        for _ in range(chance.randrange(4)):
            key: Any = chance.choice(tuple(_ARGUMENTS))
            message[key] = chance.choice(_ARGUMENTS[key]) if chance.random() < 0.7 else chance.choice(_WORDS)
        if chance.random() < 0.1:
            message.pop(chance.choice(tuple(message)))
        if chance.random() < 0.05:
            message[chance.choice((b"verb", "later", ""))] = chance.choice(_WORDS)
        messages.append(codec.encode(message))
    return b"".join(messages)


def mutated(data: bytes, chance: random.Random) -> bytes:
    """Return the bytes with a few bytes or stretches changed; half of the time the lengths are corrected."""
    out = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(out) + 1)
        match chance.randrange(6):
            case 0 | 1:
                out[at : at + 1] = bytes([chance.choice((chance.randrange(256), 0xC1, 0xDF, 0xDD, 0xC6, 0x80, 0x9F))])
            case 2:
                del out[at : at + chance.randrange(1, 20)]
            case 3:
                start = chance.randrange(len(out) + 1)
                out[at:at] = out[start : start + chance.randrange(1, 60)]
            case 4:
                out[at:at] = b"\x91" * chance.choice((1, 30, 600, 1500))
            case _:
                out[at : at + 4] = chance.choice((0, 1, 1 << 16, (1 << 16) + 1, 1 << 31, 0xFFFFFFFF)).to_bytes(4, "big")
    if chance.random() < 0.5 and len(out) > 4:
        out[:4] = (len(out) - 4).to_bytes(4, "big")
    return bytes(out[:LONGEST_BYTES])


class FaultError(Exception):
    """A fault of the service."""


def one(host: Host, viewer: Viewer, data: bytes, chance: random.Random) -> Counter[str]:
    """Run one client, from its first byte to its end; count its answers by kind."""
    service, talk = host.scene.service, Conversation(viewer, 0.0)
    heard = codec.Decoder(codec.MAX_ANSWER)
    found = Counter[str]()
    at = stirred = 0
    try:
        for _ in range(_TURNS):
            if talk.wants_to_read:
                if at >= len(data):
                    talk.hang_up()
                else:
                    size = chance.choice((1 << 16, 1 << 16, 7))
                    talk.receive(data[at : at + size], 0.0)
                    at += size
            if talk.ready:
                if talk.subscribed:
                    talk.tell(host.scene.watch.stream.next, 0.0)
                elif (request := talk.next_request(0.0)) is not None:
                    talk.reply(service.packed(request, talk.asker), 0.0)
            while chunks := talk.next_chunks():
                heard.push(b"".join(chunks))
                talk.sent(sum(map(len, chunks)), 0.0)
            while (answer := heard.pop()) is not None:
                found[_judged(viewer, answer)] += 1
            if talk.over:
                break
            if talk.subscribed and stirred < _STIRS:
                stirred += 1
                host.stir(chance)
    finally:
        service.forget(talk.asker)
    if service.feed.subscribers or talk.unsent_bytes or heard.waiting:
        raise FaultError("the client has left a subscription, unsent bytes or half an answer behind")
    return found


def _judged(viewer: Viewer, answer: codec.Message) -> str:
    if "events" in answer:
        for event in answer["events"]:
            if "uid" in event and not viewer.sees(event["uid"], event["gid"]):
                raise FaultError(f"an event of another's: {event}")
        return "events"
    if not answer["ok"]:
        if answer["kind"] not in _KINDS_OF_ERROR or answer["error"].startswith("internal error"):
            raise FaultError(f"no error of ours: {answer}")
        return str(answer["kind"])
    image = answer.get("data") or answer.get("snapshot")
    if image and not viewer.privileged:
        for task in registry.load(image).tasks:
            if not viewer.sees(task.uid if task.uid is not None else -1, task.gid if task.gid is not None else -1):
                raise FaultError("a task of another's in a snapshot")
    return "ok"


def run(runs: int, seconds: float, seed: int) -> Counter[str]:
    """Run clients until the given number or time is reached; return their answers, counted by kind."""
    chance = random.Random(seed)
    begin = told = time.monotonic()
    found = Counter[str]()
    host, whole = Host(), [b""]
    for done in range(runs):
        if done % _AGE == 0:
            now = time.monotonic()
            if now - begin >= seconds:
                break
            if now - told >= TELLING_S:
                told = now
                print(f"{done} clients of {runs}, {done / (now - begin):.0f} a second", file=sys.stderr, flush=True)
            host = Host()
            whole = [meant(chance) for _ in range(100)]
        kind = chance.random()
        data = meant(chance) if kind < 0.25 else mutated(chance.choice(whole), chance)
        viewer = chance.choice(host.viewers)
        try:
            found += one(host, viewer, data, chance)
        except Exception:
            print(f"seed {seed}, client {done}, {viewer}:\n{data.hex()}", file=sys.stderr)
            raise
        found["clients"] += 1
    return found


def _option(arguments: list[str], name: str, default: int) -> int:
    found = [int(each.partition("=")[2]) for each in arguments if each.startswith(f"-{name}=")]
    return found[-1] if found else default


def main(arguments: list[str]) -> None:
    """Run, and print the counts of the answers."""
    seconds = _option(arguments, "max_total_time", 0) or float("inf")
    found = run(_option(arguments, "runs", 100_000), seconds, _option(arguments, "seed", 2011))
    print(f"{found.pop('clients', 0)} clients without a fault; answers: {dict(found.most_common())}")


if __name__ == "__main__":
    main(sys.argv[1:])
