# SPDX-License-Identifier: Apache-2.0
"""Buckets of NATS' object store, as its other clients read and write them.

Theory
------
An object is its chunks, on a subject of their own, and one message that describes it (name, size, SHA-256, chunks). The
description is published last, and takes the place of the one before: so a reader meets the old object or the new one.
Only then are the old chunks removed. A writer that ends half way leaves chunks that no description names.

The library's `put` always replaces. `create` gives the server the sequence number of the last description that it may
replace: none, or that of a deletion. The server compares and writes in one step.
"""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, TypeVar

from agent import foreignjson
from agent.errors import FormatError
from agent.fleet import natsserver
from agent.fleet.stores.store import (
    MOST_BYTES,
    Closing,
    ExistsError,
    MissingError,
    Stored,
    StoreError,
    bound,
    sha256,
    verified,
)
from agent.record import NamedTuple

if TYPE_CHECKING:
    from nats.aio.client import Client

_CHUNK: Final = 128 << 10  # as the library's
_REQUEST_S: Final = 10.0
_DIGEST: Final = "SHA-256="
# err_code of JetStream's errors
_NO_MESSAGE, _WRONG_SEQUENCE = 10037, 10071
_NO_JETSTREAM: Final = (10039, 10076, None)
_READS: Final = 10  # of an object that another writer replaces meanwhile

Answer = TypeVar("Answer")


class _Description(NamedTuple):
    """The description of an object, and its sequence number in the stream.

    Attributes:
        sequence: 0 where there is no description.
        facts: of the object; empty where there is none, or it is deleted.
    """

    sequence: int
    facts: dict[str, Any]


class NatsObjects:
    """The objects of a bucket, for a program with an event loop and a connection of its own.

    Its methods do what those of `store.ObjectStore` do, as coroutines.

    Args:
        client: a connection, from `natsserver.connected`.
        bucket: its name.
    """

    def __init__(self, client: "Client", bucket: str) -> None:
        self.address = f"nats://{bucket}"
        self._client = client
        self._bucket = bucket
        self._stream = f"OBJ_{bucket}"
        self._streams = client.jetstream(timeout=_REQUEST_S)

    async def make_bucket(self) -> None:
        """Make the bucket, if it is not there.

        Raises:
            StoreError: it cannot be made.
        """
        async with self._answered(""):
            await self._streams.create_object_store(self._bucket)

    async def head(self, name: str) -> Stored | None:
        """Return size and hash of an object; None where there is none."""
        facts = (await self._description(name)).facts
        return _stored(facts) if facts else None

    async def get(self, name: str, most: int = MOST_BYTES) -> bytes:
        """Read an object; of one that is replaced meanwhile, the new one."""
        where = f"{self.address}/{name}"
        facts = (await self._description(name)).facts
        for _ in range(_READS):
            if not facts:
                raise MissingError(f"there is no object {where}")
            head = _stored(facts)
            bound(where, head.size, most)
            try:
                return verified(where, await self._chunks(name, facts, head.size), head)
            except FormatError:
                read = facts
                facts = (await self._description(name)).facts
                if facts.get("nuid") == read.get("nuid"):
                    raise
        raise StoreError(f"{where} was replaced {_READS} times while it was read: read it again")

    async def put(self, name: str, data: bytes) -> None:
        """Write an object, in place of one that has the name."""
        old = await self._description(name)
        await self._write(name, data, None)
        if old.facts.get("nuid"):
            await self._forget(self._subject("C", old.facts["nuid"]))

    async def create(self, name: str, data: bytes) -> None:
        """Write an object that is not there."""
        old = await self._description(name)
        if old.facts:
            raise ExistsError(f"{self.address}/{name} is there already")
        await self._write(name, data, old.sequence)

    def _subject(self, kind: str, of: str) -> str:
        return f"$O.{self._bucket}.{kind}.{of}"

    async def _description(self, name: str) -> _Description:
        """Return what the bucket says of an object."""
        from nats.js.errors import NotFoundError

        async with self._answered(name):
            try:
                message = await self._streams.get_last_msg(self._stream, self._subject("M", _encoded(name)))
            except NotFoundError as error:
                if error.err_code != _NO_MESSAGE:
                    raise
                return _Description(0, {})
        try:
            facts: dict[str, Any] = foreignjson.loads(message.data or b"")
            if (facts.get("options") or {}).get("link"):
                raise FormatError(f"{self.address}/{name}", "is a link to another object: name that one")
            if not facts.get("deleted"):
                _stored(facts)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            if isinstance(error, FormatError):
                raise
            raise FormatError(f"{self.address}/{name}", "its description in the bucket cannot be read") from error
        return _Description(message.seq or 0, {} if facts.get("deleted") else facts)

    async def _chunks(self, name: str, facts: dict[str, Any], size: int) -> bytes:
        """Read the chunks of an object, one after the other, until there is none or they are more than its size."""
        from nats.js.errors import NotFoundError

        subject = self._subject("C", facts["nuid"])
        chunks: list[bytes] = []
        left, sequence = size, 0
        async with self._answered(name):
            while left > 0:
                try:
                    message = await self._streams.get_msg(self._stream, sequence + 1, subject=subject, next=True)
                except NotFoundError as error:
                    if error.err_code != _NO_MESSAGE:
                        raise
                    break
                sequence = message.seq or sequence + 1
                chunk = message.data or b""
                chunks.append(chunk)
                left -= len(chunk)
        return b"".join(chunks)

    async def _write(self, name: str, data: bytes, replaces: int | None) -> None:
        """Publish chunks and description.

        Args:
            name: of the object.
            data: its bytes.
            replaces: the sequence number of the description that it may replace, 0 for none; None: of any.
        """
        nuid = self._client._nuid.next().decode()  # noqa: SLF001 - the library has no other way to such a name
        chunk = min(_CHUNK, self._client.max_payload)
        pieces = [data[start : start + chunk] for start in range(0, len(data), chunk)]
        facts = {
            "name": name,
            "bucket": self._bucket,
            "nuid": nuid,
            "size": len(data),
            "mtime": datetime.now(UTC).isoformat(),
            "chunks": len(pieces),
            "digest": _DIGEST + base64.urlsafe_b64encode(bytes.fromhex(sha256(data))).decode(),
            "options": {"max_chunk_size": chunk},
        }
        headers = {"Nats-Rollup": "sub"}
        if replaces is not None:
            headers["Nats-Expected-Last-Subject-Sequence"] = str(replaces)
        done = False
        try:
            async with self._answered(name):
                for piece in pieces:
                    await self._streams.publish(self._subject("C", nuid), piece)
                await self._streams.publish(
                    self._subject("M", _encoded(name)), json.dumps(facts).encode(), headers=headers
                )
            done = True
        finally:
            if not done and self._client.is_connected:
                await self._forget(self._subject("C", nuid))

    async def _forget(self, subject: str) -> None:
        """Remove chunks that no description names, where this user may; what remains of them takes room alone."""
        import nats.errors

        try:
            await self._streams.purge_stream(self._stream, subject=subject)
        except nats.errors.Error:
            return

    @asynccontextmanager
    async def _answered(self, name: str) -> AsyncIterator[None]:
        """Translate the errors of the library."""
        import nats.errors
        from nats.js import errors

        where = f"{self.address}/{name}" if name else self.address
        try:
            yield
        except (errors.NoStreamResponseError, errors.NotFoundError) as error:
            raise StoreError(
                f"there is no bucket {self._bucket} on the NATS server: `nats object add {self._bucket}` makes one"
            ) from error
        except errors.APIError as error:
            if error.err_code == _WRONG_SEQUENCE:
                raise ExistsError(f"{where} is there already: another writer was faster") from error
            if error.err_code in _NO_JETSTREAM:
                raise StoreError(f"{where}: the NATS server has no JetStream, which keeps objects") from error
            raise StoreError(f"{where}: the NATS server refused: {error.description or error}") from error
        except nats.errors.NoRespondersError as error:
            raise StoreError(f"{where}: the NATS server has no JetStream, which keeps objects") from error
        except nats.errors.TimeoutError as error:
            why = "" if self._client.is_connected else ": the connection to it is lost"
            raise StoreError(f"{where}: no answer of the NATS server within {_REQUEST_S:g} s{why}") from error
        except nats.errors.ConnectionClosedError as error:
            raise StoreError(f"{where}: the connection to the NATS server is lost") from error
        except (nats.errors.Error, OSError) as error:
            raise StoreError(f"{where}: {str(error).removeprefix('nats: ') or type(error).__name__}") from error


