# SPDX-License-Identifier: Apache-2.0
"""The page in a browser: the tree, the search, the keys, the births, and names that try to be more than names."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, given, settings

from agent.model import Snapshot, TaskState, WaitStatus
from exporters.content.identity import UserName, nameless
from exporters.drawing.htmlpage import dumps
from tests.support.browser import Browser, browser, needed
from tests.support.builders import a_crowd, a_family, a_pipeline, a_snapshot, a_task, born, snapshots, with_task
from tests.support.examples import examples

pytestmark = pytest.mark.slow

ROWS: Final = "[...document.querySelectorAll('.row')].map(row => (row.querySelector('.number') || row).textContent)"
CHOSEN: Final = "document.querySelector('#chosen .number')?.textContent ?? null"
DETAILS: Final = "document.getElementById('details').innerText"


@pytest.fixture(scope="module")
def page() -> Iterator[Browser]:
    """Yield a browser."""
    needed()
    with browser() as found:
        yield found


@pytest.fixture
def shows(page: Browser, tmp_path: Path) -> Iterator[Any]:
    """Yield a function that opens the page of a snapshot; the page must not complain, nor ask for anything."""
    page.events.clear()

    def show(snapshot: Snapshot, fragment: str = "", names: UserName = nameless) -> Browser:
        path = tmp_path / "page.html"
        path.write_bytes(dumps(snapshot, names))
        page.open(path, fragment)
        return page

    yield show
    assert page.complaints() == []
    assert page.requests() == []


def find(page: Browser, query: str) -> list[str]:
    """Type into the search, and return the rows."""
    page.press("/", *query)
    rows: list[str] = page.js(ROWS)
    return rows


def test_the_tree_has_the_rows_of_show(shows: Any) -> None:
    """Threads are hidden at first, ghosts and those who are gone follow the tree."""
    page = shows(a_family())

    assert page.js("document.compatMode") == "CSS1Compat"
    assert page.js(ROWS) == [
        "4711", "4712", "4720/1", "4722",
        "Pids without a task here", "4690", "Gone, and others were born of them", "4700",
    ]  # fmt: skip
    assert "2 threads" in page.js("document.querySelectorAll('.row')[1].innerText")
    assert page.js("[...document.querySelectorAll('[role=treeitem]')].map(row => row.ariaLevel)")[:4] == list("1232")


def test_a_gone_creator_that_is_a_group_too_has_one_row(shows: Any) -> None:
    """The panel has what is known of it as either."""
    page = shows(a_pipeline(), "#pid=4712")

    assert page.js(ROWS) == ["4711", "4713", "Pids without a task here", "4712"]
    said = page.js(DETAILS)
    for fact in ("4712 gone", "group of 4713", "this task has exited", "of 4711 bash, observed", "exit as event 5"):
        assert fact in said
    page.press("Home", "ArrowDown")
    assert "of 4712 gone, observed" in page.js(DETAILS)


def test_users_are_shown_and_found_by_their_names(shows: Any) -> None:
    """One without a name is shown by the id, by which all are found."""
    tasks = [a_task(1, 0), a_task(2, 1, uid=1000)]
    page = shows(a_snapshot([(100,), (101,)], tasks), "#pid=100", lambda uid: {0: "Root"}.get(uid))

    assert page.js("[...document.querySelectorAll('.side')].map(side => side.textContent.split(' · ').at(-1))") == [
        "Root",
        "uid 1000",
    ]
    assert "Root, uid 0, gid 0" in page.js(DETAILS)
    assert find(page, "user:root") == ["100"]
    page.press("Escape")
    assert find(page, "user:1000") == ["100", "101"]


def test_threads_are_shown_on_request(shows: Any) -> None:
    """They stand between their process and its children."""
    page = shows(a_family())
    page.js("document.getElementById('threads').click()")
    page.settle()

    assert page.js(ROWS)[:6] == ["4711", "4712", "4713", "4714", "4720/1", "4722"]


def test_keys_move_fold_and_unfold(shows: Any) -> None:
    """Left folds, then goes to the parent; right unfolds, then goes to the first child."""
    page = shows(a_family())
    page.press("ArrowDown", "ArrowDown")
    assert page.js(CHOSEN) == "4712"

    page.press("ArrowLeft")
    assert page.js(ROWS)[:3] == ["4711", "4712", "4722"]
    assert page.js("document.getElementById('chosen').ariaExpanded") == "false"

    page.press("ArrowRight", "ArrowRight")
    assert page.js(CHOSEN) == "4720/1"

    page.press("ArrowLeft", "Enter")
    assert page.js(CHOSEN) == "4712"
    assert page.js(ROWS)[:3] == ["4711", "4712", "4722"]

    page.press("End")
    assert page.js(CHOSEN) == "4700"
    page.press("ArrowUp")
    assert page.js(CHOSEN) == "4690"
    page.press("Escape")
    assert page.js(CHOSEN) is None


def test_a_search_shows_what_it_finds_below_its_parents(shows: Any) -> None:
    """Enter goes from one to the next, Esc ends the search and keeps the choice."""
    page = shows(a_family())

    assert find(page, "make") == ["4711", "4712", "4713"]
    assert page.js("document.getElementById('found').textContent") == "2 found"
    page.press("Enter", "Enter")
    assert page.js(CHOSEN) == "4713"
    page.press("Escape")
    assert page.js("document.getElementById('search').value") == ""
    assert page.js(CHOSEN) == "4713"
    assert page.js("document.activeElement.id") == "tree"


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("session:4720", ["4711", "4712", "4720/1"]),
        ("group:4690", ["4711", "4722"]),
        ("state:zombie", ["4711", "4722"]),
        ("-j\\xff", ["4711", "4712"]),
        ("pid:1", ["4711", "4712", "4720/1"]),
        ("make group", ["4711", "4712"]),
        ("constructor:1", []),
        ("nothing", []),
    ],
)
def test_a_search_knows_fields_and_words(shows: Any, query: str, found: list[str]) -> None:
    """All words of a search must hold."""
    assert [row for row in find(shows(a_family()), query) if row[0].isdigit()][: len(found) or None] == found


def test_a_link_to_a_pid_opens_its_row_and_its_facts(shows: Any) -> None:
    """A path of numbers names a process in its namespaces, one number that in the root's."""
    for fragment in ("#pid=4720", "#pid=4720/1"):
        page = shows(a_family(), fragment)
        assert page.js(CHOSEN) == "4720/1"

    page.js("location.hash = '#pid=4722'")
    page.wait(f"{CHOSEN} === '4722'")
    said = page.js(DETAILS)
    for fact in ("zombie, exited 3", "uid 0, gid 0", "of 4700 gone, observed", "4690 no task", "1 process"):
        assert fact in said
    page.press("Home")
    assert page.js("location.hash") == "#pid=4711"


