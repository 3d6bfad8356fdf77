# SPDX-License-Identifier: Apache-2.0
"""Sets through real relays into stores of each kind: NATS, S3, a registry."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.cli import signature
from agent.fleet import sets
from tests.support import stores
from tests.support.commandline import Ran, ckptree, here
from tests.support.relays import a_relay

pytestmark = pytest.mark.slow
each_store = pytest.mark.parametrize("scheme", stores.SCHEMES)
TAKE = ("fleet", "snapshot", "--hosts", "a,b", "--root", "1")


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[stores.Stores]:
    """Run one store of each kind, and two relays."""
    folder = tmp_path_factory.mktemp("stores")
    with stores.running(folder) as found:
        url = found.environment["CKPTREE_NATS"]
        with a_relay(folder, "a", url, image=True), a_relay(folder, "b", url, image=True):
            yield found


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a pair of keys; return the private one."""
    made = tmp_path_factory.mktemp("keys") / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(made)], check=True)
    return made


def run(there: stores.Stores, *words: str | Path) -> Ran:
    """Run a verb where the servers are known."""
    return here(*words, env=there.environment)


def check_signature(there: stores.Stores, name: str, key: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse a set whose signature is not that of its bytes."""
    for variable, value in there.environment.items():
        monkeypatch.setenv(variable, value)
    with sets.opened(name) as place:
        data = place.read_bytes()
        signed = place.signature(data)
    assert signed is not None
    signature.verify(data, name, key.with_suffix(".pub"), signed)


@each_store
def test_a_set_in_a_store_is_taken_and_looked_at(
    there: stores.Stores, scheme: str, key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each verb of sets finds it, and its signature."""
    name, second = there.address(scheme, "first"), there.address(scheme, "second")
    for each in (name, second):
        taken = run(there, *TAKE, "-o", each, "--sign", key)
        assert taken.returncode == 0, taken.stderr.decode()
    shown = run(there, "fleet", "show", name)
    assert (shown.returncode, b"2 hosts, 2 tasks" in shown.stdout) == (0, True), shown.stderr.decode()
    checked = run(there, "fleet", "check", name)
    assert (checked.returncode, b"sound" in checked.stderr) == (0, True), checked.stderr.decode()
    assert run(there, "fleet", "diff", name, second).returncode == 0
    assert run(there, "fleet", "plan", name).returncode == 0
    check_signature(there, name, key, monkeypatch)


@each_store
def test_the_same_id_once_more_is_shown_the_set_that_is_there(there: stores.Stores, scheme: str) -> None:
    """Another id is refused, and changes nothing."""
    name = there.address(scheme, "again")
    first, again = (run(there, *TAKE, "-o", name, "--id", f"one-{scheme}", "--json") for _ in range(2))
    assert first.returncode == again.returncode == 0, again.stderr.decode()
    assert json.loads(first.stdout) == json.loads(again.stdout)
    other = run(there, *TAKE, "-o", name, "--id", f"other-{scheme}")
    assert (other.returncode, f"is a set already, of the request one-{scheme}" in other.stderr.decode()) == (1, True)
    assert json.loads(run(there, "fleet", "show", name, "--json").stdout)["id"] == f"one-{scheme}"


def at_once(there: stores.Stores, key: Path, name: str, *ids: str) -> list[tuple[int, str]]:
    """Take sets of one name at the same time; return exit codes and messages."""
    words = [sys.executable, "-m", "agent", *TAKE, "-o", name, "--deadline", "30", "--sign", str(key)]
    begun = [
        subprocess.Popen([*words, "--id", each], env=dict(there.environment), stderr=subprocess.PIPE) for each in ids
    ]
    return [(process.wait(60), process.communicate()[1].decode()) for process in begun]


@each_store
def test_two_requests_of_one_id_at_once_make_one_set(
    there: stores.Stores, scheme: str, key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both are content, and the signature is that of the manifest that stays."""
    name = there.address(scheme, "at-once")
    ended = at_once(there, key, name, *[f"same-{scheme}"] * 3)
    assert [code for code, _ in ended] == [0, 0, 0], ended
    assert run(there, "fleet", "check", name).returncode == 0
    check_signature(there, name, key, monkeypatch)


@each_store
def test_of_two_ids_at_once_one_set_is_there_and_whole(
    there: stores.Stores, scheme: str, key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the store can refuse to replace, the other is told; a registry may tell none of them."""
    name = there.address(scheme, "rivals")
    ended = at_once(there, key, name, f"left-{scheme}", f"right-{scheme}")
    codes = sorted(code for code, _ in ended)
    assert codes in ([0, 1], [0, 0]) if scheme == "oci" else codes == [0, 1], ended
    assert run(there, "fleet", "check", name).returncode == 0
    check_signature(there, name, key, monkeypatch)


@each_store
def test_a_set_whose_store_refuses_is_not_there(there: stores.Stores, scheme: str) -> None:
    """A bucket that is missing is named; a registry makes repositories by itself, so another server is asked there."""
    name = {"nats": "nats://nowhere/set", "s3": "s3://nowhere/set", "oci": "oci://127.0.0.1:1/x:set"}[scheme]
    ran = ckptree(*TAKE, "-o", name, env=there.environment)
    assert ran.returncode == 1
    said = {"nats": "there is no bucket nowhere", "s3": "there is no such bucket", "oci": "cannot be reached"}
    assert said[scheme] in ran.stderr.decode(), ran.stderr.decode()