def _encoded(name: str) -> str:
    return base64.urlsafe_b64encode(name.encode()).decode()


def _stored(facts: dict[str, Any]) -> Stored:
    """Read size and hash in a description."""
    digest = str(facts.get("digest") or "")
    found = base64.urlsafe_b64decode(digest[len(_DIGEST) :]).hex() if digest.upper().startswith(_DIGEST) else None
    str(facts["nuid"])
    return Stored(int(facts["size"]), found)


class NatsStore(Closing):
    """A bucket as an `ObjectStore`: a connection of its own, for a program without an event loop.

    Args:
        server: addresses, from `natsserver.server_of`.
        bucket: its name.
    """

    def __init__(self, server: str, bucket: str) -> None:
        self.address = f"nats://{bucket}"
        self._loop = asyncio.Runner()
        self._lost = asyncio.Event()
        self._why_lost = "the connection to the NATS server is lost"
        try:
            connecting = natsserver.connected(server, on_lost=self._lost.set, on_refused=self._refused)
            self._client = self._loop.run(connecting)
        except BaseException:
            self._loop.close()
            raise
        self._objects = NatsObjects(self._client, bucket)

    def _refused(self) -> None:
        self._why_lost = natsserver.OTHER_INBOX
        self._lost.set()

    def make_bucket(self) -> None:
        """Make the bucket, if it is not there."""
        self._run(self._objects.make_bucket())

    def head(self, name: str) -> Stored | None:
        """Return size and hash of an object; None where there is none."""
        return self._run(self._objects.head(name))

    def get(self, name: str, most: int = MOST_BYTES) -> bytes:
        """Read an object."""
        return self._run(self._objects.get(name, most))

    def put(self, name: str, data: bytes) -> None:
        """Write an object, in place of one that has the name."""
        self._run(self._objects.put(name, data))

    def create(self, name: str, data: bytes) -> None:
        """Write an object that is not there."""
        self._run(self._objects.create(name, data))

    def close(self) -> None:
        """Close the connection."""
        try:
            self._loop.run(natsserver.close(self._client))
        finally:
            self._loop.close()

    def _run(self, call: Coroutine[Any, Any, Answer]) -> Answer:
        """Wait for the answer to a call, but no longer than the connection stands."""
        return self._loop.run(self._unless_lost(call))

    async def _unless_lost(self, call: Coroutine[Any, Any, Answer]) -> Answer:
        answer = asyncio.ensure_future(call)
        lost = asyncio.ensure_future(self._lost.wait())
        try:
            await asyncio.wait((answer, lost), return_when=asyncio.FIRST_COMPLETED)
            if answer.done():
                return answer.result()
            raise StoreError(f"{self.address}: {self._why_lost}")
        finally:
            for each in (answer, lost):
                each.cancel()
            await asyncio.gather(answer, lost, return_exceptions=True)
