# SPDX-License-Identifier: Apache-2.0
"""Buckets of S3, or of a server that speaks its protocol, by the library obstore.

The library takes address and credentials from the environment: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY,
AWS_SESSION_TOKEN, AWS_REGION, AWS_ENDPOINT_URL, or, without a key, from the metadata of the machine. The hash of an
object is metadata of it, and sent with it as a checksum, by which the server refuses what came otherwise. A key appears
when all of its bytes are there; objects above 5 MiB are sent in parts, and what remains of a broken sending no reader
sees.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from agent.errors import CkptreeError
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

if TYPE_CHECKING:
    from obstore.store import S3Store as Bucket

_HASH: Final = "ckptree-sha256"
_CONNECT: Final = timedelta(seconds=5)
_SILENCE: Final = timedelta(seconds=30)
_REQUEST: Final = timedelta(minutes=30)
_CODE: Final = re.compile(r"<Code>([^<]*)</Code>(?:\s*<Message>([^<]*)</Message>)?")


class S3Store(Closing):
    """A bucket as an `ObjectStore`.

    The library has threads: a process that was forked from one that has used it must not use it.

    Args:
        bucket: its name.
    """

    def __init__(self, bucket: str) -> None:
        from obstore.store import S3Store as Library

        self.address = f"s3://{bucket}"
        with self._answered(""):
            self._bucket: Bucket = Library(
                bucket,
                client_options={
                    "allow_http": _endpoint().startswith("http://"),
                    "connect_timeout": _CONNECT,
                    "read_timeout": _SILENCE,
                    "timeout": _REQUEST,
                },
                retry_config={"max_retries": 2, "retry_timeout": _SILENCE},
                checksum_algorithm="SHA256",
            )

    def head(self, name: str) -> Stored | None:
        """Return size and hash of an object; None where there is none."""
        import obstore

        with self._answered(name):
            try:
                return _stored(obstore.get(self._bucket, name, options={"head": True}))
            except FileNotFoundError:
                pass
            try:  # once more, for the answer to a request of the head does not tell whether there is a bucket
                return _stored(obstore.get(self._bucket, name))
            except FileNotFoundError as error:
                if "NoSuchBucket" in str(error):
                    raise
                return None

    def get(self, name: str, most: int = MOST_BYTES) -> bytes:
        """Read an object."""
        import obstore

        where = f"{self.address}/{name}"
        with self._answered(name):
            answer = obstore.get(self._bucket, name)
            stored = _stored(answer)
            bound(where, stored.size, most)
            chunks = []
            left = stored.size
            for chunk in answer.stream():
                chunks.append(bytes(chunk))
                left -= len(chunk)
                if left < 0:
                    break
        return verified(where, b"".join(chunks), stored)

    def put(self, name: str, data: bytes) -> None:
        """Write an object, in place of one that has the name."""
        import obstore

        with self._answered(name):
            obstore.put(self._bucket, name, data, attributes={_HASH: sha256(data)})

    def create(self, name: str, data: bytes) -> None:
        """Write an object that is not there."""
        import obstore

        with self._answered(name):
            obstore.put(self._bucket, name, data, attributes={_HASH: sha256(data)}, mode="create")

    def close(self) -> None:
        """Close nothing: the library's connections end with its object."""

    @contextmanager
    def _answered(self, name: str) -> Iterator[None]:
        """Translate the errors of the library."""
        from obstore import exceptions

        where = f"{self.address}/{name}" if name else self.address
        try:
            yield
        except CkptreeError:  # a FormatError is a ValueError
            raise
        except FileNotFoundError as error:
            if "NoSuchBucket" in str(error):
                raise StoreError(f"{where}: there is no such bucket") from error
            raise MissingError(f"there is no object {where}") from error
        except exceptions.AlreadyExistsError as error:
            raise ExistsError(f"{where} is there already") from error
        except (exceptions.BaseError, OSError, ValueError) as error:
            raise StoreError(f"{where}: {_words(error)}") from error


def _endpoint() -> str:
    """Return the address of the server, as the environment has it; empty: Amazon's."""
    names = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
    return next((value for name in names if (value := os.environ.get(name))), "")


def _stored(answer: Any) -> Stored:
    return Stored(answer.meta["size"], answer.attributes.get(_HASH))


def _words(error: Exception) -> str:
    """Return what the server has said, else what the library says, without its inner state."""
    text = str(error)
    if match := _CODE.search(text):
        return f"the server refused: {match[2] or match[1]}"
    if "Connection refused" in text or "kind: Connect" in text:
        return f"the server {natsserver.shown(_endpoint()) or 'of S3'} cannot be reached"
    if "Missing AccessKeyId" in text or "metadata" in text:
        return "there are no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_SKIP_SIGNATURE=true"
    return text.partition("\n")[0].removeprefix("Generic S3 error: ")
