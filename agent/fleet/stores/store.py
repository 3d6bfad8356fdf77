# SPDX-License-Identifier: Apache-2.0
"""The operations of a store of objects, and their errors.

An object is there whole or not at all, for every reader at every moment. Its SHA-256 is kept with it, and checked at
each reading.
"""

import hashlib
from abc import ABC, abstractmethod
from types import TracebackType
from typing import Final, Protocol, Self

from agent import bounded
from agent.errors import CkptreeError, FormatError
from agent.record import NamedTuple

MOST_BYTES: Final = 256 << 20
"""Bound of an object that is read, where the caller names no other."""


class StoreError(CkptreeError):
    """A store that does not do what it is asked for (exit code 1): unreachable, full, forbidden, no such bucket."""


class MissingError(StoreError):
    """An object that is not in its store (exit code 1)."""


class ExistsError(StoreError):
    """An object of that name that is in the store already, where only a new one may be written (exit code 1)."""


class Stored(NamedTuple):
    """An object as its store knows it before it is read.

    Attributes:
        size: bytes.
        sha256: in hexadecimal digits; None: the object was put there by another program, without a hash.
    """

    size: int
    sha256: str | None


class ObjectStore(Protocol):
    """A store: one bucket, or one repository of a registry. It is a context manager, which closes it.

    Attributes:
        address: of the store, as messages name it: ``nats://BUCKET``.
    """

    address: str

    def head(self, name: str) -> Stored | None:
        """Return size and hash of an object; None where there is none.

        Raises:
            StoreError: the store does not answer, or has no such bucket.
        """

    def get(self, name: str, most: int = MOST_BYTES) -> bytes:
        """Read an object.

        Args:
            name: of the object.
            most: bound of its size, bytes. Nothing is read of an object that the store says is larger.

        Raises:
            MissingError: there is none.
            FormatError: it is larger than the bound, truncated, or its bytes have another hash than was kept with them.
            StoreError: the store does not answer.
        """

    def put(self, name: str, data: bytes) -> None:
        """Write an object, in place of one that has the name; a reader meets the old one or the new one.

        Raises:
            StoreError: it is not written: the old one, if any, is still there.
        """

    def create(self, name: str, data: bytes) -> None:
        """Write an object that is not there. Of several writers at once one wins.

        Raises:
            ExistsError: there is one already; it stays as it is.
            StoreError: it is not written, or the store has no such operation (an OCI registry).
        """

    def close(self) -> None:
        """Close connections."""

    def __enter__(self) -> Self:
        """Return the store itself."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the store."""


class Closing(ABC):
    """The base of stores: a context manager that closes them."""

    @abstractmethod
    def close(self) -> None:
        """Close connections."""

    def __enter__(self) -> Self:
        """Return the store itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the store."""
        self.close()


def sha256(data: bytes) -> str:
    """Return the hash that stores keep of an object, in hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def bound(where: str, size: int, most: int) -> None:
    """Refuse an object of more bytes than the bound.

    Raises:
        FormatError: it has more.
    """
    if size > most:
        raise FormatError(where, bounded.said(most))


def verified(where: str, data: bytes, head: Stored) -> bytes:
    """Return the bytes of an object whose size and hash are those that its store kept.

    Raises:
        FormatError: they are others.
    """
    if len(data) != head.size:
        raise FormatError(where, f"{len(data)} bytes came of {head.size} that were stored: it is truncated, or changed")
    if head.sha256 is not None and (found := sha256(data)) != head.sha256:
        raise FormatError(where, f"its SHA-256 is {found}, and {head.sha256} was stored with it: it has been changed")
    return data
