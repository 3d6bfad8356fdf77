# SPDX-License-Identifier: Apache-2.0
"""The configuration of a relay: each key, and the mistakes that are refused by name."""

import socket
from pathlib import Path

import pytest

from agent.errors import UsageError
from agent.fleet import relaysettings
from agent.fleet.relaysettings import RelaySettings, RestartRule


def loaded(folder: Path, text: str) -> RelaySettings:
    """Read a configuration of this text."""
    path = folder / "relay.toml"
    path.write_text(text)
    return relaysettings.load(path)


def test_without_a_file_nothing_is_allowed() -> None:
    """The host has its own name."""
    found = relaysettings.load(None)

    assert (found.host, found.allow, found.rules) == (socket.gethostname(), frozenset(), ())


def test_every_key_is_read(tmp_path: Path) -> None:
    """Credentials become the variables that the library of NATS has for them."""
    found = loaded(
        tmp_path,
        """
[relay]
nats = ["tls://a:4222", "tls://b:4222"]
host = "n1.example"
socket = "/run/d.sock"
allow = ["snapshot", "restart", "events", "follow"]
credentials = "/c"
nkey = "/n"
tls_ca = "/ca"
tls_cert = "/cert"
tls_key = "/key"
user = "u"
password = "p"
token = "t"
restart_socket = "/run/r.sock"
[[restart]]
requester = "ops"
run = ["hold"]
signers = "/s"
""",
    )

    assert found == RelaySettings(
        host="n1.example",
        nats="tls://a:4222,tls://b:4222",
        socket=Path("/run/d.sock"),
        allow=frozenset(relaysettings.ALLOWABLE),
        credentials={
            "NATS_CREDS": "/c",
            "NATS_NKEY": "/n",
            "NATS_CA": "/ca",
            "NATS_CERT": "/cert",
            "NATS_KEY": "/key",
            "NATS_USER": "u",
            "NATS_PASSWORD": "p",
            "NATS_TOKEN": "t",
        },
        restart_socket=Path("/run/r.sock"),
        rules=(RestartRule("ops", ("hold",), Path("/s")),),
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("relay = 1", "relay: it must be a table"),
        ("[relay]\nallows = []", "relay.allows: no such key"),
        ("[relays]", "relays: no such key"),
        ('[relay]\nallow = ["all"]', "'all' is not allowed"),
        ('[relay]\nallow = "snapshot"', "relay.allow: it must be a list"),
        ('[relay]\nhost = "a b"', "host"),
        ('[relay]\nsocket = "run"', "relay.socket: it must be an absolute path"),
        ('[relay]\ncredentials = ""', "relay.credentials"),
        ("[relay]\nnats = 7", "relay.nats"),
        ("[restart]", "[[restart]]"),
        ('[[restart]]\nrequester = "ops"\nrun = []', "restart.signers: it is missing"),
        ('[[restart]]\nrequester = "ops"\nrun = "hold"\nsigners = "/s"', "restart.run: it must be a list"),
        ('[[restart]]\nrequester = "*"\nrun = []\nsigners = "/s"', "requester"),
        ('[[restart]]\nrequester = "ops"\nrun = []\nsigners = "s"', "restart.signers"),
        ("[", "is no TOML file"),
    ],
)
def test_a_mistake_is_refused_by_name(tmp_path: Path, text: str, said: str) -> None:
    """The message has the path of the file, too."""
    with pytest.raises(UsageError) as refused:
        loaded(tmp_path, text)

    assert said in str(refused.value)
    assert str(tmp_path) in str(refused.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    """A relay that was to have one does not start without."""
    with pytest.raises(UsageError, match="cannot be read"):
        relaysettings.load(tmp_path / "none")
