# SPDX-License-Identifier: Apache-2.0
"""The page on architecture is true: its names exist, and each walk enters a room once."""

import importlib
import itertools
import re
from pathlib import Path

import pytest

TOP = Path(__file__).parents[3]
TEXT = (TOP / "docs" / "architecture.md").read_text()
SECTIONS = dict(re.findall(r"^## (.+)\n((?:(?!^## ).*\n)*)", TEXT, re.MULTILINE))
WALKS = {title: body for title, body in SECTIONS.items() if title.startswith("The life of")}
NAME = re.compile(r"`((?:agent|exporters|bpf)(?:\.\w+)+)`")
PLACE = re.compile(r"`([\w/]+\.[ch])`: `(\w+)`")


def resolve(name: str) -> object:
    """Return the module, class or function of a dotted name."""
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            found: object = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for part in parts[cut:]:
            found = getattr(found, part)
        return found
    raise ModuleNotFoundError(name)


def room(step: str) -> str:
    """Return the package of a step of a walk."""
    if found := PLACE.search(step):
        return str(Path(found[1]).parent)
    name = NAME.search(step)
    assert name, f"no name in: {step}"
    parts = name[1].split(".")
    return ".".join(parts[: 3 if parts[1] == "restart" else 2 if parts[0] == "agent" else 1])


@pytest.mark.parametrize("name", sorted(set(NAME.findall(TEXT))))
def test_a_name_on_the_page_is_one_of_the_code(name: str) -> None:
    """So a rename in the code needs one on the page."""
    resolve(name)


@pytest.mark.parametrize("place", sorted(set(PLACE.findall(TEXT))), ids=" ".join)
def test_a_function_of_c_stands_in_the_file_named(place: tuple[str, str]) -> None:
    """A call does not count as its definition."""
    assert re.search(rf"^[\w *]*\b{place[1]}\(", (TOP / place[0]).read_text(), re.MULTILINE)


@pytest.mark.parametrize("path", sorted(set(re.findall(r"`((?:agent|bpf|exporters)/[\w/]+(?:\.\w+)?)`", TEXT))))
def test_a_path_on_the_page_exists(path: str) -> None:
    """Paths are files or folders."""
    assert (TOP / path).exists()


@pytest.mark.parametrize("title", sorted(WALKS))
def test_a_walk_enters_each_room_once(title: str) -> None:
    """It never returns to a room that it has left."""
    steps = re.findall(r"^\d+\. .+", WALKS[title], re.MULTILINE)
    rooms = [room for room, _ in itertools.groupby(map(room, steps))]

    assert len(steps) > 5
    assert len(rooms) == len(set(rooms)), rooms


def test_the_six_walks_are_there() -> None:
    """They are those of an event, of a recording, of a request, of an image, of a set and of contents."""
    assert sorted(WALKS) == [
        *(
            "The life of a fork record",
            "The life of a recording",
            "The life of a request",
            "The life of a set",
            "The life of an image",
            "The life of contents",
        ),
    ]
