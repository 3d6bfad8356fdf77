# SPDX-License-Identifier: Apache-2.0
"""The configuration of a relay: each key, and the mistakes that are refused by name."""

import socket
from pathlib import Path

import pytest

from agent.errors import NotPermittedError, UsageError
from agent.fleet import relaysettings
from agent.fleet.relaysettings import DumpRule, RelaySettings, RestartRule, permitted_dump


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
contents = ["nats://dumps", "oci://registry.example/team/dumps"]
options = ["--tcp-close"]
[[dump]]
requester = "ops"
roots = ["unit:worker"]
store = "s3://bucket/prefix"
options = ["--tcp-established"]
end = true
criu = "/opt/criu"
[[dump]]
requester = "night"
roots = []
store = "nats://dumps"
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
        rules=(
            RestartRule(
                "ops", ("hold",), Path("/s"), ("nats://dumps", "oci://registry.example/team/dumps"), ("--tcp-close",)
            ),
        ),
        dumps=(
            DumpRule("ops", ("unit:worker",), "s3://bucket/prefix", ("--tcp-established",), end=True, criu="/opt/criu"),
            DumpRule("night", (), "nats://dumps"),
        ),
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
        ('[[restart]]\nrequester = "ops"\nrun = []\nsigners = "/s"\ncontents = ["/tmp"]', "restart.contents: '/tmp'"),
        ('[[restart]]\nrequester = "ops"\nrun = []\nsigners = "/s"\noptions = ["--keep-rights"]', "'--keep-rights'"),
        ("[dump]", "[[dump]]"),
        ("dump = [7]", "[[dump]]"),
        ('[[dump]]\nrequester = "ops"\nroots = []', "dump.store: it is missing"),
        ('[[dump]]\nrequester = "ops"\nroots = "*"\nstore = "nats://d"', "dump.roots: it must be a list"),
        ('[[dump]]\nrequester = "ops"\nroots = []\nstore = "nats://"', "dump.store: 'nats://'"),
        ('[[dump]]\nrequester = "ops"\nroots = []\nstore = "oci://r:1"', "dump.store: 'oci://r:1'"),
        ('[[dump]]\nrequester = "ops"\nroots = []\nstore = "nats://d"\nend = 1', "dump.end"),
        ('[[dump]]\nrequester = "*"\nroots = []\nstore = "nats://d"', "requester"),
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


RULES = (
    DumpRule("ops", ("unit:a",), "nats://d"),
    DumpRule("ops", ("unit:a", "unit:b"), "nats://e", end=True),
    DumpRule("night", ("unit:c",), "nats://d"),
)


@pytest.mark.parametrize(("root", "end", "rule"), [("unit:a", False, 0), ("unit:a", True, 1), ("unit:b", False, 1)])
def test_the_permission_to_dump_is_that_of_the_requester_for_just_this_tree(root: str, *, end: bool, rule: int) -> None:
    """One that allows the end of the programs allows a dump without it, too."""
    assert permitted_dump(RULES, "ops", root, end=end) is RULES[rule]


@pytest.mark.parametrize(
    ("requester", "root", "end", "said"),
    [
        ("eve", "unit:a", False, "may have nothing dumped here"),
        ("", "unit:a", False, "may have nothing dumped here"),
        ("ops", "unit:c", False, "may not have 'unit:c' dumped"),
        ("ops", "unit:A", False, "may not have"),
        ("night", "unit:c", True, "does not allow it"),
    ],
)
def test_no_other_dump_is_permitted(requester: str, root: str, *, end: bool, said: str) -> None:
    """Without a rule there is none at all."""
    with pytest.raises(NotPermittedError, match=said):
        permitted_dump(RULES, requester, root, end=end)
    with pytest.raises(NotPermittedError):
        permitted_dump((), requester, root, end=end)


def test_streams_and_copies_have_bounds(tmp_path: Path) -> None:
    """Of bytes and of age; both have others without the keys."""
    found = loaded(
        tmp_path, "[relay]\nstream_bytes = 2000000\nstream_age_s = 0\ncopy_bytes = 3000000\ncopy_age_s = 60\n"
    )

    assert (found.stream, found.copy) == ((2000000, 0), (3000000, 60))
    assert (relaysettings.load(None).stream, relaysettings.load(None).copy) == ((256 << 20, 86400), (1 << 30, 604800))


@pytest.mark.parametrize("line", ["stream_bytes = 1000", "copy_bytes = true", "copy_age_s = -1", 'stream_age_s = "1"'])
def test_a_bound_that_is_none_is_refused_by_name(tmp_path: Path, line: str) -> None:
    """A stream must have room for a segment."""
    with pytest.raises(UsageError, match=line.partition(" ")[0]):
        loaded(tmp_path, f"[relay]\n{line}\n")
