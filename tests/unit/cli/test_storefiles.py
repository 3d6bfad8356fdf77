# SPDX-License-Identifier: Apache-2.0
"""FILEs of the command line that lie in stores, with real servers."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from agent.cli import apart, storefiles
from agent.errors import CkptreeError
from agent.fleet.stores import address, errand, opening
from agent.fleet.stores.store import sha256
from tests.support import servers, stores
from tests.support.commandline import Ran, ckptree, here

pytestmark = pytest.mark.slow
EXAMPLE = Path(__file__).parents[3] / "docs" / "example"
WEB, LATER = EXAMPLE / "web.ckpt", EXAMPLE / "web-later.ckpt"
each_store = pytest.mark.parametrize("scheme", stores.SCHEMES)


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[stores.Stores]:
    """Run one store of each kind."""
    with stores.running(tmp_path_factory.mktemp("stores")) as found:
        yield found


def run(there: stores.Stores, *arguments: str | Path) -> Ran:
    """Run a verb in an environment that names the servers."""
    return here(*arguments, env=there.environment)


def said(ran: Ran) -> str:
    """Return the messages."""
    return ran.stderr.decode()


@each_store
def test_each_verb_of_files_takes_an_address(there: stores.Stores, scheme: str, tmp_path: Path) -> None:
    """It prints what it prints of the same file on this host."""
    there_is, later = there.address(scheme, "web.ckpt"), there.address(scheme, "later.ckpt")
    local = tmp_path / "web.ckpt"
    for source, name, target in ((WEB, there_is, local), (LATER, later, tmp_path / "later.ckpt")):
        assert run(there, "convert", source, name).returncode == 0
        assert run(there, "convert", source, target).returncode == 0
    for words in (
        ("show", there_is),
        ("show", "--json", there_is),
        ("check", "--json", there_is),
        ("plan", there_is),
        ("plan", "-f", "dot", there_is),
        ("plan", "--for", "criu", there_is),
        ("diff", there_is, later),
        ("diff", "--json", later, there_is),
    ):
        found = run(there, *words)
        places = {there_is: local, later: tmp_path / "later.ckpt"}
        expected = run(there, *(places.get(word, word) for word in words))
        assert (found.returncode, found.stdout) == (expected.returncode, expected.stdout), words
        assert found.stdout
    back = tmp_path / "back.ckpt"
    assert run(there, "convert", there_is, back).returncode == 0
    assert back.read_bytes() == local.read_bytes()


@each_store
@pytest.mark.parametrize("fmt", ["json", "msgpack"])
def test_other_formats_are_known_by_their_content(there: stores.Stores, scheme: str, fmt: str) -> None:
    """The name says nothing, and a write replaces what was there."""
    name = there.address(scheme, f"same-{fmt}")
    assert run(there, "convert", WEB, name).returncode == 0
    assert run(there, "convert", LATER, name, "-f", fmt).returncode == 0
    assert run(there, "diff", name, LATER).returncode == 0


@each_store
def test_a_plan_is_drawn_of_a_file_in_a_store(there: stores.Stores, scheme: str) -> None:
    """The process that draws is no child that was confined, and neither is that which fetches."""
    name = there.address(scheme, "drawn")
    assert run(there, "convert", WEB, name).returncode == 0
    assert b"<svg" in run(there, "plan", "-f", "svg", name).stdout


@each_store
def test_an_address_where_nothing_is(there: stores.Stores, scheme: str) -> None:
    """It is like a file that is not there."""
    name = there.address(scheme, "nothing")
    ran = run(there, "show", name)
    assert ran.returncode == 1
    assert name in said(ran)


@each_store
def test_a_folder_of_files_goes_to_no_store(there: stores.Stores, scheme: str) -> None:
    """The format is refused before the work."""
    ran = run(there, "convert", WEB, there.address(scheme, "x"), "-f", "criu")
    assert ran.returncode == 2
    assert "a store takes a file" in said(ran)


@pytest.mark.parametrize("words", [("show", "nats://b"), ("convert", WEB, "s3://X/y"), ("restart", "oci://r/x")])
def test_a_wrong_address_is_a_usage_error(there: stores.Stores, words: tuple[str, ...]) -> None:
    """The message has the form of a right one."""
    ran = run(there, *words)
    assert ran.returncode == 2
    assert "expected" in said(ran)


@pytest.mark.parametrize("words", [("show", "nats://b/x"), ("convert", WEB, "nats://b/x")])
def test_a_server_of_nats_must_be_named(words: tuple[str, ...]) -> None:
    """The message names option and variable."""
    environment = {key: value for key, value in os.environ.items() if key != "CKPTREE_NATS"}
    ran = here(*words, env=environment)
    assert ran.returncode == 2
    assert "--nats URL, or CKPTREE_NATS" in said(ran)


def test_the_option_names_the_server(there: stores.Stores) -> None:
    """It comes before the variable."""
    url = there.environment["CKPTREE_NATS"]
    environment = {**there.environment, "CKPTREE_NATS": "nats://127.0.0.1:1"}
    assert here("convert", WEB, "nats://trees/option", "--nats", url, env=environment).returncode == 0
    assert here("show", "nats://trees/option", "--nats", url, env=environment).returncode == 0
    assert here("show", "nats://trees/option", env=environment).returncode == 1


@each_store
def test_a_library_that_is_missing_is_named(
    there: stores.Stores, scheme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message has the command that installs it, at reading and before writing."""
    library = {"nats": "nats", "s3": "obstore", "oci": "oras"}[scheme]
    monkeypatch.setattr(opening, "find_spec", lambda _: None)
    (tmp_path / library).mkdir()
    (tmp_path / library / "__init__.py").write_text(f"raise ModuleNotFoundError('away', name={library!r})")
    for words in (("show", there.address(scheme, "x")), ("convert", WEB, there.address(scheme, "x"))):
        ran = here(*words, env={**there.environment, "PYTHONPATH": str(tmp_path)})
        assert ran.returncode == 5
        assert "pip install 'ckptree[fleet]'" in said(ran)
        assert library in said(ran)