def test_an_unknown_pid_in_the_address_is_told(shows: Any) -> None:
    """No row is chosen."""
    page = shows(a_family(), "#pid=5")

    assert page.js(CHOSEN) is None
    assert page.js("document.getElementById('found').textContent") == "no pid 5 here"


def test_facts_of_a_process_are_all_in_the_panel(shows: Any) -> None:
    """The numbers at every level are there, and an assumed birth is called that."""
    task = a_family().tasks[2]
    snapshot = with_task(a_family(), task.pid, birth=born(None, None, observed=False), argv=(b"/sbin/init", b"a b"))
    said = shows(snapshot, "#pid=4720").js(DETAILS)

    for fact in ("0\tpid:[4026531836]\t4720", "1\tpid:[4026531837]\t1", "assumed", "/sbin/init 'a b'", "subreaper"):
        assert fact in said


def test_an_age_is_that_at_the_cut_or_at_least_that_of_the_newest_task(shows: Any) -> None:
    """Images of earlier versions do not have the time of their cut on the clock of the births."""
    tasks = [a_task(1, 0, start_ns=10**9), a_task(2, 1, start_ns=31 * 10**9)]
    old = a_snapshot([(100,), (101,)], tasks)
    said = shows(old, "#pid=100").js(DETAILS)
    assert "1.00 s after boot" in said
    assert "at least 30.00 s" in said

    page = shows(replace(old, boottime_ns=3_661 * 10**9), "#pid=100")
    assert "age\n1 h 1 min" in page.js(DETAILS)
    assert page.js("document.querySelector('.side').textContent") == "1 h 1 min · uid 0"


