# SPDX-License-Identifier: Apache-2.0
"""Connections to a NATS server: its address, and the credentials of this user.

The address is that of the caller, else of the variable CKPTREE_NATS. Credentials are those that NATS' own command line
takes from the environment: NATS_CREDS (file of a user's JWT and key), NATS_NKEY (file of a key), NATS_USER with
NATS_PASSWORD, NATS_TOKEN; for TLS NATS_CA, NATS_CERT and NATS_KEY (files). An address may hold user and password, too.
The variable CKPTREE_NATS_INBOX names the inbox of this user, where the server's permissions give each user one.
"""

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from agent.environment import INBOX_VARIABLE, NATS_VARIABLE
from agent.errors import CkptreeError, HostError, UsageError

if TYPE_CHECKING:
    import ssl

    from nats.aio.client import Client

CONNECT_S: Final = 5.0
"""Longest time in which a connection is made, in seconds."""
_CLOSE_S: Final = 1.0

_SCHEMES: Final = ("nats", "tls", "ws", "wss")


class NatsError(CkptreeError):
    """A NATS server that cannot be reached, or lets this user not in (exit code 1)."""


def server_of(given: str | None, environment: Mapping[str, str] = os.environ, *, named_by: str = "--nats URL") -> str:
    """Return the address of the server, or addresses with commas between them.

    Args:
        given: by an option; None or empty: the variable's.
        environment: of this process.
        named_by: how else than by the variable a user names it, for the error.

    Raises:
        UsageError: there is none, or it is no address.
    """
    found = given or environment.get(NATS_VARIABLE, "")
    if not found:
        raise UsageError(
            f"no NATS server is named: {named_by}, or {NATS_VARIABLE} in the environment, as in nats://HOST:4222"
        )
    for url in found.split(","):
        try:
            parts = urlsplit(url)
            fine = parts.scheme in _SCHEMES and parts.hostname and (parts.port is None or parts.port)
        except ValueError:
            fine = False
        if not fine:
            raise UsageError(
                f"{shown(url)!r} is no address of a NATS server: expected nats://HOST:PORT or tls://HOST:PORT"
            )
    return found


def inbox_of(environment: Mapping[str, str] = os.environ) -> str:
    """Return the beginning of the subjects to which this user has itself answered.

    Raises:
        UsageError: the variable has no inbox.
    """
    from agent.fleet import messages

    try:
        return messages.checked_inbox(environment.get(INBOX_VARIABLE) or messages.INBOX)
    except UsageError as error:
        raise UsageError(f"{INBOX_VARIABLE}: {error}") from None


def misses_inbox(error: Exception) -> bool:
    """Return True if an error says that the server's permissions leave this user another inbox."""
    words = str(error).lower()
    return "permissions violation for subscription" in words and "_inbox" in words


def is_unpublished(error: Exception) -> bool:
    """Return True if an error says that the server's permissions do not let this user publish to a subject."""
    return "permissions violation for publish" in str(error).lower()


OTHER_INBOX: Final = (
    f"the NATS server does not let this user hear answers: {INBOX_VARIABLE} must name the inbox that the permissions "
    "of this user have, as in _INBOX.NAME"
)


def shown(url: str) -> str:
    """Return addresses without the passwords and the queries in them, for messages. They may be those of other servers."""
    return ",".join(_without_password(each) for each in url.split(","))


def _without_password(url: str) -> str:
    scheme, between, rest = url.partition("://")
    return scheme + between + rest.rpartition("@")[2].partition("?")[0]


