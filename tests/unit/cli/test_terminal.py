# SPDX-License-Identifier: Apache-2.0
"""Messages and documents on a terminal: no text from a file or another user commands it."""

import ast
import json
import os
import pty
from pathlib import Path
from typing import Final

import pytest

from agent.cli import terminal
from exporters import registry
from exporters.content.wording import plain_json
from tests.support.commandline import here
from tests.support.images import GOLDEN

EVIL: Final = "\x1b]0;owned\x07\x9b2J\x7f\u202e\u2066\u200f\ud89b\U000e0041\r"
"""Commands of terminals in C0, DEL and C1, changes of direction, half a surrogate pair, and an invisible tag."""


def on_a_terminal(*arguments: str | Path) -> bytes:
    """Return what a verb writes to a terminal that is its standard output and standard error."""
    controller, end = pty.openpty()
    try:
        here(*arguments, streams={0: end, 1: end, 2: end})
        os.close(end)
        said = b""
        try:
            while data := os.read(controller, 1 << 16):
                said += data
        except OSError:  # EIO: all is read
            pass
        return said.replace(b"\r\n", b"\n")
    finally:
        os.close(controller)


def is_harmless(said: bytes) -> bool:
    """Return True if a text has no control character but newlines."""
    return all(line.isprintable() for line in said.decode().split("\n"))


def test_a_message_has_no_control_character_whatever_is_in_it(capfd: pytest.CaptureFixture[str]) -> None:
    """Its newlines stay, and each further line is indented: none begins as a message does."""
    terminal.say(f"cannot read {EVIL}\nckptree: all is well\n  of it")
    terminal.tell(f"error {EVIL}\nnext")
    data, said = capfd.readouterr()

    assert is_harmless(said.encode())
    assert is_harmless(data.encode())
    assert data.startswith(r"error \x1b")
    assert data.endswith("\nnext\n")
    assert said.startswith(r"ckptree: cannot read \x1b]0;owned\x07\x9b2J\x7f\u202e\u2066\u200f\ud89b\U000e0041\r")
    assert said.splitlines()[1:] == ["  ckptree: all is well", "  of it"]


def test_an_error_that_names_a_file_is_printed_without_control_characters() -> None:
    """A wildcard of a shell gives names of other users' files."""
    for verb in ("show", "check", "plan"):
        ran = here(verb, "/nowhere/\x1b[2J\u202e")
        assert is_harmless(ran.stderr)
        assert rb"\x1b[2J\u202e" in ran.stderr
    ran = here("convert", "/nowhere/\x1b[2J", "/dev/null")
    assert rb"\x1b[2J" in ran.stderr
    assert is_harmless(ran.stderr)


@pytest.mark.parametrize(
    "arguments",
    [
        ("{}",),
        ("--{}",),
        ("show", "a", "{}"),
        ("show", "--{}"),
        ("snapshot", "1", "--timeout", "{}"),
        ("snapshot", "1", "--mode", "{}"),
        ("daemon", "{}"),
        ("daemon", "--ring-bytes", "{}"),
    ],
    ids=" ".join,
)
def test_a_usage_error_that_quotes_an_argument_is_printed_without_control_characters(
    arguments: tuple[str, ...],
) -> None:
    """A wildcard gives more names than a verb takes, and each may be any text."""
    ran = here(*(word.replace("{}", "\x1b[2J\u202e\nckptree: all is well") for word in arguments))

    assert ran.returncode == 2
    assert is_harmless(ran.stderr)
    assert rb"\x1b[2J\u202e\nckptree: all is well" in ran.stderr


def test_help_is_printed_as_it_is() -> None:
    """A verb without its arguments, and the program without a verb."""
    for arguments in ((), ("--help",), ("show",)):
        ran = here(*arguments)
        assert b"\\n" not in ran.stdout + ran.stderr
        assert len((ran.stdout + ran.stderr).splitlines()) > 2


def test_a_document_on_a_terminal_is_the_same_in_other_letters(tmp_path: Path) -> None:
    """A pipe and a file get the same bytes as before."""
    evil = EVIL.replace("\ud89b", "")
    document = json.loads(registry.image(registry.load(GOLDEN), "json"))
    document["evil"] = {evil: [evil]}
    path = tmp_path / "evil.json"
    path.write_text(json.dumps(document))
    for arguments in (
        ("show", "--json", path),
        ("convert", path, "-", "-f", "json"),
        ("convert", path, "/dev/stdout", "-f", "json"),
    ):
        said = on_a_terminal(*arguments)

        assert is_harmless(said)
        assert json.loads(said)["evil"] == {evil: [evil]}
    piped = here("show", "--json", path).stdout
    assert "\u202e".encode() in piped
    assert json.loads(plain_json(piped.decode())) == json.loads(piped)
    assert is_harmless(on_a_terminal("convert", path, "-", "-f", "dot").replace(b"\t", b""))


def test_every_verb_prints_through_here() -> None:
    """But for drawings with colours, whose texts are escaped before."""
    others = [
        "terminal.draw(treeview.render",
        'typer.echo(f"ckptree {version(',
        """print(f'{{"root": {root}, "tasks": [{tasks}]}}'""",
    ]
    sinks = ("typer.echo", "terminal.draw", "print(", "sys.stderr.write", "sys.stdout.buffer.write")
    found = [
        f"{module.name}: {call}"
        for module in sorted(Path(terminal.__file__).parent.glob("*.py"))
        for node in ast.walk(ast.parse(module.read_text()))
        if isinstance(node, ast.Call) and (call := ast.unparse(node)).startswith(sinks)
        if module.name not in ("terminal.py", "message.py") and not call.startswith(tuple(others))
    ]

    assert found == []
