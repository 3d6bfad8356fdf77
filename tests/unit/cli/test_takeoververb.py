# SPDX-License-Identifier: Apache-2.0
"""The verb fleet takeover: what it asks the stand-by, what it refuses, and what it has restarted."""

from pathlib import Path
from typing import Any

import pytest

from agent import config
from agent.cli import restartverb, takeoververb
from agent.cli.restartwish import TakenFile
from agent.errors import HostError, RefusedError, UsageError
from agent.fleet import standbylink
from agent.fleet.standbyfacts import StandbyFacts, read, write

ANSWER = {
    "of": "old",
    "root": "7",
    "data": b"an image",
    "order": 12,
    "complete": True,
    "reasons": [],
    "present": "nobody",
}


class Called:
    """A record of questions and restarts of the verb.

    Attributes:
        asked: the stand-by's questions.
        restarted: the arguments of each restart, with the bytes of its file.
    """

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.restarted: list[dict[str, Any]] = []


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> Called:
    """Note what is called, in the place of a stand-by and of restart."""
    found = Called()
    _answer(monkeypatch, found)

    def restart(file: str, **options: Any) -> None:
        path = Path(file)
        found.restarted.append({**options, "data": path.read_bytes(), "mode": path.stat().st_mode & 0o777})

    monkeypatch.setattr(restartverb, "restart", restart)
    monkeypatch.setattr(takeoververb, "_note", lambda _: None)
    return found


def _answer(monkeypatch: pytest.MonkeyPatch, called: Called, **changes: Any) -> None:
    """Have the stand-by answer with some changes."""

    def ask(_: Path, message: dict[str, Any]) -> dict[str, Any]:
        called.asked.append(message)
        return {**ANSWER, **changes}

    monkeypatch.setattr(standbylink, "ask", ask)


@pytest.mark.parametrize("present", ["nobody", "silent"])
def test_the_tree_of_a_silent_host_is_restarted(
    called: Called, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, present: str
) -> None:
    """From a file that nobody else reads and that is gone afterwards; options of restart are passed on."""
    _answer(monkeypatch, called, present=present)
    takeoververb.takeover("old", record=tmp_path, run="true", detach=True, pidns=False, drop_dying=True, as_json=True)
    (restarted,) = called.restarted

    assert called.asked == [{"do": "takeover", "root": "", "mode": "auto"}]
    assert restarted == {
        "data": b"an image",
        "mode": 0o600,
        "run": "true",
        "detach": True,
        "pidns": False,
        "pids": True,
        "as_json": True,
        "pidfile": None,
        "drop_dying": True,
        "keep_rights": False,
    }
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("present", "why"), [("answers", "the relay of old answers"), ("unknown", "no NATS server")])
def test_a_host_that_may_live_is_taken_over_by_force_alone(
    called: Called, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, present: str, why: str
) -> None:
    """Else two hosts would have the tree."""
    _answer(monkeypatch, called, present=present)
    with pytest.raises(RefusedError, match=why):
        takeoververb.takeover("old", record=tmp_path)
    assert called.restarted == []
    takeoververb.takeover("old", "7", record=tmp_path, force=True)

    assert len(called.restarted) == 1
    assert called.asked[-1]["root"] == "7"


