# SPDX-License-Identifier: Apache-2.0
"""The rules of a check, each with an image that breaks it alone: name and place of the finding, and its pids."""

import json
from dataclasses import replace

import pytest

from agent.model import CKPT_PID_ROOT, Ancestor, Creator, Namespace, PidObject, Tag
from exporters import registry
from exporters.checking import kernelrules
from exporters.checking.check import check
from exporters.content.findings import RULES, to_document
from exporters.documents import jsonfmt
from exporters.format import Reader
from exporters.image import checkpoint
from tests.support.badimages import BAD, Found, a_container, payload_at
from tests.support.builders import a_family, a_snapshot, a_task, born
from tests.support.images import (
    GOLDEN,
    a_record,
    an_extension,
    an_image,
    patched,
    some_facts,
    with_records,
)


def found_in(data: bytes) -> list[Found]:
    """Return names, places and pids of all findings."""
    return [(one.name, one.offset, one.pids) for one in check(data)]


@pytest.mark.parametrize("name", BAD)
def test_each_rule_is_found_broken_by_name_and_place_and_nothing_else_is(name: str) -> None:
    """Each rule has one bad file."""
    bad = BAD[name]

    assert name in [each for each, _, _ in bad.findings]
    assert found_in(bad.data) == bad.findings


def test_every_rule_has_a_bad_file_but_for_the_one_that_takes_millions_of_pids() -> None:
    """This one rule has a test of its own, and so have those of a folder of CRIU's."""
    of_folders = {name for name in RULES if name.startswith("criu-")}

    assert set(BAD) | {"no-number-left"} == set(RULES) - of_folders


def test_the_golden_image_and_a_tree_with_one_of_everything_are_clean() -> None:
    """This holds in both dialects. The only finding is the session from outside of the family's root."""
    assert check(GOLDEN) == []
    assert check(checkpoint.dumps(a_family())) == []
    assert check(checkpoint.dumps(a_family(), "v23")) == []
    assert check(a_container()) == []
    assert check(jsonfmt.dumps(a_family())) == []


def test_a_bad_task_hides_none_of_the_others() -> None:
    """One image has all faults, and they are found in the order of its bytes."""
    data = GOLDEN + b"\0"
    for at, value in [(8, 0), (391, -5), (475, 3), (483, 77), (499, 0), (515, 9), (531, 77), (551, 1)]:
        data = patched(data, at, "<i", value)

    assert found_in(data) == [
        ("head-magic", 8, ()),
        ("pid-number", 387, (2,)),
        ("parent-without-task", 475, (2, 3)),
        ("tag-range", 483, (2,)),
        ("parent-outside", 499, (4,)),
        ("task-depth", 515, (4,)),
        ("tag-range", 531, (5,)),
        ("tail-magic", 551, ()),
        ("bytes-after-tail", 559, ()),
    ]


def test_what_stands_behind_a_record_in_the_way_or_a_missing_one_is_still_judged() -> None:
    """A tree without one of its halves is not blamed for references to the missing half."""
    bad = patched(GOLDEN, 475, "<i", 3)
    shifted = bad[:307] + a_record(77) * 3 + bad[307:]

    assert found_in(shifted) == [("unexpected-record", 307, ()), ("parent-without-task", 475 + 24, (2, 3))]
    assert found_in(bad[:307] + bad[315:]) == [("unexpected-record", 307, ()), ("parent-without-task", 467, (2, 3))]
    assert found_in(bad[:347] + bad[423:]) == [("unexpected-record", 347, ())]
    assert found_in(bad[:423] + bad[543:]) == [("unexpected-record", 423, ())]


def test_what_was_written_of_a_cut_off_buffer_is_judged() -> None:
    """All whole rows are judged, and the missing rest is reported once."""
    assert found_in(patched(GOLDEN, 391, "<i", -5)[:400]) == [("truncated", 375, ()), ("pid-number", 387, (2,))]
    assert found_in(patched(GOLDEN, 475, "<i", 3)[:500]) == [
        ("truncated", 443, ()),
        ("parent-without-task", 475, (2, 3)),
    ]