def test_a_choice_of_colours_recolours_the_tree(shows: Any) -> None:
    """The legend explains the ids with their counts."""
    page = shows(a_family())
    legends = {}
    for choice in ("session", "group", "namespace", "user"):
        page.js(
            f"(() => {{ const it = document.getElementById('colour'); it.value = '{choice}'; "
            "it.dispatchEvent(new Event('change')); })()"
        )
        page.settle()
        legends[choice] = page.js("document.getElementById('legend').innerText.split('\\n')")

    assert legends == {
        "session": ["session 4711 (5)", "session 4720/1 (1)"],
        "group": ["group 4712 (3)", "group 4711 (1)", "group 4720/1 (1)", "group 4690 (1)"],
        "namespace": ["pid:[4026531836] (5)", "pid:[4026531837] (1)"],
        "user": ["user 0 (6)"],
    }


def test_the_axis_of_births_leads_to_the_tree(shows: Any) -> None:
    """A click at a dot chooses its task, arrows go from birth to birth."""
    tasks = [a_task(1, 0), *[a_task(tag, 1, start_ns=tag * 10**9) for tag in range(2, 6)]]
    page = shows(a_snapshot([(n,) for n in range(100, 105)], tasks))
    box = page.js(
        "(box => [box.left, box.right, box.bottom])(document.getElementById('births').getBoundingClientRect())"
    )
    page.click(box[1] - 28, box[2] - 25)

    assert page.js(CHOSEN) == "104"
    page.js("document.getElementById('births').focus()")
    page.press("ArrowLeft", "ArrowLeft")
    assert page.js(CHOSEN) == "102"
    assert page.js("location.hash") == "#pid=102"


@pytest.mark.parametrize(
    "name",
    [b"<img src=x onerror=document.title=1>", b"</script><script>document.title=1</script>", b"<!--<script>",
     b"javascript:document.title=1", b"'\"><svg/onload=document.title=1>", b"{{SCRIPT}}", b"__proto__"],
)  # fmt: skip
def test_hostile_names_are_shown_and_never_executed(shows: Any, name: bytes) -> None:
    """The row and the panel show them to the letter."""
    snapshot = with_task(a_family(), 2, comm=name, argv=(name, name), cwd=name)
    page = shows(snapshot, "#pid=4712")

    assert page.js("document.title") == "subtree of 4711"
    assert page.js("document.querySelector('#chosen .comm').textContent") == name.decode()
    assert page.js(DETAILS).count(name.decode()) >= 3
    assert page.js("document.images.length + document.querySelectorAll('svg, iframe').length") == 0
    assert page.js("document.scripts.length") == 2


def test_the_policy_stops_what_a_page_might_be_made_to_run(page: Browser, tmp_path: Path) -> None:
    """Scripts, event attributes, pictures and connections are refused, had a fault let them in."""
    path = tmp_path / "page.html"
    path.write_bytes(dumps(a_family()))
    page.open(path)
    page.events.clear()
    page.js(
        "(() => { const made = document.createElement('script'); made.textContent = 'document.title = 1';"
        "document.body.append(made); const other = document.createElement('div');"
        'other.innerHTML = \'<img src="http://localhost:9/x" onerror="document.title=1">\';'
        "document.body.append(other); })()"
    )
    refused = page.js("fetch('http://localhost:9/').then(() => 'went', () => 'refused')")
    page.settle()

    assert refused == "refused"
    assert page.js("document.title") == "subtree of 4711"
    said = [event["params"]["entry"]["text"] for event in page.complaints() if event["method"] == "Log.entryAdded"]
    assert len([text for text in said if "Content Security Policy" in text]) >= 3
    page.events.clear()


