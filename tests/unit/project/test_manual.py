# SPDX-License-Identifier: Apache-2.0
"""Manual pages and completions: their readers accept them, and nothing is missing."""

import os
import re
import shlex
import shutil
import subprocess
from dataclasses import asdict
from pathlib import Path

import pytest

from agent import errors
from agent.config import RECORD, Config
from agent.events.subscriber import KINDS
from manual import examples
from manual.share import write
from manual.verbs import Verb, verbs
from tests.support.commandline import here

VERBS = verbs()


@pytest.fixture(scope="module")
def share(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of all generated files."""
    folder = tmp_path_factory.mktemp("share")
    write(folder)
    return folder


def page(share: Path, name: str) -> str:
    """Return a page as a terminal shows it, with single blanks."""
    path = share / f"man/man{name[-1]}/{name}"
    ran = subprocess.run(["mandoc", "-T", "ascii", path], capture_output=True, text=True, check=True)
    return re.sub(r"\s+", " ", re.sub(r".\x08", "", ran.stdout))


needs_mandoc = pytest.mark.skipif(not shutil.which("mandoc"), reason="mandoc is not installed")


@needs_mandoc
@pytest.mark.parametrize("name", ["ckptree.1", "ckptree-image.5", "ckptree.toml.5", "ckptree-daemon.8"])
def test_readers_of_manual_pages_find_nothing_wrong(share: Path, name: str) -> None:
    """mandoc is the stricter reader; groff's warnings count too, if it is installed."""
    path = share / f"man/man{name[-1]}/{name}"
    lint = subprocess.run(["mandoc", "-T", "lint", path], capture_output=True, text=True, check=False)

    assert (lint.returncode, lint.stdout) == (0, "")
    if shutil.which("groff"):
        groff = ["groff", "-man", "-Tutf8", "-ww", "-z", os.fspath(path)]
        assert subprocess.run(groff, capture_output=True, text=True, check=True).stderr == ""


@needs_mandoc
def test_the_page_of_the_command_has_every_verb_option_and_exit_code(share: Path) -> None:
    """The code defines them, so this tests the writer."""
    text = page(share, "ckptree.1")

    for verb in VERBS:
        assert f"ckptree {verb.name} " in text
        for option in verb.options if verb.name != "daemon" else ():
            assert f"{', '.join(option.names)} {option.value}".strip() in text
            assert option.help in text
        for lines in verb.more:
            assert all(" ".join(line.split()) in text for line in lines)
    for kind in vars(errors).values():
        if isinstance(kind, type) and issubclass(kind, errors.CkptreeError):
            assert f" {kind.exit_code} " in text.partition("EXIT STATUS")[2]


@needs_mandoc
def test_each_exit_status_has_whole_sentences_on_its_meaning(share: Path) -> None:
    """The errors' own docstrings have them, in several lines."""
    text = page(share, "ckptree.1").partition("EXIT STATUS")[2].partition("ENVIRONMENT")[0]
    meanings = re.split(r" (?=\d+ [A-Z])", text.strip())

    assert [int(each.split()[0]) for each in meanings] == [*range(9), 125, 130]
    assert meanings[1] == (
        "1 An operation failed. A client and a daemon without a common version of their protocol. A bound of the daemon "
        "that is reached, of clients or of unfetched answers; a later attempt may succeed. Of diff: the two differ."
    )
    assert all(re.fullmatch(r"\d+ [A-Z][^()]*\.", each) for each in meanings)


@needs_mandoc
def test_the_page_of_the_configuration_has_every_key(share: Path) -> None:
    """Each has its meaning, its allowed values, and its default."""
    text = page(share, "ckptree.toml.5")

    for key, value in asdict(Config()).items():
        shown = f"0o{value:o}" if key == "socket_mode" else "false" if value is False else value or "none"
        name = next((name for name, of in RECORD.items() if of == key), key)
        assert re.search(rf" {name} [A-Z].* Must be .* Default: {shown}\.", text)


@needs_mandoc
def test_the_page_of_the_format_has_its_grammar(share: Path) -> None:
    """The grammar is that of the code."""
    text = page(share, "ckptree-image.5")

    assert "image = head PIDS pids TREE tasks {FOREIGN} [EXTENSION] TAIL" in text
    assert "8101 EXTENSION" in text
    assert r"\xHH one byte that is not part of valid UTF-8" in text


def test_the_same_sources_make_the_same_files(share: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time is given, as for reproducible builds."""
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "86400")
    texts = [[path.read_text() for path in write(tmp_path / name)] for name in ("a", "b")]

    assert texts[0] == texts[1]
    assert ".TH CKPTREE 1 1970-01-02 " in texts[0][0]


def test_help_tells_of_arguments_too() -> None:
    """Not every version of click that typer accepts does so."""
    text = here("snapshot", "--help").stdout.decode()

    assert "A pid, as this process counts" in text


def test_what_can_be_watched_is_named_in_the_help() -> None:
    """The words of the help are written by hand."""
    (kind,) = (
        option for verb in VERBS if verb.name == "watch" for option in verb.options if option.names == ("--kind",)
    )

    assert kind.help == f"Print only these kinds, with commas: {', '.join(KINDS)}."


# ---- completions ---------------------------------------------------------------------------------------------------

BASH = """
source "$1"
shift
COMP_WORDS=("$@")
COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
compopt() { :; }
_ckptree
printf '%s\\n' "${COMPREPLY[@]}"
"""


def in_bash(share: Path, *words: str) -> list[str]:
    """Return bash's completions of the last word."""
    script = share / "bash-completion/completions/ckptree"
    ran = subprocess.run(["bash", "-c", BASH, "bash", script, *words], capture_output=True, text=True, check=True)
    assert ran.stderr == ""
    return ran.stdout.split()


OFFERS: tuple[tuple[tuple[str, ...], list[str]], ...] = (
    (("ckptree", "sn"), ["snapshot"]),
    (("ckptree", ""), sorted(verb.name for verb in VERBS)),
    (("ckptree", "snapshot", "--so"), ["--socket", "--source"]),
    (("ckptree", "snapshot", "--source", ""), ["auto", "bpf", "daemon", "procfs"]),
    (("ckptree", "snapshot", "1", "-f", "m"), ["msgpack"]),
    (("ckptree", "snapshot", "pidn"), ["pidns:"]),
    (("ckptree", "snapshot", "1", "--timeout", ""), []),
    (("ckptree", "show", "pyproj"), ["pyproject.toml"]),
    (("ckptree", "snapshot", "1", "-o", "pyproj"), ["pyproject.toml"]),
    (("ckptree", "daemon", "--ring"), ["--ring-bytes"]),
    (("ckptree", "hook", ""), ["criu"]),
    (("ckptree", "hook", "criu", "--req"), ["--required"]),
    (("ckptree", "fleet", "ta"), ["takeover"]),
    (("ckptree", "fleet", "events", ""), []),
    (("ckptree", "fleet", "events", "node1", ""), []),
    (("ckptree", "fleet", "takeover", "node1", ""), []),
    (("ckptree", "fleet", "snapshot", "--root", ""), []),
    (("ckptree", "relay", "--follow", "node1", ""), []),
)
"""Words, with the completions of the last one in the folder of this checkout."""


def test_bash_offers_what_fits(share: Path) -> None:
    """Completions are verbs, options, values, and files."""
    assert [sorted(in_bash(share, *words)) for words, _ in OFFERS] == [offered for _, offered in OFFERS]


@pytest.mark.skipif(not shutil.which("fish"), reason="fish is not installed")
def test_fish_offers_the_same(share: Path) -> None:
    """Each completion has its meaning."""
    lines = "; echo //; ".join(f"complete -C '{' '.join(words)}'" for words, _ in OFFERS)
    script = share / "fish/vendor_completions.d/ckptree.fish"
    command = ["fish", "--no-config", "-c", f"source {script}; {lines}"]
    ran = subprocess.run(
        command, capture_output=True, text=True, check=True, env={**os.environ, "HOME": os.fspath(share)}
    )
    offered = [
        sorted(line.partition("\t")[0] for line in part.strip().splitlines()) for part in ran.stdout.split("//\n")
    ]

    assert offered == [expected for _, expected in OFFERS]


def test_bash_offers_values_behind_an_equals_sign_and_processes(share: Path) -> None:
    """bash splits words at the equals sign."""
    assert in_bash(share, "ckptree", "snapshot", "--source", "=", "d") == ["daemon"]
    assert in_bash(share, "ckptree", "snapshot", "--source", "=") == ["auto", "daemon", "bpf", "procfs"]
    assert str(os.getpid()) in in_bash(share, "ckptree", "snapshot", str(os.getpid()))


def test_bash_offers_folders_of_criu_images_where_a_snapshot_is_read(share: Path) -> None:
    """bash splits words at the colon, unless COMP_WORDBREAKS lacks it."""
    assert in_bash(share, "ckptree", "show", "cri") == ["criu:"]
    assert in_bash(share, "ckptree", "convert", "criu", ":", "expor") == ["exporters"]
    assert in_bash(share, "ckptree", "diff", "criu:expor") == ["criu:exporters"]
    assert "criu:" not in in_bash(share, "ckptree", "show", "criu", ":")
    assert in_bash(share, "ckptree", "daemon", "cri") == []


def test_bash_offers_each_kind_of_a_list(share: Path) -> None:
    """The words before the last comma stay."""
    assert in_bash(share, "ckptree", "watch", "--kind", "birth,ex") == ["birth,exec"]
    assert in_bash(share, "ckptree", "watch", "--kind", "=", "se") == ["setsid", "setpgid"]
    assert in_bash(share, "ckptree", "watch", "--kind", "birth,") == [f"birth,{kind}" for kind in KINDS]


def test_bash_offers_the_pid_of_a_process_that_is_named(share: Path) -> None:
    """Several processes with the name are shown with it."""
    name = "a-rare-name"
    rename = f"echo -n {name} >/proc/self/comm; read line"

    def renamed() -> "subprocess.Popen[bytes]":
        process = subprocess.Popen(["bash", "-c", rename], stdin=subprocess.PIPE)
        while name not in Path(f"/proc/{process.pid}/comm").read_text():
            pass
        return process

    with renamed() as one:
        assert in_bash(share, "ckptree", "tree", "a-rare") == [str(one.pid)]
        with renamed() as other:
            offered = in_bash(share, "ckptree", "tree", "a-rare")
            assert sorted(offered[::2]) == sorted([str(one.pid), str(other.pid)])
            assert set(offered[1::2]) == {f"({name})"}
            other.kill()
        one.kill()


@needs_mandoc
def test_pages_have_examples_and_their_environment(share: Path) -> None:
    """The lines of the examples are as they are typed."""
    for name, found in (("ckptree.1", examples.OF_COMMAND), ("ckptree-daemon.8", examples.OF_DAEMON)):
        text = page(share, name)
        assert "CKPTREE_SOCKET" in text.partition("ENVIRONMENT")[2]
        assert all(line in text.partition("EXAMPLES")[2] for _, lines in found for line in lines)


def test_the_verbs_and_options_of_examples_exist() -> None:
    """The code defines them."""
    known = {verb.name: {name for option in verb.options for name in option.names} for verb in VERBS}
    for _, lines in (*examples.OF_COMMAND, *examples.OF_DAEMON):
        for line in lines:
            verb, *words = shlex.split(line.partition("ckptree ")[2])
            assert {word for word in words if word.startswith("-")} <= known[verb]


def test_every_option_has_a_sentence() -> None:
    """It begins with a capital and ends with a full stop."""
    wrong = [
        (verb.name, option.names)
        for verb in VERBS
        for option in verb.options
        if not re.fullmatch(r"[A-Z].*\.", option.help) or len(option.help.split()) < 2
    ]

    assert wrong == []


def test_the_help_names_formats_of_other_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are found by their entry points, without an import."""
    about = tmp_path / "foreign-1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: foreign\nVersion: 1\n")
    (about / "entry_points.txt").write_text("[ckptree.exporters]\nwonder = foreign:FORMAT\n")
    monkeypatch.syspath_prepend(os.fspath(tmp_path))
    for verb in ("snapshot", "convert"):
        text = " ".join(here(verb, "--help").stdout.decode().split())
        assert "Other packages add: wonder." in text


@pytest.mark.skipif(not shutil.which("zsh"), reason="zsh is not installed")
def test_zsh_can_read_its_script(share: Path) -> None:
    """Every verb has a line in it."""
    script = share / "zsh/vendor-completions/_ckptree"
    subprocess.run(["zsh", "-n", script], check=True)
    text = script.read_text()

    assert text.startswith("#compdef ckptree\n")
    assert all(f"        {verb.name}) _arguments " in text for verb in VERBS)
    local = {verb.name for verb in VERBS if re.search(rf" {verb.name}\) .*_ckptree_root", text)}
    assert local == {"snapshot", "tree", "watch", "events", "export"}


def test_every_option_is_in_every_script(share: Path) -> None:
    """This holds for each shell."""
    texts = [path.read_text() for path in share.rglob("*ckptree*") if path.is_file() and "man" not in path.parts]

    def has(text: str, verb: Verb) -> bool:
        return all(re.search(rf"{name}\b|-l {name[2:]}\b", text) for one in verb.options for name in one.names)

    assert len(texts) == 3
    assert all(has(text, verb) for text in texts for verb in VERBS)