def test_a_bad_row_of_our_record_hides_none_of_the_others() -> None:
    """Fields of the whole and rows of the long lists are each named by their path."""
    rows = [{"comm": 7}, {"uid": -1, "gid": -1}, 7, {"birth": {"creator": {}}}]
    pids: list[dict[str, object]] = [{}, {"namespaces": [4]}, {}, {}, {}]
    known = some_facts(tasks=rows, pids=pids, time_ns=None, squashed=[1], completeness={"verified": "yes"})
    paths = {one.path for one in check(with_records(an_extension(known)))}

    assert paths == {
        "EXTENSION.tasks[0].comm",
        "EXTENSION.tasks[1].uid",
        "EXTENSION.tasks[2]",
        "EXTENSION.tasks[3].birth.creator",
        "EXTENSION.pids[1].namespaces",
        "EXTENSION.time_ns",
        "EXTENSION.squashed",
        "EXTENSION.completeness.verified",
    }


def test_tags_are_those_of_the_image_where_they_start_above_1() -> None:
    """This holds in either dialect."""
    pids = [(1,), (2,)]
    tasks = [(8, 0, 8, 8, 8, 0), (9, 8, 9, 8, 9, 0)]

    assert found_in(an_image(pids, tasks, offset=7)) == [("session-leader-group", 379 + 40 + 24 + 12, (9, 8))]
    assert found_in(an_image(pids, tasks, offset=8)) == [("session-leader-group", 379 + 40 + 24 + 12, (9, 8))]


def test_an_offset_that_fits_nothing_is_told_once_and_the_root_is_believed_where_more_tasks_fit() -> None:
    """The wrong offset is not repeated for each tag that would be out of range."""
    assert [name for name, _, _ in found_in(patched(GOLDEN, 363, "<I", 70000))] == ["offset"]


def test_a_number_may_come_again_in_another_namespace_and_not_in_its_own() -> None:
    """This holds at every level. Only EXTENSION tells the namespaces apart."""
    twice = a_container(t4=(0, 1))

    assert found_in(a_container()) == []
    assert found_in(twice) == [("duplicate-number", 379 + 8 + 12 + 12, (2, 4))]


def test_a_namespace_that_is_not_below_the_parents_is_found_by_its_id() -> None:
    """The levels alone would fit."""
    data = a_container(t3=(0, 2))

    assert found_in(data) == [("nesting-parent", payload_at(data), (3, 2))]


def test_a_namespace_without_init_is_found_though_another_on_its_level_has_one() -> None:
    """EXTENSION tells the two namespaces apart."""
    spaces = tuple(Namespace(n, 10 + n, min(n, 1), 0 if n else None) for n in range(3))
    pids = (PidObject((1,), (0,)), PidObject((5, 1), (0, 1)), PidObject((6, 2), (0, 2)))
    tasks = (a_task(1, 0), a_task(2, 1, depth=1), a_task(3, 1, depth=1))
    alone = checkpoint.dumps(replace(a_snapshot(), mode="container", pids=pids, tasks=tasks, namespaces=spaces))

    assert [(name, about) for name, _, about in found_in(alone)] == [("namespace-without-init", (3,))]


@pytest.mark.parametrize("creator", [Creator(Tag(2), None), Creator(None, 0)])
def test_a_sibling_born_into_a_namespace_below_its_creators_is_no_leap(creator: Creator) -> None:
    """CLONE_PARENT: the parent is two levels up, the creator one. An unobserved creator counts as the parent."""
    pids = [(9,), (5, 1), (6, 2, 1)]
    gone = Ancestor(0, (7, 3), (0, 1), born(1), ())
    seen = [a_task(1, 0), a_task(2, 1, depth=1), a_task(3, 1, depth=2, birth=born(creator))]
    assumed = [*seen[:2], a_task(3, 1, depth=2, birth=born(None, None, observed=False))]

    assert found_in(checkpoint.dumps(a_snapshot(pids, seen, ancestors=(gone,)))) == []
    assert [name for name, _, _ in found_in(checkpoint.dumps(a_snapshot(pids, assumed)))] == ["nesting-depth"]