def test_an_incomplete_tree_is_made_and_named(
    called: Called, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The exit code says so, unless it is allowed."""
    _answer(monkeypatch, called, complete=False, reasons=["a zombie may have gone before"])
    with pytest.raises(SystemExit) as ended:
        takeoververb.takeover("old", record=tmp_path)
    takeoververb.takeover("old", record=tmp_path, allow_incomplete=True)

    assert ended.value.code == 6
    assert len(called.restarted) == 2
    assert "incomplete: a zombie may have gone before" in capsys.readouterr().err


def test_a_host_that_asks_for_signatures_takes_nothing_over(
    called: Called, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Nobody has signed what a stand-by has: the message says what the configuration needs."""
    monkeypatch.setattr(config, "required_signers", lambda: Path("/etc/ckptree/signers"))
    monkeypatch.setattr(config, "trusted_standbys", lambda: frozenset({"another"}))
    with pytest.raises(RefusedError, match=r'nobody signs .*: trust_standby_of = \["old"\] below \[restart\] in /etc'):
        takeoververb.takeover("old", record=tmp_path, force=True)

    assert (called.asked, called.restarted) == ([], [])


def test_a_host_that_trusts_its_standby_takes_over_from_its_own_folder(
    called: Called, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """From no other, which might be anybody's. Restart then asks for no signature of this file."""
    files = []
    monkeypatch.setattr(config, "required_signers", lambda: Path("/etc/ckptree/signers"))
    monkeypatch.setattr(config, "trusted_standbys", lambda: frozenset({"old"}))
    monkeypatch.setattr(takeoververb, "STANDBYS", tmp_path)
    monkeypatch.setattr(restartverb, "restart", lambda file, **_: files.append(file))
    with pytest.raises(RefusedError, match=f"trusts what is in {tmp_path}/old alone: leave out --record"):
        takeoververb.takeover("old", record=tmp_path / "other")
    takeoververb.takeover("old")

    assert [type(each) for each in files] == [TakenFile]


def test_restart_asks_for_no_signature_of_what_was_taken_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of any other file of this host it does."""
    asked = []

    def load(_file: str, *keys: Path, **_: Any) -> None:
        asked.append(keys)
        raise HostError("as far as this test goes")

    monkeypatch.setattr(restartverb, "required_signers", lambda: Path("/etc/ckptree/signers"))
    monkeypatch.setattr(restartverb, "load_file", load)
    for file in (TakenFile("old.ckpt"), "old.ckpt"):
        with pytest.raises(HostError, match="as far as"):
            restartverb.restart(file)

    assert asked == [(), (Path("/etc/ckptree/signers"),)]


@pytest.mark.parametrize(
    ("host", "root", "message"),
    [("other", None, "a stand-by of old"), ("a b", None, "host"), ("old", "unit:x", "no cgroups")],
)
def test_a_wrong_name_is_refused(called: Called, tmp_path: Path, host: str, root: str | None, message: str) -> None:
    """Of another host's folder, too."""
    with pytest.raises(UsageError, match=message):
        takeoververb.takeover(host, root, record=tmp_path)

    assert called.restarted == []


def test_arguments_that_no_recording_has_are_not_run(called: Called, tmp_path: Path) -> None:
    """Exit code 2, before a stand-by or a server is asked."""
    with pytest.raises(UsageError, match=r"no recording has the arguments of a process: .* --run CMD"):
        takeoververb.takeover("old", record=tmp_path, run="argv")

    assert (called.asked, called.restarted) == ([], [])


def test_a_folder_says_whose_tree_it_has(tmp_path: Path) -> None:
    """A folder that does not is none of a stand-by."""
    write(tmp_path, StandbyFacts("old", "pidns:5"))
    write(tmp_path, StandbyFacts("old", "7"))
    assert read(tmp_path) == ("old", "7")
    (tmp_path / "standby.json").write_text("[]")
    with pytest.raises(HostError, match="no folder of a stand-by"):
        read(tmp_path)


@pytest.mark.parametrize(("name", "fault"), [("", "there is no standby.json"), ("none", "there is no such folder")])
def test_a_folder_that_is_none_of_a_stand_by_is_refused_with_the_option_for_another_one(
    tmp_path: Path, name: str, fault: str
) -> None:
    """The stand-by may keep the tree in another folder than the default one."""
    with pytest.raises(HostError) as caught:
        read(tmp_path / name)

    assert f"{tmp_path / name}: it is no folder of a stand-by: {fault}: --record names another one" in str(caught.value)
    assert "Errno" not in str(caught.value)
