# SPDX-License-Identifier: Apache-2.0
"""README.md and the pages in docs: their links lead somewhere, and their commands exist and print the shown output.

`make docs` builds the site and checks the links once more, with packages that no other test needs.
"""

import ast
import pwd
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from manual.verbs import verbs
from tests.support.commandline import here

TOP = next(folder for folder in Path(__file__).parents if (folder / "pyproject.toml").is_file())
README = TOP / "README.md"
PAGES = [
    README,
    *(TOP / f"{name}.md" for name in ("SECURITY", "CONTRIBUTING", "CHANGELOG")),
    *(TOP / "docs").glob("*.md"),
]
WRITTEN = [page for page in PAGES if page.name != "matrix.md"]
OPTIONS = {verb.name: {name for option in verb.options for name in option.names} for verb in verbs()}
BEFORE_VERBS = {"--help", "-h", "--version"}

FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
OPTION = re.compile(r"--?[a-z][a-z-]*")


def named(page: Path) -> str:
    """Return the path of a page, for the name of a test."""
    return str(page.relative_to(TOP))


def prose(page: Path) -> str:
    """Return a page without its blocks of code."""
    return FENCE.sub("", page.read_text())


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as viewers of Markdown make them."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(page: Path) -> Iterator[tuple[Path, str]]:
    """Yield the file and the anchor of each link to this project."""
    for target in LINK.findall(prose(page)):
        if not re.match(r"[a-z]+:", target):
            path, _, anchor = target.partition("#")
            yield (page.parent / path if path else page).resolve(), anchor


def commands(page: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield each verb of ckptree in a page's code, with the words behind it, up to a pipe, a comment or another
    command.
    """
    text = page.read_text()
    code = [*FENCE.findall(text), *re.findall(r"`([^`\n]+)`", FENCE.sub("", text))]
    for line in (line for piece in code for line in piece.splitlines()):
        for found in re.finditer(r"(?<![\w.-])(?<!-[nu] )ckptree ([a-z-].*)", line):
            plain = re.sub(r"'[^']*'", "QUOTED", found[1])
            words = re.split(r" [|#;] |; ", plain)[0].split()
            if words[0] in OPTIONS or words[0].startswith("-"):
                yield words[0], words[1:]


def examples() -> list[tuple[str, str]]:
    """Return the commands of the README that need no rights and no other process, each with its shown output."""
    found = []
    for block in re.findall(r"^```console\n(.*?)^```$", README.read_text(), re.MULTILINE | re.DOTALL):
        for piece in re.split(r"^(?=[$#] )", block, flags=re.MULTILINE):
            command, _, printed = piece.partition("\n")
            if command.startswith("$ ckptree "):
                found.append((command.removeprefix("$ ckptree "), printed))
    return found


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_link_leads_to_a_page_and_a_heading_of_it(page: Path) -> None:
    """Links to other hosts are not checked."""
    broken = [
        f"{path.name}#{anchor}"
        for path, anchor in links(page)
        if not path.exists() or (anchor and anchor not in anchors(path))
    ]

    assert not broken


def test_the_readme_is_read_in_two_minutes() -> None:
    """Everything further has a page of its own."""
    assert len(README.read_text().splitlines()) <= 150


@pytest.mark.parametrize("page", WRITTEN, ids=named)
def test_every_verb_and_option_of_a_command_exists(page: Path) -> None:
    """The command line defines them."""
    unknown = [
        (verb, word)
        for verb, words in commands(page)
        for word in (verb, *words)
        if (found := OPTION.fullmatch(word.partition("=")[0])) and found[0] not in OPTIONS.get(verb, BEFORE_VERBS)
    ]

    assert not unknown


def test_every_option_that_stands_alone_belongs_to_a_verb() -> None:
    """Options of other programs are shown with the program."""
    known = set().union(*OPTIONS.values(), BEFORE_VERBS)
    alone = {option for page in WRITTEN for option in re.findall(r"`(--[a-z][a-z-]*)[ `]", prose(page))}

    assert alone > {"--no-pids", "--with-argv"}
    assert not alone - known


def test_every_verb_has_its_place_in_the_page_of_commands() -> None:
    """No other verb has a place there."""
    rows = re.findall(r"^\| \[`ckptree ([a-z]+)", (TOP / "docs" / "commands.md").read_text(), re.MULTILINE)

    assert sorted(rows) == sorted(OPTIONS)


@pytest.mark.parametrize(("command", "printed"), examples())
def test_an_example_prints_what_the_readme_shows(command: str, printed: str) -> None:
    """``...`` stands for further lines. The host of the images shows the names of users, any other one their ids."""
    ran = here(*shlex.split(command), cwd=TOP)
    text = re.sub(r"\buser (\S+)", lambda found: f"uid {pwd.getpwnam(found[1]).pw_uid}", ran.stdout.decode())
    pieces = [re.escape(piece) for piece in re.split(r"^\.\.\.\n", printed, flags=re.MULTILINE)]

    assert ran.stderr == b""
    assert re.fullmatch(r"(?:.*\n)+?".join(pieces), text)


def test_the_readme_shows_examples_that_can_be_tried() -> None:
    """They are of verbs that read a file."""
    assert {command.split()[0] for command, _ in examples()} >= {"show", "diff", "plan"}


def test_the_site_has_every_page_in_its_navigation() -> None:
    """`make docs` fails for a page outside of it."""
    tree = ast.parse((TOP / "docs" / "conf.py").read_text())
    constants = [node for node in tree.body if isinstance(node, ast.AnnAssign) and node.value is not None]
    listed = [name for node in constants if node.value for name in ast.literal_eval(node.value)]

    assert sorted(listed) == sorted(page.stem for page in (TOP / "docs").glob("*.md"))


def test_the_glossary_is_short_and_in_order() -> None:
    """It has at most forty terms, each in few words."""
    terms = re.findall(r"^\* \*\*(.+?)\*\*: (.+)$", (TOP / "docs" / "glossary.md").read_text(), re.MULTILINE)

    assert 20 < len(terms) <= 40
    assert [term for term, _ in terms] == sorted((term for term, _ in terms), key=str.lower)
    assert all(len(meaning.split()) < 45 for _, meaning in terms)
