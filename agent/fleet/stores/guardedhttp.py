# SPDX-License-Identifier: Apache-2.0
"""Sessions of the library requests for a server that is not trusted.

The library follows where the server sends it, without TLS too, and reads any answer to its end where its caller does not
ask for a stream, and that of a redirect always. A guarded session

* asks without TLS nothing but servers on this host, and these only if the session's own server is one;
* reads of an answer that is no stream, or a redirect, a bounded number of bytes, after decompression.
"""

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from agent.fleet.stores.store import StoreError

if TYPE_CHECKING:
    from requests import PreparedRequest, Response, Session

_LOOPBACK: Final = re.compile(r"(localhost|127\.[0-9.]+|\[::1\])(:[0-9]+)?")
_MOST_BYTES: Final = 4 << 20
"""Of an answer that is no stream: an error, a token."""


def is_local(host: str) -> bool:
    """Return True if a server is on this host, and so asked without TLS.

    Args:
        host: with or without a port.
    """
    return _LOOPBACK.fullmatch(host) is not None


def guard(session: "Session", address: str, *, local: bool) -> None:
    """Guard a session.

    Args:
        session: which has asked nothing yet.
        address: of the store, for errors.
        local: the session's own server is on this host.
    """
    from requests.adapters import HTTPAdapter

    class Guarded(HTTPAdapter):
        """An adapter that bounds what is read, and where that is asked for."""

        def send(
            self,
            request: "PreparedRequest",
            stream: bool = False,  # noqa: FBT001, FBT002 - as the library calls it
            timeout: float | tuple[float | None, float | None] | None = None,
            verify: bool | str = True,  # noqa: FBT001, FBT002
            cert: str | tuple[str, str] | None = None,
            proxies: dict[str, str] | None = None,
        ) -> "Response":
            parts = urlsplit(request.url or "")
            if parts.scheme != "https" and not (local and is_local(parts.netloc.rpartition("@")[2])):
                raise StoreError(f"{address}: it leads to {parts.hostname!r} without TLS, which is refused")
            answer = super().send(request, stream, timeout, verify, cert, proxies)
            if not stream or answer.is_redirect:
                answer.raw = _ShortAnswer(answer.raw, address)
            return answer

    for scheme in ("http://", "https://"):
        session.mount(scheme, Guarded())


class _ShortAnswer:
    """An answer of the library below requests, of which a bounded number of bytes is read.

    Args:
        raw: the answer.
        address: of the store.
    """

    def __init__(self, raw: Any, address: str) -> None:
        self._raw = raw
        self._address = address
        self._left = _MOST_BYTES

    def stream(self, amount: int, **options: Any) -> Iterator[bytes]:
        """Yield the bytes in chunks."""
        for chunk in self._raw.stream(min(amount, _MOST_BYTES), **options):
            self._take(len(chunk))
            yield chunk

    def read(self, amount: int | None = None, **options: Any) -> bytes:
        """Return the next bytes, and no more than the bound."""
        asked = self._left + 1 if amount is None else min(amount, self._left + 1)
        data: bytes = self._raw.read(asked, **options)
        self._take(len(data))
        return data

    def _take(self, count: int) -> None:
        self._left -= count
        if self._left < 0:
            self._raw.close()
            raise StoreError(
                f"{self._address}: an answer has more than {_MOST_BYTES >> 20} MiB where a short one was due"
            )

    def __getattr__(self, name: str) -> Any:
        return getattr(self._raw, name)
