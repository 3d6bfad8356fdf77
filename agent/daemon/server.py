# SPDX-License-Identifier: Apache-2.0
"""The daemon's side of its socket: connections, the credentials of each client, and the bounds.

No call waits: every socket is non-blocking. The loop (agent.daemon.main) calls when a socket is ready, and calls `tend`
in each turn, at least once a second. agent.daemon.conversation has the bytes of a connection, agent.daemon.service the
answers.
"""

import contextlib
import selectors
import socket
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

from agent.access import Policy, Viewer
from agent.capture.watch import Watch
from agent.daemon.conversation import READ_BYTES, Conversation
from agent.daemon.endpoint import PeerProcess, credentials
from agent.daemon.enquiries import Awaiting, Enquiries, is_of_past
from agent.daemon.fairness import FairShares
from agent.daemon.journal import Journal
from agent.daemon.listeners import Acceptor, Listener
from agent.daemon.peer import Peer
from agent.daemon.service import Service
from agent.daemon.worker import Worker
from agent.errors import BusyError, CkptreeError
from agent.protocol import codec

if TYPE_CHECKING:
    from agent.daemon.asker import Asker

MAX_CLIENTS: Final = 512
MAX_CLIENTS_UNPRIVILEGED: Final = 256  # the rest is for users who may see everything
MAX_CLIENTS_PER_USER: Final = 32  # of users who may not
_TURN_S: Final = 0.005  # for answering requests before the ring has its turn again
_HURRIED_TURN_S: Final = 0.003
_SEND_BYTES: Final = 1 << 18  # to one client in one turn
_EVENT_BYTES: Final = 1 << 17  # the same to a subscriber: all that a storm brings in TELL_S
TELL_S: Final = 0.02  # between two messages to a subscriber: each costs some microseconds, however few events it has
_DEBT_S: Final = 1.0  # a user who has to wait longer for a turn gets no new connection
_TURNED_AWAY: Final = codec.encode(
    codec.failure(BusyError("your processes have had more than their share of the daemon's time: try again later"))
)
_CHECK_S: Final = 1.0  # between two looks for clients that have expired


