# SPDX-License-Identifier: Apache-2.0
"""The page as text: what it embeds, how it is quoted, and that it needs nothing beside itself."""

import base64
import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import given

from agent.model import ProcessDetails, Snapshot, TaskState
from exporters import registry
from exporters.documents import jsonfmt
from exporters.drawing import pageframe
from exporters.drawing.htmlpage import dumps
from tests.support.builders import a_crowd, a_family, a_pipeline, a_snapshot, a_task, snapshots, with_task
from tests.support.examples import patient

VOID: Final = {"meta", "input", "link", "br"}
HOSTILE: Final = (
    b"</script><b>",
    b"<!--<script>",
    b"]]>{{IMAGE}}",
    b"\"\\u003c'",
    b"\xe2\x80\xae\x1b[31m",
    b"&lt;\xff",
)


class Elements(HTMLParser):
    """The elements of a page, checked for proper nesting.

    Attributes:
        found: name, attributes and text of each element, in order.
    """

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None], list[str]]] = []
        self._open: list[tuple[str, list[str]]] = []
        self.feed(page)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Record an element."""
        assert len(attrs) == len(dict(attrs)), f"an attribute of {tag} is there twice"
        text: list[str] = []
        self.found.append((tag, dict(attrs), text))
        if tag not in VOID:
            self._open.append((tag, text))

    def handle_endtag(self, tag: str) -> None:
        """End an element, which must be the one begun last."""
        assert self._open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        """Record a text."""
        if self._open:
            self._open[-1][1].append(data)

    def text(self, tag: str, **attributes: str) -> str:
        """Return the text of the one element with this name and these attributes."""
        (text,) = [text for name, has, text in self.found if name == tag and attributes.items() <= has.items()]
        return "".join(text)


def embedded(snapshot: Snapshot) -> dict[str, Any]:
    """Return the image within the page of a snapshot."""
    found: dict[str, Any] = json.loads(Elements(dumps(snapshot).decode()).text("script", type="application/json"))
    return found


def test_a_page_is_text_and_equal_for_equal_snapshots() -> None:
    """It may go to a terminal, as dot may, and is no format to be read back."""
    assert registry.find("html").text
    assert "html" not in registry.LOSSLESS
    assert registry.dump(a_family(), "html").data == dumps(a_family())


def test_a_page_names_no_address_and_nothing_beside_itself() -> None:
    """No attribute leads anywhere, and the style sheet fetches nothing."""
    page = Elements(dumps(a_family()).decode())
    leading = {"src", "href", "srcset", "action", "data", "style", "background", "poster", "ping", "formaction"}

    assert [(tag, has) for tag, has, _ in page.found if leading & has.keys()] == []
    assert [has for _, has, _ in page.found if any(key.startswith("on") for key in has)] == []
    assert not re.search(r"url\(|@import", page.text("style"))
    assert "://" not in dumps(a_family()).decode()


def test_the_policy_allows_the_one_script_and_the_one_style_sheet_by_their_digests() -> None:
    """Everything else is forbidden, above all the network."""
    page = Elements(dumps(a_family()).decode())
    (policy,) = [has["content"] for _, has, _ in page.found if has.get("http-equiv") == "Content-Security-Policy"]
    (script,) = ["".join(text) for tag, has, text in page.found if tag == "script" and not has]
    sha = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (script, page.text("style"))]

    assert policy == (
        f"default-src 'none'; script-src 'sha256-{sha[0]}'; style-src 'sha256-{sha[1]}'; "
        "base-uri 'none'; form-action 'none'"
    )


def test_ids_of_elements_are_unique_and_labels_lead_to_them() -> None:
    """HTML asks for it."""
    ids = [has["id"] for _, has, _ in Elements(dumps(a_family()).decode()).found if "id" in has]

    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("name", HOSTILE)
def test_foreign_text_stays_text(name: bytes) -> None:
    """No name or argument ends the element that it is in, or takes the place of a part of the page."""
    snapshot = with_task(a_family(), 2, comm=name[:15], argv=(name, name), cwd=name)
    page = dumps(snapshot).decode()
    plain_page = dumps(a_family()).decode()

    assert [tag for tag, _, _ in Elements(page).found] == [tag for tag, _, _ in Elements(plain_page).found]
    raw = re.search(r'<script type="application/json" id="image">(.*?)</script>', page, re.DOTALL)
    assert raw
    assert not set("<>&") & set(raw[1])
    assert raw[1].isascii()
    assert raw[1].isprintable()


def test_the_page_has_the_facts_of_a_task() -> None:
    """Names are as every drawing has them; facts that are not known have no key."""
    snapshot = with_task(a_family(), 2, details=ProcessDetails(exe=b"/usr/bin/make"), start_ns=7_654_321)
    task = next(task for task in embedded(snapshot)["tasks"] if task["pid"] == 2)

    assert task == {
        "pid": 2, "ppid": 1, "tgid": 2, "pgid": 2, "sid": 1, "start": 7654, "state": "running", "uid": 0, "gid": 0,
        "comm": "make", "argv": "make -j\\xff\\\\", "cwd": "/src", "exe": "/usr/bin/make",
        "notes": [["group", "group leader"]],
        "birth": {"creator": 1, "observed": True, "order": 2, "sid": "4711", "pgid": "4711"},
    }  # fmt: skip


def test_the_page_has_no_environment() -> None:
    """It holds secrets, and the page is for showing to others."""
    snapshot = with_task(a_family(), 2, env=(b"TOKEN=hush-hush",))

    assert b"hush" not in dumps(snapshot)
    assert b"hush" in jsonfmt.dumps(snapshot)


def test_an_assumed_birth_has_no_creator() -> None:
    """The page then says so."""
    task = next(task for task in a_family().tasks if task.pid == 7)
    snapshot = with_task(a_family(), 7, birth=task.birth and task.birth._replace(creator=None, observed=False))
    found = next(task for task in embedded(snapshot)["tasks"] if task["pid"] == 7)

    assert found["birth"] == {"observed": False, "order": 6}


def test_ghosts_and_ancestors_are_there() -> None:
    """A ghost with its uses, an ancestor with what it did."""
    found = embedded(a_family())

    assert found["ghosts"] == [[3, ["group of 4722"]]]
    assert found["ancestors"] == [
        {
            "numbers": [4700], "namespaces": [0], "creator": 1, "observed": True, "order": 5, "sid": "4711",
            "pgid": "outside", "events": ["setpgid 4690 as event 6", "subreaper 1 as event 7", "exit as event 8"],
        }
    ]  # fmt: skip


def test_a_gone_creator_that_is_a_group_too_has_the_tag_of_the_group() -> None:
    """The page shows it once. A number that only happens to be the same is no tag."""
    assert [gone["tag"] for gone in embedded(a_pipeline())["ancestors"]] == [3]
    assert [gone.get("tag") for gone in embedded(a_pipeline(events=False, inherited=False))["ancestors"]] == [None]


def test_users_have_the_names_that_are_given() -> None:
    """The names are foreign text; a user without one has the id alone."""
    snapshot = a_snapshot([(1,), (2,)], [a_task(1, 0), a_task(2, 1, uid=1000)])
    page = dumps(snapshot, lambda uid: {0: "r\x1b<t"}.get(uid)).decode()
    found = json.loads(Elements(page).text("script", type="application/json"))

    assert found["users"] == {"0": r"r\x1b<t"}
    assert embedded(snapshot)["users"] == {}


def test_an_incomplete_image_says_why() -> None:
    """The words are those of `show`."""
    family = a_family()
    found = embedded(replace(family, completeness=replace(family.completeness, verified="no", reasons=("torn <b>",))))

    assert not found["complete"]
    assert found["trust"] == "INCOMPLETE · not verified · torn <b>"
    assert found["notes"][-1] == "cannot be rebuilt: has a reason"


def test_long_command_lines_are_cut() -> None:
    """So a page of many tasks stays a page."""
    (task,) = embedded(a_snapshot(tasks=[a_task(1, 0, argv=(b"x" * 100_000, b""))]))["tasks"]

    assert task["argv"] == "x" * 4096 + "…"


@pytest.mark.slow
def test_a_page_of_many_tasks_is_small() -> None:
    """The bound is for tasks without arguments."""
    assert len(dumps(a_crowd(20_000))) < 20_000 * 400


@given(snapshots())
@patient
def test_any_snapshot_has_a_page(snapshot: Snapshot) -> None:
    """Every task, pid and ancestor is in it."""
    found = embedded(snapshot)

    assert [task["pid"] for task in found["tasks"]] == [task.pid for task in snapshot.tasks]
    assert [tuple(numbers) for numbers, _ in found["pids"]] == [pid.numbers for pid in snapshot.pids]
    assert len(found["ancestors"]) == len(snapshot.ancestors)
    assert {task.get("state") for task in found["tasks"]} <= {None, *TaskState}


def test_all_pages_have_one_frame() -> None:
    """Each fills the places that the frame has, and says which verb prints the same without a script."""
    tree = dumps(a_family()).decode()
    frame = (Path(pageframe.__file__).parent / "page" / "frame.html").read_text()
    before, _, rest = frame.partition("{{TOOLS}}")

    assert before.rpartition("{{COMMAND}}")[2] in tree
    assert rest.partition("{{MAIN}}")[0] in tree
    assert "<code>ckptree show</code> prints the same" in tree
    assert not re.search(r"\{\{[A-Z]+\}\}", tree)