def test_a_file_that_was_changed_in_its_store_is_a_bad_image(there: stores.Stores) -> None:
    """The exit code is that of an image that cannot be read."""
    name = there.address("s3", "changed")
    assert run(there, "convert", WEB, name).returncode == 0
    url = f"http://{there.s3.address}/trees/changed"
    headers = {"x-amz-meta-ckptree-sha256": "0" * 64, "Authorization": servers.S3_CREDENTIAL}
    assert requests.put(url, data=WEB.read_bytes(), headers=headers, timeout=30).status_code == 200
    for words in (("show", name), ("check", name), ("restart", name), ("convert", name, "-")):
        ran = run(there, *words)
        assert ran.returncode == 8, words
        assert "SHA-256" in said(ran)


def test_a_server_that_is_away_is_named(tmp_path: Path) -> None:
    """A file that exists before stays what it was."""
    environment = {**os.environ, "CKPTREE_NATS": f"nats://127.0.0.1:{servers.free_port()}"}
    for words in (("show", "nats://b/x"), ("convert", WEB, "nats://b/x"), ("convert", "nats://b/x", tmp_path / "y")):
        ran = here(*words, env=environment)
        assert ran.returncode == 1
        assert "cannot be reached" in said(ran)
    assert not (tmp_path / "y").exists()


