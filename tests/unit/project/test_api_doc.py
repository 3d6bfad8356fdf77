# SPDX-License-Identifier: Apache-2.0
"""The agreement of docs/protocol.md with the daemon."""

import re
from pathlib import Path
from typing import get_args

import pytest

from agent import environment
from agent.cli import diffverb
from agent.daemon import conversation, enquiries, quota, server
from agent.daemon.fairness import SHARE
from agent.events.subscriber import BACKLOG_BYTES, KINDS
from agent.protocol import client, codec
from exporters.comparing import comparison
from tests.support.simwatch import ROOT, Scene

TOP = Path(__file__).parents[3]
TEXT = (TOP / "docs" / "protocol.md").read_text()
PROSE = re.sub(r"^```.*?^```$", "", TEXT, flags=re.MULTILINE | re.DOTALL)
WORDS = {word for quoted in re.findall(r"`([^`]+)`", PROSE) for word in re.findall(r"[\w-]+", quoted)}


@pytest.mark.parametrize("verb", [verb for verb in codec.VERBS if verb not in ("events", "history")])
def test_every_key_of_every_answer_is_told_of(verb: str) -> None:
    """The keys of status are for people, and the page describes them as a whole."""
    scene = Scene()
    answer = scene.ask(ROOT, verb, root="1")
    keys = set(answer) - {"ok"}
    if verb == "status":
        keys = {"hooks", "tried", "missing"}
    for key in ("ring", "table", "clients", "loop", "events", "lost", "sweeps") if verb == "metrics" else ():
        keys |= set(answer[key])

    assert answer["ok"]
    assert not keys - WORDS


def test_every_kind_of_error_and_of_event_is_told_of() -> None:
    """So are the bytes that a request may have."""
    told = set(re.findall(r"^\| `([\w-]+)`", TEXT, re.MULTILINE))

    assert {name for _, name in codec._KINDS} - {"no-daemon"} <= told
    assert {*KINDS, "loss", "resync", "dropped", "hidden", "end"} - told == {"setpgid"}  # shares a row
    assert "setpgid" in WORDS
    assert f"at most {codec.MAX_REQUEST} bytes" in TEXT
    assert f'"protocols": {list(codec.PROTOCOLS)}' in TEXT


def test_the_bounds_are_those_in_force() -> None:
    """The page has the number of each."""
    lines = dict(re.findall(r"^\| ([^|`]+) \| ([^|]+) \|$", TEXT, re.MULTILINE))
    mib = 1 << 20

    assert lines["clients"] == (
        f"{server.MAX_CLIENTS}; {server.MAX_CLIENTS_UNPRIVILEGED} of them of ordinary users, "
        f"{server.MAX_CLIENTS_PER_USER} of each"
    )
    assert lines["half a request"].startswith(f"{conversation.REQUEST_S:g} s")
    assert lines["nothing asked"] == f"{conversation.IDLE_S:g} s"
    assert lines["an answer, or events, of which nothing is fetched"] == f"{conversation.STALL_S:g} s"
    assert lines["answers that a user's clients have not fetched"].startswith(
        f"{quota.MAX_UNSENT // mib} MiB, then `busy`; {quota.MAX_UNSENT_PRIVILEGED // mib} MiB"
    )
    assert lines["subscriptions"] == (
        f"{quota.MAX_SUBSCRIPTIONS}; {quota.MAX_SUBSCRIPTIONS_UNPRIVILEGED} of them of ordinary users, "
        f"{quota.MAX_SUBSCRIPTIONS_PER_USER} of each"
    )
    assert lines["events that a subscriber has not fetched"].startswith(f"{BACKLOG_BYTES // mib} MiB")
    assert lines["questions about the past at a time"] == (
        f"{enquiries.MOST}; {enquiries.MOST - 1} of them of ordinary users, {enquiries.MOST_PER_USER} of each"
    )
    assert SHARE == 0.1
    assert lines["the daemon's time for one ordinary user"].startswith("a tenth of a CPU")


def test_the_socket_that_is_meant_is_told_of() -> None:
    """A client may be started for a daemon on another socket."""
    assert f"`{environment.SOCKET_VARIABLE}`" in TEXT
    assert str(client.DEFAULT_SOCKET) in TEXT


@pytest.mark.parametrize("where", ["docs/protocol.md", "docs/images.md", "diff --help"])
def test_what_equal_means_is_told_with_all_that_is_compared(where: str) -> None:
    """This holds at each place where a reader may look."""
    page = TOP / where
    text = page.read_text() if page.exists() else f"{diffverb.diff.__doc__}".replace("Equal", "*equal*")
    definition = re.search(r"\*equal\*.*?are no part of it", text, re.IGNORECASE | re.DOTALL)
    words = " ".join(definition[0].split()) if definition is not None else ""

    for fact in (*get_args(comparison.Place), *get_args(comparison.Condition)):
        assert {"parent": "same tree", "group": "process group"}.get(fact, fact) in words
