# SPDX-License-Identifier: Apache-2.0
"""A tree comes back from an image in a store, as it does from a file; a signature beside it is fetched and holds."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import servers, stores
from tests.support.commandline import ckptree

WEB = Path(__file__).parents[2] / "docs" / "example" / "web.ckpt"
each_store = pytest.mark.parametrize("scheme", stores.SCHEMES)


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[stores.Stores]:
    """Run one store of each kind."""
    with stores.running(tmp_path_factory.mktemp("stores")) as found:
        yield found


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a pair of keys; return the private one."""
    made = tmp_path_factory.mktemp("keys") / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(made)], check=True)
    return made


@each_store
def test_a_tree_is_rebuilt_from_a_store(there: stores.Stores, scheme: str) -> None:
    """Its command finds no path of an image, for there is none on this host."""
    name = there.address(scheme, "web.ckpt")
    assert ckptree("convert", WEB, name, env=there.environment).returncode == 0
    words = "sh -c 'test -z \"$CKPTREE_IMAGE\" && exit 3'"
    ran = ckptree("restart", name, "--run", words, env=there.environment)
    assert ran.returncode == 3, ran.stderr.decode()
    assert b"tasks stand" in ran.stderr


@each_store
def test_the_key_that_signed_an_image_in_a_store_lets_it_restart(there: stores.Stores, scheme: str, key: Path) -> None:
    """Another image under the signature is refused, and so is one without."""
    name = there.address(scheme, "signed")
    with subprocess.Popen(["sleep", "100"]) as root:
        try:
            taken = ckptree("snapshot", str(root.pid), "-o", name, "--sign", key, env=there.environment)
        finally:
            root.kill()
    assert taken.returncode == 0, taken.stderr.decode()
    verified = ("restart", name, "--no-pids", "--run", "true", "--verify", key.with_suffix(".pub"))
    ran = ckptree(*verified, env=there.environment)
    assert ran.returncode == 0, ran.stderr.decode()
    assert b"SHA256:" in ran.stderr
    assert ckptree("convert", WEB, name, env=there.environment).returncode == 0
    other = ckptree(*verified[:2], "--verify", verified[-1], env=there.environment)
    assert other.returncode == 8, other.stderr.decode()
    assert b"other bytes were signed" in other.stderr
    assert ckptree("convert", WEB, there.address(scheme, "bare"), env=there.environment).returncode == 0
    bare = ckptree("restart", there.address(scheme, "bare"), "--verify", verified[-1], env=there.environment)
    assert bare.returncode == 7
    assert b"is not signed" in bare.stderr


def test_a_failure_to_fetch_has_a_code_of_its_own_where_the_root_has_codes() -> None:
    """As all failures of restart itself have."""
    environment = {**os.environ, "CKPTREE_NATS": f"nats://127.0.0.1:{servers.free_port()}"}
    ran = ckptree("restart", "nats://trees/x", "--run", "true", env=environment)
    assert ran.returncode == 125
    assert b"cannot be reached" in ran.stderr
    assert ckptree("restart", "nats://trees/x", env=environment).returncode == 1


def test_a_restart_that_is_interrupted_while_it_fetches_leaves_no_process() -> None:
    """A server that accepts and never answers keeps it waiting."""
    import socket

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        url = f"nats://127.0.0.1:{listener.getsockname()[1]}"
        words = [sys.executable, "-m", "agent", "restart", "nats://trees/x", "--nats", url]
        with subprocess.Popen(words, stderr=subprocess.PIPE, process_group=0) as process:
            listener.settimeout(20)
            connection, _ = listener.accept()
            with connection:
                process.send_signal(signal.SIGTERM)
                assert process.wait(10) == 128 + signal.SIGTERM
                connection.settimeout(10)
                assert connection.recv(1) == b""  # the end of the process that fetches