def test_threads_do_not_repeat_what_is_said_of_their_leader() -> None:
    """The leader's row is judged for the whole group."""
    tasks = [(1, 0, 1, 1, 1, 0), (2, 1, 2, 3, 2, 0), (4, 1, 2, 3, 2, 0)]

    assert [about for _, _, about in found_in(an_image([(1,), (2,), (3,), (4,)], tasks))] == [(2, 3)]


def test_the_inherited_session_is_the_roots_or_nobodys() -> None:
    """This holds for both uses, and a group of that number is in the session."""
    inherits = (1, 0, 1, CKPT_PID_ROOT, CKPT_PID_ROOT, 0)

    assert found_in(an_image([(1,), (2,)], [inherits, (2, 1, 2, CKPT_PID_ROOT, CKPT_PID_ROOT, 0)])) == []
    assert [name for name, _, _ in found_in(an_image([(1,), (2,)], [inherits, (2, 1, 2, CKPT_PID_ROOT, 2, 0)]))] == [
        "session-leader-group"
    ]
    assert [
        name for name, _, _ in found_in(an_image([(1,), (2,), (3,)], [inherits, (2, 1, 2, CKPT_PID_ROOT, 3, 0)]))
    ] == ["group-sessions"]


def test_a_tree_that_takes_every_number_leaves_none_for_a_rebuild(monkeypatch: pytest.MonkeyPatch) -> None:
    """The finding is a warning; the test uses a smaller host than any real one."""
    monkeypatch.setattr(kernelrules, "PID_NUMBER_MAX", kernelrules.RESERVED_PIDS + 2)
    full, roomy = ([(1,), (number,), (302,)] for number in (301, 7))
    tasks = [(1, 0, 1, 1, 1, 0), (2, 1, 2, 1, 1, 0)]

    assert found_in(an_image(full, tasks)) == [("no-number-left", 379, ())]
    assert found_in(an_image(roomy, tasks)) == []


def test_a_document_is_held_to_the_same_rules_without_offsets() -> None:
    """The findings have the path in the document instead."""
    tasks = [a_task(1, 0), a_task(2, 1, pgid=1, sid=2)]
    (found,) = check(jsonfmt.dumps(a_snapshot([(100,), (101,)], tasks)))

    assert (found.name, found.severity, found.offset, found.pids) == ("session-leader-group", "error", None, (2, 1))
    assert found.path == "tasks[1].pgid"


def test_a_documents_bad_rows_are_all_found() -> None:
    """Ids and facts are checked alike, and so are the rules that no reader applies."""
    document = json.loads(jsonfmt.dumps(a_family()))
    document["tasks"][1]["ppid"] = 3
    document["tasks"][2]["pgid"] = 2
    document["tasks"][3]["uid"] = -1
    document["tasks"][5]["state"] = "asleep"

    assert [(one.name, one.path, one.pids) for one in check(json.dumps(document).encode())] == [
        ("parent-without-task", "tasks[1].ppid", (2, 3)),
        ("document", "tasks[3].uid", ()),
        ("document", "tasks[5].state", ()),
        ("session-leader-group", "tasks[2].pgid", (4, 2)),
    ]


def test_any_format_that_someone_adds_is_held_to_the_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    """The format only needs a reader."""
    bad = a_snapshot([(100,), (101,)], [a_task(1, 0), a_task(2, 1, pgid=1, sid=2)])
    reader = Reader(recognize=lambda data: data == b"other", load=lambda _: bad, looks_like="'other'")
    added = replace(registry.FORMATS["json"], name="other", reader=reader)
    monkeypatch.setitem(registry.FORMATS, "other", added)

    assert found_in(b"other") == [("session-leader-group", None, (2, 1))]


def test_a_finding_says_where_and_what_and_machines_get_the_same() -> None:
    """Each finding is one map of plain values."""
    (found,) = check(patched(GOLDEN, 475, "<i", 3))

    assert found.text == "TREE[1].vppid: tag 3 has no task, and a parent must have one"
    assert json.loads(json.dumps(to_document([found]))) == [
        {
            "severity": "error",
            "name": "parent-without-task",
            "offset": 475,
            "pids": [2, 3],
            "path": "TREE[1].vppid",
            "text": found.text,
        }
    ]