def credentials(environment: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """Return the options of the library for the credentials in an environment.

    Raises:
        CkptreeError: a file that it names cannot be read.
    """
    options: dict[str, Any] = {}
    for variable, option in (
        ("NATS_CREDS", "user_credentials"),
        ("NATS_NKEY", "nkeys_seed"),
        ("NATS_USER", "user"),
        ("NATS_PASSWORD", "password"),
        ("NATS_TOKEN", "token"),
    ):
        if value := environment.get(variable):
            options[option] = value
            if option in ("user_credentials", "nkeys_seed") and not os.access(value, os.R_OK):
                raise CkptreeError(f"cannot read {value}, which {variable} names")
    return options


def tls(url: str, environment: Mapping[str, str] = os.environ) -> "ssl.SSLContext | None":
    """Return what TLS needs; None where neither the address nor a variable asks for TLS.

    Raises:
        CkptreeError: a file that a variable names cannot be read, or is no certificate or key.
    """
    authority, certificate, key = (environment.get(name) for name in ("NATS_CA", "NATS_CERT", "NATS_KEY"))
    if not (authority or certificate or any(each.startswith(("tls:", "wss:")) for each in url.split(","))):
        return None
    import ssl

    try:
        context = ssl.create_default_context(cafile=authority or None)
        if certificate:
            context.load_cert_chain(certificate, key or None)
    except OSError as error:
        raise CkptreeError(f"NATS_CA, NATS_CERT or NATS_KEY: {error.strerror or error}") from error
    return context


async def connected(
    url: str,
    *,
    stays: bool = False,
    on_lost: Callable[[], None] | None = None,
    on_refused: Callable[[], None] | None = None,
) -> "Client":
    """Connect to a server, with this user's credentials.

    Args:
        url: from `server_of`.
        stays: True: a server that is away is tried again, for ever; False: a request then fails.
        on_lost: called when the connection is lost.
        on_refused: called when the server does not let this user hear answers.

    Raises:
        HostError: the library is not installed.
        NatsError: the server cannot be reached, or lets this user not in.
        CkptreeError: credentials cannot be read.
    """
    try:
        import nats
        import nats.errors
        from nats.aio.client import Client
    except ImportError as error:
        raise HostError(missing(error)) from None
    options, inbox = credentials(), inbox_of()
    if (context := tls(url)) is not None:
        options["tls"] = context
    said: list[Exception] = []

    async def note(error: Exception) -> None:
        said.append(error)
        if misses_inbox(error) and on_refused is not None:
            on_refused()

    async def lost() -> None:
        if on_lost is not None:
            on_lost()

    client = Client()
    try:
        await client.connect(
            url.split(","),
            error_cb=note,
            disconnected_cb=lost,
            connect_timeout=int(CONNECT_S),
            allow_reconnect=stays,
            max_reconnect_attempts=-1 if stays else 1,
            reconnect_time_wait=1 if stays else 0,
            name="ckptree",
            inbox_prefix=inbox,
            **options,
        )
    except (OSError, ValueError, nats.errors.Error) as error:
        await close(client)
        raise NatsError(f"the NATS server {shown(url)} cannot be reached: {_reason(error, said)}") from error
    return client


async def close(client: "Client") -> None:
    """Close a connection. The library may wait for ever for the end of one whose TLS has failed: so it is waited for
    a second."""
    import asyncio  # all verbs that write import this module

    import nats.errors

    with contextlib.suppress(OSError, nats.errors.Error):  # it may have broken already
        await asyncio.wait_for(client.close(), _CLOSE_S)


def _reason(error: Exception, said: Sequence[Exception]) -> str:
    """Return the reason for a failure to connect, of all that the library has said."""
    words = [str(each).removeprefix("nats: ") or type(each).__name__ for each in said or (error,)]
    for each in words:
        if "Authorization" in each:
            return each
    if any("reset by peer" in each for each in words):  # which may overtake the server's own word
        return f"{words[-1]}; it may not let this user in"
    return words[-1]


def missing(error: ImportError) -> str:
    """Return the message where a library of the extra is not installed."""
    package = (error.name or str(error)).partition(".")[0]
    return (
        f"stores and fleets need the Python package {package}, which is not installed here: "
        "`pip install 'ckptree[fleet]'`"
    )
