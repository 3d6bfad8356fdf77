# SPDX-License-Identifier: Apache-2.0
"""The sources of trees: what each hands over."""

import os
import select
import subprocess
import sys
from dataclasses import replace

import pytest

from agent.cli import sources
from agent.model import Dialect, Snapshot
from agent.proc import proctable
from agent.protocol.client import Answer
from exporters import registry
from tests.support.builders import a_family


def taken_here(monkeypatch: pytest.MonkeyPatch, snapshot: Snapshot, options: "sources.Options") -> sources.Taken:
    """Return what the source /proc hands over where it finds this snapshot."""
    monkeypatch.setattr(proctable, "snapshot", lambda *_, **__: snapshot)
    with sources.opened("procfs") as where:
        assert where.client is None
        return where.snapshot("1", **options)


def test_a_snapshot_of_this_process_is_handed_over_and_neither_packed_nor_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Packing and reading a tree takes longer than taking it."""
    for name in ("image", "load"):
        monkeypatch.setattr(registry, name, lambda *_: pytest.fail("it was packed or read"))
    family = a_family()
    taken = taken_here(monkeypatch, family, {})

    assert taken.load() == family
    assert taken.load().tasks is family.tasks


@pytest.mark.parametrize("fmt", registry.LOSSLESS)
@pytest.mark.parametrize("dialect", ["seed", "v23"])
def test_its_bytes_are_read_as_what_was_handed_over(
    monkeypatch: pytest.MonkeyPatch, fmt: str, dialect: Dialect
) -> None:
    """The reader of the file has the snapshot that the verb has judged."""
    family = a_family()
    taken = taken_here(monkeypatch, family, {"fmt": fmt, "dialect": dialect})

    assert taken.image() == registry.image(family, fmt, dialect)
    assert registry.load(taken.image()) == taken.load() == replace(family, dialect=dialect)


def test_the_answer_of_a_daemon_is_read_when_it_is_asked_for() -> None:
    """Its bytes are written as they came, so a verb that writes them need not read them."""
    answer = Answer(b"?", True, "sweep", ("r",), ("s",), ("e",), 1, 5, workers=2)
    taken = sources.received(answer)

    assert taken.image() is answer.data
    assert (taken.reasons, taken.squashed, taken.entered, taken.workers, taken.elapsed_ns) == (
        ("r",),
        ("s",),
        ("e",),
        2,
        5,
    )
    assert sources.received(replace(answer, data=registry.image(a_family()))).load() == a_family()


_VERB = """
import os, sys, time
from agent.cli import sources

class Watch:
    def close(self):
        os.write(int(sys.argv[1]), b"closed")

sources._let_go(Watch())
sys.stdin.read()
os.write(int(sys.argv[1]), b"ends ")
"""


def test_the_probes_are_let_go_of_when_the_verb_has_ended() -> None:
    """The one who closes a probe's last descriptor waits for the kernel to detach it: that is to be the child."""
    told, tells = os.pipe()
    verb = subprocess.Popen([sys.executable, "-c", _VERB, str(tells)], stdin=subprocess.PIPE, pass_fds=(tells,))
    os.close(tells)
    assert verb.stdin is not None
    early, _, _ = select.select([told], [], [], 0.2)
    verb.stdin.close()
    assert verb.wait() == 0
    said = b""
    while part := os.read(told, 64):
        said += part
    os.close(told)
    assert (early, said) == ([], b"ends closed")