def test_the_process_that_parses_has_fetched_nothing_itself(
    there: stores.Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library of the store is loaded in a child alone, which is gone when the file is parsed."""
    assert run(there, "convert", WEB, "nats://trees/apart").returncode == 0
    program = (
        "import sys; from agent.cli import fileverbs, storefiles\n"
        "loaded = fileverbs.load_file(storefiles.named('nats://trees/apart', None))\n"
        "import os; print(len(loaded.tasks), 'nats' in sys.modules, len(os.listdir('/proc/self/task')))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], env=dict(there.environment), capture_output=True, text=True, check=True
    )
    assert ran.stdout.split()[1:] == ["False", "1"]


def test_a_confined_process_reaches_no_store(there: stores.Stores) -> None:
    """A file that is not fetched before the confinement is not fetched."""
    if os.geteuid():
        pytest.fail("the confinement is root's: run this as root")
    file = storefiles.named("nats://trees/apart", there.environment["CKPTREE_NATS"])

    def work() -> apart.Made:
        storefiles.fetch(file)
        return b""

    with pytest.raises(apart.EndedError):
        apart.made(work, lambda _: None)


def key_in(folder: Path) -> Path:
    """Make a pair of keys; return the private one."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(folder / "key")], check=True)
    return folder / "key"


@each_store
def test_a_signature_lies_beside_its_file_in_the_store(there: stores.Stores, scheme: str, tmp_path: Path) -> None:
    """It is fetched with the file, and the bytes that were signed are those that are parsed."""
    key = key_in(tmp_path)
    name = there.address(scheme, "signed")
    taken = run(
        there, "snapshot", str(os.getpid()), "--source", "procfs", "--allow-incomplete", "-o", name, "--sign", key
    )
    assert taken.returncode == 0, said(taken)
    file = storefiles.StoredFile(name, None)
    os_environment = dict(os.environ)
    try:
        os.environ.update(there.environment)
        storefiles.fetch(file, signed=True)
    finally:
        os.environ.clear()
        os.environ.update(os_environment)
    assert (file.signature or b"").startswith(b"-----BEGIN SSH SIGNATURE-----")
    beside = there.address(scheme, "signed.sig")
    assert str(file.address.beside(".sig")) == beside
    unsigned = there.address(scheme, "unsigned.ckpt")
    assert run(there, "convert", WEB, unsigned).returncode == 0
    refused = run(there, "restart", unsigned, "--verify", key.with_suffix(".pub"))
    assert refused.returncode == 7
    assert "is not signed" in said(refused)


def test_a_snapshot_goes_straight_into_a_store(there: stores.Stores) -> None:
    """Its exit code is that of the snapshot."""
    ran = run(there, "snapshot", str(os.getpid()), "--source", "procfs", "-o", "nats://trees/taken", "-f", "json")
    assert ran.returncode == 6
    shown = run(there, "show", "--json", "nats://trees/taken")
    assert json.loads(shown.stdout)["format"] == "ckptree"


def test_a_map_may_lie_in_a_store(there: stores.Stores, tmp_path: Path) -> None:
    """It is fetched before the confinement, as the images are."""
    document = json.loads(run(there, "show", "--json", WEB).stdout)
    tasks = [{"tag": task["pid"], "pid": 1, "numbers": [1]} for task in document["tasks"]]
    (tmp_path / "map").write_text(json.dumps({"root": 1, "tasks": tasks}))
    with opening.opened(address.parse("nats://trees/map"), there.environment["CKPTREE_NATS"]) as store:
        store.put("map", (tmp_path / "map").read_bytes())
    found = run(there, "diff", WEB, WEB, "--map", "nats://trees/map")
    expected = run(there, "diff", WEB, WEB, "--map", tmp_path / "map")
    assert (found.returncode, found.stdout) == (expected.returncode, expected.stdout)


def test_a_fetch_that_is_interrupted_ends(there: stores.Stores) -> None:
    """A server that never answers holds no verb for ever."""
    import socket

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        url = f"nats://127.0.0.1:{listener.getsockname()[1]}"
        ran = ckptree("show", "nats://trees/x", "--nats", url, timeout=40)
    assert ran.returncode == 1
    assert "cannot be reached" in said(ran)


def test_a_process_that_dies_on_its_errand_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """The parent takes nothing else for a file."""
    monkeypatch.setattr(errand, "_PROGRAM", "import os, signal; print('x', flush=True); os.kill(os.getpid(), 9)")
    with pytest.raises(CkptreeError, match="has ended with -9"):
        storefiles.fetch(storefiles.named("nats://trees/x", None))


def test_the_errand_looks_for_no_module_in_the_working_directory(there: stores.Stores, tmp_path: Path) -> None:
    """Another user may have laid one there."""
    assert run(there, "convert", WEB, "nats://trees/safe").returncode == 0
    for name in ("agent", "msgpack", "nats", "asyncio"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('taken over')")
    ran = here("show", "nats://trees/safe", cwd=tmp_path, env=there.environment)
    assert ran.returncode == 0, said(ran)


@each_store
def test_a_folder_of_criu_is_copied_into_a_store_and_back(there: stores.Stores, scheme: str, tmp_path: Path) -> None:
    """All its files come back, those that are no tree, too."""
    dump, back = tmp_path / "dump", tmp_path / "back"
    assert run(there, "convert", WEB, dump, "-f", "criu").returncode == 0
    (dump / "pages-1.img").write_bytes(os.urandom(100_000))
    name = f"criu:{there.address(scheme, 'dump')}"
    for _ in range(2):
        ran = run(there, "convert", f"criu:{dump}", name)
        assert ran.returncode == 0, said(ran)
    assert run(there, "convert", name, f"criu:{back}").returncode == 0
    assert {path.name: path.read_bytes() for path in back.iterdir()} == {
        path.name: path.read_bytes() for path in dump.iterdir()
    }
    assert run(there, "show", f"criu:{back}").returncode == 0
    ran = run(there, "convert", name, f"criu:{back}")
    assert ran.returncode == 1
    assert "cannot write" in said(ran)


@each_store
def test_each_verb_of_files_takes_a_folder_in_a_store(there: stores.Stores, scheme: str, tmp_path: Path) -> None:
    """It prints what it prints of the same folder on this host, and leaves nothing of it behind."""
    dump, kept = tmp_path / "dump", tmp_path / "kept"
    kept.mkdir()
    environment = {**there.environment, "TMPDIR": str(kept)}
    assert run(there, "convert", WEB, dump, "-f", "criu").returncode == 0
    (dump / "pages-1.img").write_bytes(os.urandom(10_000))
    local, name = f"criu:{dump}", f"criu:{there.address(scheme, 'folder')}"
    assert run(there, "convert", local, name).returncode == 0
    for words in (
        ("show", name),
        ("show", "--json", name),
        ("check", "--json", name),
        ("plan", name),
        ("plan", "-f", "dot", name),
        ("plan", "--for", "criu", name),
        ("diff", name, LATER),
        ("diff", "--json", LATER, name),
        ("convert", name, "-", "-f", "json"),
    ):
        found = here(*words, env=environment)
        expected = run(there, *(local if word == name else word for word in words))
        named = expected.stdout.replace(os.fsencode(dump), name.removeprefix("criu:").encode())
        assert (found.returncode, found.stdout) == (expected.returncode, named), (words, said(found))
        assert found.stdout
        assert os.listdir(kept) == []
    (dump / "pstree.img").write_bytes(b"none")
    assert run(there, "convert", local, name).returncode == 0
    broken = here("show", name, env=environment)
    assert (broken.returncode, f"{name.removeprefix('criu:')}/pstree.img" in said(broken)) == (8, True), said(broken)
    assert os.listdir(kept) == []


@pytest.mark.parametrize("verb", [("show",), ("check",), ("plan",), ("diff", LATER), ("restart",)])
def test_a_folder_in_a_store_that_is_named_as_a_file_is_called_so(there: stores.Stores, verb: tuple[str, ...]) -> None:
    """As one on this host is."""
    with opening.opened(address.parse("nats://trees/x"), there.environment["CKPTREE_NATS"]) as store:
        store.put("a-list", b'{"files":{},"format":"ckptree-folder","version":1}')
    ran = run(there, *verb, "nats://trees/a-list")
    assert ran.returncode == 1
    assert "it is a folder of CRIU images: name it as criu:nats://trees/a-list" in said(ran)


def test_contents_may_lie_in_a_store_while_the_tree_does_not(there: stores.Stores, tmp_path: Path) -> None:
    """They are fetched, and are none here: the folder has the tree alone."""
    dump, name = tmp_path / "dump", "criu:nats://trees/contents"
    assert run(there, "convert", WEB, dump, "-f", "criu").returncode == 0
    assert run(there, "convert", f"criu:{dump}", name).returncode == 0
    ran = run(there, "restart", WEB, "--contents", name)
    assert (ran.returncode, "the folder has no such file" in said(ran)) == (125, True), said(ran)
    wrong = run(there, "restart", WEB, "--contents", "nats://trees/contents")
    assert (wrong.returncode, "name a folder of CRIU's images" in said(wrong)) == (2, True)


def test_memory_is_fetched_only_where_a_verb_needs_it(there: stores.Stores, tmp_path: Path) -> None:
    """A piece of it that is missing is no fault of `show`, and one of `check`."""
    dump, name = tmp_path / "dump", "criu:nats://trees/memory"
    assert run(there, "convert", WEB, dump, "-f", "criu").returncode == 0
    (dump / "pages-1.img").write_bytes(os.urandom(5000))
    assert run(there, "convert", f"criu:{dump}", name).returncode == 0
    with opening.opened(address.parse("nats://trees/x"), there.environment["CKPTREE_NATS"]) as store:
        store.put(f"sha256-{sha256((dump / 'pages-1.img').read_bytes())}", b"changed")
    assert run(there, "show", name).returncode == 0
    checked = run(there, "check", name)
    assert (checked.returncode, "it has been changed" in said(checked)) == (8, True)


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (("criu:nats://b/x", "criu:nats://b/y"), "copy a folder on this host to it"),
        ((WEB, "criu:s3://bucket/x"), "copy a folder on this host to it"),
        (("criu:", "criu:s3://bucket/x"), "an empty name"),
        (("criu:nats://b", "criu:d"), "the name is missing"),
        (("criu:d", "criu:nats://b/x", "-f", "ckpt"), "leave out --format"),
        (("criu:d", "criu:nats:/b/x"), "nats:/b/x: no address of a store: expected nats://BUCKET/NAME"),
    ],
)
def test_what_is_wrong_with_a_copy_is_named(words: tuple[str, ...], fault: str) -> None:
    """Nothing is made."""
    ran = here("convert", *words, "--nats", "nats://127.0.0.1:1")
    assert ran.returncode == 2
    assert fault in said(ran)


def test_a_folder_that_is_not_there_is_named(there: stores.Stores, tmp_path: Path) -> None:
    """On this host and in the store."""
    ran = run(there, "convert", f"criu:{tmp_path / 'none'}", "criu:nats://trees/x")
    assert (ran.returncode, str(tmp_path / "none") in said(ran)) == (1, True)
    ran = run(there, "convert", "criu:nats://trees/none", f"criu:{tmp_path / 'back'}")
    assert (ran.returncode, "there is no object nats://trees/none" in said(ran)) == (1, True)
    assert not (tmp_path / "back").exists()