def contrast(a: list[int], b: list[int]) -> float:
    """Return the contrast of two colours, as WCAG 2 defines it."""

    def light(rgb: list[int]) -> float:
        parts = [part / 255 / 12.92 if part / 255 <= 0.03928 else ((part / 255 + 0.055) / 1.055) ** 2.4 for part in rgb]
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]

    low, high = sorted([light(a), light(b)])
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_are_legible_in_light_and_in_dark(page: Browser, tmp_path: Path, scheme: str) -> None:
    """The contrast of each text in a row with its ground is at least 4.5 to 1, for 40 sessions."""
    tasks = [a_task(1, 0), *[a_task(tag, 1, sid=tag, pgid=tag) for tag in range(2, 42)]]
    tasks[1] = tasks[1]._replace(state=TaskState.STOPPED)
    tasks[2] = tasks[2]._replace(state=TaskState.ZOMBIE, exit_code=WaitStatus(0))
    path = tmp_path / "page.html"
    path.write_bytes(dumps(a_snapshot([(n,) for n in range(100, 141)], tasks)))
    page.scheme(scheme)
    page.resize(1280, 2000)
    page.open(path)
    texts = page.js(
        """[...document.querySelectorAll('.row span')].filter(it => it.textContent && !it.classList.contains('what')
        && !it.classList.contains('fold')).map(it => { let ground = it; const clear = 'rgba(0, 0, 0, 0)';
        while (ground && getComputedStyle(ground).backgroundColor === clear) ground = ground.parentElement;
        return [it.className, ...[getComputedStyle(it).color, getComputedStyle(ground || document.body).backgroundColor]
        .map(text => text.match(/[\\d.]+/g).slice(0, 3).map(Number))]; })"""
    )
    page.scheme("light")
    page.resize(1280, 800)

    assert len(texts) > 100
    assert [text for text in texts if contrast(text[1], text[2]) < 4.5] == []


def test_twenty_thousand_tasks_are_a_page_that_obeys(shows: Any) -> None:
    """Only the rows in sight are in the document. The bound is far above what a quiet machine needs, half a second."""
    page = shows(a_crowd(20_000))

    assert page.js("document.querySelectorAll('.row').length") < 200
    assert int(page.js("document.documentElement.dataset.ready")) < 20_000
    page.press("End")
    assert page.js(CHOSEN) == "20999"
    assert find(page, "task-777")[:3] == ["1000", "1776", "8769"]


def test_a_chain_of_thousands_is_shown_and_searched(shows: Any) -> None:
    """Deep rows have the number of their generation; a row without children leads left to its parent."""
    tasks = [a_task(tag, tag - 1) for tag in range(1, 5001)]
    page = shows(a_snapshot([(n,) for n in range(1, 5001)], tasks))
    page.press("End")

    assert page.js("document.getElementById('chosen').innerText").split()[:2] == ["4999", "deep"]
    page.press(*["ArrowLeft"] * 3)
    assert page.js(CHOSEN) == "4998"


@given(snapshots())
@settings(max_examples=examples(12), deadline=None, suppress_health_check=list(HealthCheck))
def test_any_snapshot_is_shown_without_a_complaint(
    page: Browser, tmp_path_factory: pytest.TempPathFactory, snapshot: Snapshot
) -> None:
    """Each task is chosen once, with its facts."""
    path = tmp_path_factory.mktemp("any") / "page.html"
    path.write_bytes(dumps(snapshot))
    page.events.clear()
    page.open(path)
    page.js("document.getElementById('threads').click()")
    page.press("Home", *["ArrowDown"] * (len(snapshot.tasks) + 2), "ArrowLeft", "ArrowRight", "Enter")

    assert page.complaints() == []
