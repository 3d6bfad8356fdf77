# SPDX-License-Identifier: Apache-2.0
"""Questions about the past that a daemon has answered, and what its log says of each."""

import os
import selectors
import signal
import time
from pathlib import Path
from typing import Any

import msgpack
import pytest

from agent.access import Viewer
from agent.daemon.enquiries import Enquiries
from tests.support.taped import a_recording

_PATIENCE_S = 60.0
_ROOT = Viewer(0, 0, 0, privileged=True)


class Client:
    """A client that leaves once it has the last message, or at once."""

    unsent_bytes = 0

    def __init__(self, *, waits: bool = True) -> None:
        self.answers: list[dict[str, Any]] = []
        self.is_gone = not waits

    def deliver(self, payload: bytes, *, last: bool) -> None:
        """Take a message of the answer, and leave behind the last one."""
        self.answers.append(msgpack.unpackb(payload))
        self.is_gone |= last


def result_of(question: dict[str, Any], place: Path, client: Client, *, breaks_off: bool = False) -> str:
    """Have a question answered; return the result for the log.

    Args:
        question: the question.
        place: the folder of the recording.
        client: the client.
        breaks_off: True to kill the process that is to answer.
    """
    results: list[str] = []
    with selectors.DefaultSelector() as selector:
        enquiries = Enquiries(selector)
        asked = {"folder": str(place), "question": {"namespace": 0, "boot_id": "", **question}}
        enquiries.begin(asked, client, _ROOT, lambda result, _seconds: results.append(result))  # type: ignore[arg-type]
        if breaks_off:
            os.kill(enquiries._running[0].process, signal.SIGKILL)
        deadline = time.monotonic() + _PATIENCE_S
        while not results and time.monotonic() < deadline:
            for key, _ in selector.select(0.01) if selector.get_map() else []:
                key.data(key.fileobj)
            enquiries.tend()
    return results[0]


@pytest.mark.parametrize(
    ("question", "result"),
    [
        ({"verb": "events"}, "ok"),
        ({"verb": "history", "pid": 1}, "ok"),
        ({"verb": "history", "pid": 4_000_000}, "no-such-root"),
        ({"verb": "snapshot", "root": "1", "at": {"time_ns": 1}}, "no-such-time"),
        ({"verb": "snapshot", "root": "1", "at": 1}, "usage"),
    ],
)
def test_the_log_has_the_result_that_the_client_got(question: dict[str, Any], result: str, tmp_path: Path) -> None:
    """Though the client leaves as soon as it has the answer, before its process has ended."""
    a_recording(tmp_path, 1, runs=1, steps=20, losses=0)
    client = Client()

    assert result_of(question, tmp_path, client) == result
    assert [answer.get("kind", "ok") for answer in client.answers] == [result]


def test_the_log_says_of_a_client_that_left_before_its_answer_that_it_is_gone(tmp_path: Path) -> None:
    """Its process is ended."""
    a_recording(tmp_path, 1, runs=1, steps=20)
    client = Client(waits=False)

    assert result_of({"verb": "events"}, tmp_path, client) == "gone"
    assert client.answers == []


def test_the_log_says_of_a_process_that_broke_off_how_it_ended(tmp_path: Path) -> None:
    """The client gets an error."""
    client = Client()

    assert result_of({"verb": "events"}, tmp_path, client, breaks_off=True) == "code -9"
    assert [answer["error"] for answer in client.answers] == ["no answer: it broke off"]