class Server:
    """The server of requests over the socket.

    Args:
        watch: the source of all answers.
        listeners: they are registered here, and the caller closes them.
        selector: of the caller's loop. The data of each key is a function of the ready file.
        policy: the users who see everything.
        log: takes a line for each snapshot.
        tell_s: time between two messages to a subscriber, s.

    Attributes:
        service: makes the answers.
        worker: runs long jobs. While one runs, the loop must not touch the watch.
    """

    def __init__(
        self,
        watch: Watch,
        listeners: Sequence[Listener],
        selector: selectors.BaseSelector,
        policy: Policy,
        log: Journal,
        tell_s: float = TELL_S,
    ) -> None:
        self.service = Service(watch, log, self._unsent_of)
        self.worker = Worker(selector, self.service.turns.job)
        self._policy = policy
        self._selector = selector
        self._peers: set[Peer] = set()
        self._ready: deque[Peer] = deque()
        self._waiting: list[Peer] = []
        self._shares = FairShares()
        self._enquiries = Enquiries(selector)
        self._gone: list[Asker] = []
        self._next_check = 0.0
        self._tell_s = tell_s
        self._told = 0.0  # when the subscribers had their last turn
        self._held = False  # events may wait for the next one
        self._acceptor = Acceptor(listeners, selector, self._receive)

    # ---- called by the loop ----------------------------------------------------------------------------------------

    def wait_s(self, longest_s: float) -> float:
        """Return the time that the loop may wait, s: until the next turn of a request, and at most `longest_s`."""
        now = time.monotonic()
        longest_s = min(longest_s, self._acceptor.wait_s(longest_s, now))
        if self.worker.busy:
            return max(longest_s, 0.0)
        if self._ready:
            return 0.0
        if self._held:
            longest_s = min(longest_s, max(self._told + self._tell_s - now, 0.0))
        due = min((self._shares.due_s(peer.viewer.account) for peer in self._waiting), default=now + longest_s)
        return max(min(due - now, longest_s), 0.0)

    @property
    def listened_to(self) -> bool:
        """True where a client has subscribed to events."""
        return bool(self.service.feed.subscribers)

    def tend(self, *, hurry: bool = False) -> str:
        """Answer some requests, send events, and close expired connections.

        Args:
            hurry: True where there is other work to do.

        Returns:
            The verb that was answered last.
        """
        verb = "clients"
        self._acceptor.wake(time.monotonic())
        self._enquiries.tend()
        if not self.worker.busy:
            self._forget()
            self.service.feed.end_roots()
            self._tell_all()
            verb = self._answer_some(_HURRIED_TURN_S if hurry else _TURN_S)
        now = time.monotonic()
        if now >= self._next_check:
            self._next_check = now + _CHECK_S
            for peer in [peer for peer in self._peers if peer.talk.deadline_s <= now]:
                self.service.clients.expired[peer.talk.expiry] += 1
                self._drop(peer)
        return verb

    def _tell_all(self) -> None:
        """Give each subscriber with waiting events a turn, if the time for it has come."""
        now = time.monotonic()
        self._held = self.listened_to and now - self._told < self._tell_s
        if self.listened_to and not self._held:
            self._told = now
            for peer in tuple(self._peers):
                peer.due = peer.talk.subscribed and peer.talk.ready
                self._queue(peer)

    def _answer_some(self, turn_s: float) -> str:
        """Answer requests for some time, one at least; each client has one turn before any has two."""
        verb = "clients"
        begin = time.monotonic()
        waiting, self._waiting = self._waiting, []
        self._ready.extend(waiting)
        for turn in range(len(self._ready)):
            now = time.monotonic()
            if (turn and now - begin > turn_s) or self.worker.busy:
                break
            peer = self._ready.popleft()
            if peer not in self._peers:
                continue
            if self._in_debt(peer, now):
                self._waiting.append(peer)
                continue
            peer.queued = False
            if peer.talk.subscribed:
                verb = "events"
                self._tell(peer, now)
                continue
            with self._charged(peer.viewer):
                request = peer.talk.next_request(now)
                if request is None:
                    self._attend(peer)
            if request is not None:
                verb = self._answer(peer, request)
        return verb

    def _in_debt(self, peer: Peer, now: float | None = None) -> bool:
        """Return True if a client has to wait, for its user has had more than a share of the daemon's time."""
        shares, viewer = self._shares, peer.viewer
        return not viewer.privileged and shares.due_s(viewer.account) > (time.monotonic() if now is None else now)

    def _tell(self, peer: Peer, now: float) -> None:
        """Send a subscriber what is unsent, and its events if they are due, or wait for it alone."""
        talk, is_due = peer.talk, peer.due or not self._held
        peer.due = False
        if talk.has_more or (talk.ready and is_due):
            try:
                self.service.clients.sent_bytes += peer.tell(self.service.watch.stream.next, now)
            except OSError:
                self._drop(peer)
                return
        if talk.unsent_bytes or talk.closing or peer.events != selectors.EVENT_READ:
            self._attend(peer)
        if not peer.viewer.privileged:
            end = time.monotonic()
            self._shares.spend(peer.viewer.account, end - now, end)

    @contextlib.contextmanager
    def _charged(self, viewer: Viewer) -> Iterator[None]:
        """Charge the time of the block to its user: of connecting, of decoding or refusing a request, of events."""
        begin = time.monotonic()
        try:
            yield
        finally:
            now = time.monotonic()
            if not viewer.privileged:
                self._shares.spend(viewer.account, now - begin, now)

    def _answer(self, peer: Peer, request: codec.Message) -> str:
        verb = codec.verb(request)
        begin = time.monotonic()
        asker = peer.talk.asker
        if is_of_past(request):
            if self.service.is_heavy(request):
                self.worker.start(
                    verb, lambda: self.service.answer(request, asker), lambda found: self._enquire(peer, found, begin)
                )
            else:
                self._enquire(peer, self.service.answer(request, asker), begin)
            return verb

        def work() -> bytes:
            return self.service.packed(request, asker)

        if self.service.is_heavy(request):
            self.worker.start(verb, work, lambda payload: self._reply(peer, payload, begin))
        else:
            self._reply(peer, work(), begin)
        return verb

    def _enquire(self, peer: Peer, found: codec.Message, begin_s: float) -> None:
        """Begin to answer a question about the past; or answer why not."""
        account = peer.viewer.account

        def done(result: str, spent_s: float) -> None:
            if not peer.viewer.privileged:
                self._shares.spend(account, spent_s, time.monotonic())
            self.service.note_enquiry(found, peer.talk.asker, begin_s, result)

        if found["ok"] and peer in self._peers:
            try:
                self._enquiries.begin(found, Awaiting(peer, self._peers, self._attend), peer.viewer, done)
            except CkptreeError as error:
                found = codec.failure(error)
            else:
                return
        self._reply(peer, codec.pack(found), begin_s)

    def _reply(self, peer: Peer, payload: bytes, begin_s: float) -> None:
        now = time.monotonic()
        if not peer.viewer.privileged:
            self._shares.spend(peer.viewer.account, now - begin_s, now)
        if peer in self._peers:
            peer.talk.reply(payload, now)
            self._attend(peer)
        else:  # the client has closed the connection meanwhile
            self._gone.append(peer.talk.asker)

    def _forget(self) -> None:
        """End the subscriptions of clients that are gone; not while a job runs, which may tell them events."""
        while self._gone:
            self.service.forget(self._gone.pop())

    # ---- connections -----------------------------------------------------------------------------------------------

    def let_in(self) -> None:
        """Accept connections of the public socket; called last in a turn, after `tend`."""
        self._acceptor.accept_public()

    def _receive(self, connection: socket.socket, now_s: float) -> None:
        try:
            viewer = self._policy.viewer(*credentials(connection))
        except OSError:
            connection.close()
            return
        if not viewer.privileged and self._shares.due_s(viewer.account) > now_s + _DEBT_S:
            self._turn_away(connection, viewer, now_s)
        else:
            with self._charged(viewer):
                self._let_in(connection, viewer)

    def _turn_away(self, connection: socket.socket, viewer: Viewer, begin_s: float) -> None:
        """Close a connection of a user in debt, as cheaply as possible, for thousands may wait."""
        self.service.clients.turned_away["share"] += 1
        with contextlib.suppress(OSError):
            connection.send(_TURNED_AWAY)
        connection.close()
        now = time.monotonic()
        self._shares.spend(viewer.account, now - begin_s, now)

    def _let_in(self, connection: socket.socket, viewer: Viewer) -> None:
        connection.setblocking(False)
        try:
            self._admit(viewer)
            process = PeerProcess(viewer.pid, connection)
            self._welcome(Peer(connection, Conversation(viewer, time.monotonic(), process), self._serve))
        except (BusyError, OSError) as error:
            if isinstance(error, BusyError):
                with contextlib.suppress(OSError):
                    connection.send(codec.encode(codec.failure(error)))
            connection.close()

    def _admit(self, viewer: Viewer) -> None:
        """Refuse a client beyond the bounds.

        Raises:
            BusyError: a bound is reached.
        """
        turned_away = self.service.clients.turned_away
        if len(self._peers) >= MAX_CLIENTS:
            turned_away["all"] += 1
            raise BusyError(f"there are {MAX_CLIENTS} clients already, which is the most")
        if viewer.privileged:
            return
        if self._shares.due_s(viewer.account) > time.monotonic() + _DEBT_S:
            turned_away["share"] += 1
            raise BusyError(
                f"user {viewer.account} has had more than a fair share of the daemon's time: try again later"
            )
        others = Counter(peer.viewer.account for peer in self._peers if not peer.viewer.privileged)
        if others.total() >= MAX_CLIENTS_UNPRIVILEGED:
            turned_away["unprivileged"] += 1
            raise BusyError(
                f"there are {MAX_CLIENTS_UNPRIVILEGED} clients of ordinary users already, which is the most"
            )
        if others[viewer.account] >= MAX_CLIENTS_PER_USER:
            turned_away["user"] += 1
            raise BusyError(f"user {viewer.account} has {MAX_CLIENTS_PER_USER} clients here already, which is the most")

    def _welcome(self, peer: Peer) -> None:
        self._peers.add(peer)
        clients = self.service.clients
        clients.accepted += 1
        clients.connected = len(self._peers)
        clients.most_connected = max(clients.most_connected, clients.connected)
        self._attend(peer)

    def _drop(self, peer: Peer) -> None:
        if peer.events:
            self._selector.unregister(peer.connection)
            peer.events = 0
        peer.connection.close()
        self._peers.discard(peer)
        self._gone.append(peer.talk.asker)
        self.service.clients.connected = len(self._peers)

    def _unsent_of(self, account: int) -> int:
        return sum(peer.talk.unsent_bytes for peer in tuple(self._peers) if peer.viewer.account == account)

    # ---- bytes -----------------------------------------------------------------------------------------------------

    def _serve(self, peer: Peer) -> None:
        """Read from or write to a client whose socket is ready."""
        with self._charged(peer.viewer):
            self._read_and_write(peer)

    def _read_and_write(self, peer: Peer) -> None:
        talk = peer.talk
        if peer.events and not talk.wants_to_read and not talk.unsent_bytes:  # ready all the same: see Peer.register()
            self._selector.unregister(peer.connection)
            peer.events = 0
        if talk.wants_to_read:
            try:
                data = peer.connection.recv(READ_BYTES)
            except BlockingIOError:
                pass
            except OSError:
                self._drop(peer)
                return
            else:
                if data:
                    talk.receive(data, time.monotonic())
                else:
                    talk.hang_up()
        # With unsent bytes its socket would stay ready, for as long as its user's debt keeps it from being told.
        blocks = talk.unsent_bytes and self._in_debt(peer)
        if talk.subscribed and not talk.closing and not self.worker.busy and not blocks:
            self._queue(peer, always=True)  # so that the bound of a turn holds for all that can be sent to
        else:
            self._attend(peer)

    def _attend(self, peer: Peer) -> None:
        """Send as much as the socket takes, then queue the client's next request or close the connection."""
        talk = peer.talk
        try:
            self.service.clients.sent_bytes += peer.send(_EVENT_BYTES if talk.subscribed else _SEND_BYTES)
        except OSError:
            self._drop(peer)
            return
        if talk.over:
            self._drop(peer)
            return
        if not talk.subscribed or talk.has_more:
            self._queue(peer)
        peer.register(self._selector)

    def _queue(self, peer: Peer, *, always: bool = False) -> None:
        if (always or peer.talk.ready) and not peer.queued:
            peer.queued = True
            self._ready.append(peer)
