# SPDX-License-Identifier: Apache-2.0
"""The service's side of one connection: accepted input, answers, and the reasons to close."""

import pytest

from agent.daemon.conversation import IDLE_S, REQUEST_S, STALL_S, Conversation
from agent.protocol import codec
from tests.support.simwatch import ROOT, Scene


class Talk:
    """A conversation with a scene's service."""

    def __init__(self) -> None:
        self.scene = Scene()
        self.talk = Conversation(ROOT, 0.0)

    def say(self, *messages: codec.Message, at: float = 0.0) -> None:
        """Send whole requests."""
        self.talk.receive(b"".join(map(codec.encode, messages)), at)

    def turn(self, at: float = 0.0) -> None:
        """Run one turn, as the server does."""
        talk = self.talk
        if talk.subscribed:
            talk.tell(self.scene.watch.stream.next, at)
        elif (request := talk.next_request(at)) is not None:
            talk.reply(self.scene.service.packed(request, talk.asker), at)

    def fetch(self, at: float = 0.0) -> list[codec.Message]:
        """Return all bytes that wait to be sent."""
        data = b""
        while chunks := self.talk.next_chunks(7):
            data += b"".join(chunks)
            self.talk.sent(sum(map(len, chunks)), at)
        return codec.Decoder(codec.MAX_ANSWER).feed(data)


def test_a_request_is_answered_when_the_one_before_has_been_fetched() -> None:
    """This holds for several requests in one piece."""
    it = Talk()
    it.say(*[{"verb": "hello"}] * 3)
    for _ in range(3):
        assert it.talk.ready
        assert not it.talk.wants_to_read
        it.turn()
        assert not it.talk.ready
        assert [answer["ok"] for answer in it.fetch()] == [True]
    assert not it.talk.ready
    assert it.talk.wants_to_read


def test_while_a_request_is_being_answered_nothing_else_of_its_client_is() -> None:
    """The answer may take long, in a thread."""
    it = Talk()
    it.say({"verb": "hello"}, {"verb": "status"})
    request = it.talk.next_request(0.0)

    assert request == {"verb": "hello"}
    assert not it.talk.ready
    assert not it.talk.wants_to_read
    assert it.talk.deadline_s == float("inf")
    it.talk.reply(codec.pack({}), 1.0)
    it.fetch()
    assert it.talk.ready


@pytest.mark.parametrize("cut", [1, 4, 10])
def test_half_a_request_expires_and_a_silent_client_later(cut: int) -> None:
    """The time starts with the first byte; another byte now and then does not extend it."""
    it = Talk()
    assert (it.talk.deadline_s, it.talk.expiry) == (IDLE_S, "idle")
    data = codec.encode({"verb": "hello"})
    it.talk.receive(data[:cut], 100.0)
    it.talk.receive(data[cut:-1], 105.0)

    assert (it.talk.deadline_s, it.talk.expiry) == (100.0 + REQUEST_S, "half-request")
    it.talk.receive(data[-1:], 106.0)
    assert it.talk.deadline_s == float("inf")
    it.turn(106.0)
    it.fetch(107.0)
    assert (it.talk.deadline_s, it.talk.expiry) == (107.0 + IDLE_S, "idle")


def test_who_does_not_fetch_an_answer_expires_and_who_fetches_slowly_does_not() -> None:
    """A byte in time is enough."""
    it = Talk()
    it.say({"verb": "status"})
    it.turn(50.0)
    assert (it.talk.deadline_s, it.talk.expiry) == (50.0 + STALL_S, "stalled")
    it.talk.sent(1, 70.0)

    assert it.talk.deadline_s == 70.0 + STALL_S


def test_what_is_no_request_is_told_so_and_ends_the_conversation() -> None:
    """Earlier requests are answered."""
    it = Talk()
    it.talk.receive(codec.encode({"verb": "hello"}) + b"GET / HTTP/1.1\r\n\r\n", 0.0)
    it.turn()
    (first,) = it.fetch()
    it.turn()
    assert it.talk.closing
    assert not it.talk.over
    (second,) = it.fetch()

    assert first["ok"]
    assert second["kind"] == "protocol"
    assert it.talk.over


def test_who_hangs_up_its_side_gets_its_answers() -> None:
    """An example is `printf | socat`."""
    it = Talk()
    it.say({"verb": "hello"}, {"verb": "status"})
    it.talk.hang_up()
    for _ in range(2):
        assert not it.talk.over
        it.turn()
        assert it.fetch()
    assert it.talk.over


@pytest.mark.parametrize("begun", [b"", b"\0\0"])
def test_who_hangs_up_without_a_question_is_gone(begun: bytes) -> None:
    """Half a request counts as none."""
    it = Talk()
    it.talk.receive(begun, 0.0)
    it.talk.hang_up()

    assert it.talk.over


def test_a_subscriber_is_told_as_long_as_it_listens() -> None:
    """It may be silent for ever, but must read its events."""
    it = Talk()
    it.say({"verb": "subscribe"})
    it.turn()
    assert it.fetch()[0]["ok"]
    assert not it.talk.ready
    assert it.talk.wants_to_read
    assert it.talk.deadline_s == float("inf")
    it.scene.child()
    it.scene.watch.tend()
    assert it.talk.ready
    it.turn(5.0)
    assert it.talk.deadline_s == 5.0 + STALL_S
    (message,) = it.fetch()

    assert [event["event"] for event in message["events"]] == ["birth"]


def test_a_subscriber_that_talks_is_hung_up_on() -> None:
    """Its request would have to wait behind endless events."""
    it = Talk()
    it.say({"verb": "subscribe"})
    it.turn()
    it.fetch()
    it.say({"verb": "status"})
    (message,) = it.fetch()

    assert message["kind"] == "protocol"
    assert it.talk.over


def test_a_subscription_ends_with_its_root() -> None:
    """The last event is sent before."""
    it = Talk()
    root = it.scene.child()
    it.say({"verb": "subscribe", "root": str(root.tid)})
    it.turn()
    it.fetch()
    it.scene.kernel.exit(root)
    it.scene.kernel.wait(it.scene.kernel.init, root)
    it.scene.watch.tend()
    it.scene.service.feed.settle()
    it.turn()
    (message,) = it.fetch()

    assert [event["event"] for event in message["events"]] == ["death", "reap", "end"]
    assert it.talk.over
