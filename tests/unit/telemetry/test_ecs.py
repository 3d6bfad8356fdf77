# SPDX-License-Identifier: Apache-2.0
"""Events as documents of the Elastic Common Schema."""

import json
import re
from collections.abc import Iterator
from typing import Any, Final

import pytest

from agent.protocol.replies import Event
from agent.telemetry.ecs import VERSION, EcsDocuments
from agent.telemetry.lives import Lives
from agent.telemetry.thishost import ThisHost
from tests.support.told import ALL_KINDS, BOOT, birth, death, event

HOST: Final = ThisHost("web1", "6.1.0", "b-o-o-t", BOOT)
# Of the list of fields that Elastic publishes with each version of the schema (elastic/ecs, tag v9.4.0,
# generated/csv/fields.csv): those that are used here, with their types, and a star where the value is an array.
FIELDS: Final = {
    "@timestamp": "date",
    "ecs.version": "keyword",
    "event.action": "keyword",
    "event.category": "keyword*",
    "event.dataset": "keyword",
    "event.kind": "keyword",
    "event.module": "keyword",
    "event.sequence": "long",
    "event.type": "keyword*",
    "group.id": "keyword",
    "host.boot.id": "keyword",
    "host.hostname": "keyword",
    "host.name": "keyword",
    "host.os.kernel": "keyword",
    "host.os.type": "keyword",
    "message": "match_only_text",
    "process.args": "keyword*",
    "process.args_count": "long",
    "process.end": "date",
    "process.entity_id": "keyword",
    "process.executable": "keyword",
    "process.exit_code": "long",
    "process.group_leader.pid": "long",
    "process.name": "keyword",
    "process.parent.entity_id": "keyword",
    "process.parent.pid": "long",
    "process.parent.start": "date",
    "process.pid": "long",
    "process.session_leader.pid": "long",
    "process.start": "date",
    "process.thread.id": "long",
    "process.thread.name": "keyword",
    "process.vpid": "long",
    "tags": "keyword*",
    "user.id": "keyword",
}
# Of schemas/event.yml there: the values of event.kind, and the expected types of the two categories.
KINDS: Final = {"alert", "asset", "enrichment", "event", "metric", "pipeline_error", "signal", "state"}
TYPES: Final = {
    "process": {"access", "change", "end", "info", "start"},
    "host": {"access", "change", "end", "info", "start"},
}
DATE: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z")


def documents(*events: Event) -> list[dict[str, Any]]:
    """Return the documents of events."""
    made = EcsDocuments(HOST, Lives(lambda _task: "/usr/bin/make"), now=lambda: BOOT)
    return [json.loads(made.line(each)) for each in events]


def fields(document: dict[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the fields of a document by their paths."""
    for key, value in document.items():
        if isinstance(value, dict):
            yield from fields(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value


def is_of(kind: str, value: object) -> bool:
    """Return True if a value is of a type of the schema."""
    if kind.endswith("*"):
        return isinstance(value, list) and bool(value) and all(is_of(kind[:-1], each) for each in value)
    if kind == "date":
        return isinstance(value, str) and DATE.fullmatch(value) is not None
    if kind == "long":
        return isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63
    return isinstance(value, str)


def test_every_field_is_one_of_the_schema_and_has_its_type() -> None:
    """For an event of each kind; and each field of the table is used, so that the table has no others."""
    used = set()
    for document in documents(birth(0, 4, 1), *ALL_KINDS):
        for path, value in fields(document):
            assert is_of(FIELDS[path], value), (path, value)
            used.add(path)
        assert document["event"]["kind"] in KINDS
        (category,) = document["event"]["category"]
        assert set(document["event"]["type"]) <= TYPES[category]
        assert document["ecs"]["version"] == VERSION

    assert used == set(FIELDS)


def test_the_life_of_a_process_is_told_with_one_identity() -> None:
    """Start, program and parent are in its later events, too."""
    _, born, run, over, gone = documents(
        birth(1, 4, 1),
        birth(2, 5, 4),
        event("exec", 3, 5, arguments=[b"make", b"a b"], arguments_cut=False),
        death(4, 5, 0x200),
        event("reap", 5, 5),
    )
    process = over["process"]

    assert [each["event"]["action"] for each in (born, run, over, gone)] == ["fork", "exec", "end", "reap"]
    assert [each["event"]["type"] for each in (born, run, over, gone)] == [["start"], ["start"], ["end"], ["info"]]
    assert {each["process"]["entity_id"] for each in (born, run, over, gone)} == {"b-o-o-t/5000000000/5"}
    assert process["start"] == "2023-11-14T22:13:25.000000000Z"
    assert process["end"] == over["@timestamp"] == "2023-11-14T22:14:20.000000004Z"
    assert (process["exit_code"], process["executable"], process["args"]) == (2, "/usr/bin/make", ["make", "a b"])
    assert process["parent"] == {
        "pid": 4,
        "entity_id": "b-o-o-t/4000000000/4",
        "start": "2023-11-14T22:13:24.000000000Z",
    }


def test_threads_do_not_begin_or_end_a_process() -> None:
    """A rule that looks for new processes must not see them."""
    made = documents(
        birth(1, 5, 4),
        birth(2, 6, 4, pid=5),
        death(3, 5, 0x700, last=False),
        event("reap", 4, 6, pid=5),
        death(5, 7, 9, pid=5),
    )

    assert [(each["event"]["action"], each["event"]["type"][0]) for each in made] == [
        ("fork", "start"),
        ("thread_start", "info"),
        ("thread_end", "info"),
        ("thread_reap", "info"),
        ("end", "end"),
    ]
    assert made[1]["process"]["thread"] == {"id": 6, "name": "make"}
    assert made[4]["process"]["exit_code"] == 7, "a process has its leader's status, whoever ends last"


def test_arguments_that_are_not_all_there_have_no_count() -> None:
    """Bytes that are no text are escaped."""
    cut, none = documents(
        event("exec", 1, 5, arguments=[b"make", b"\xff"], arguments_cut=True), event("exec", 2, 6, arguments=None)
    )

    assert (cut["process"]["args"], "args_count" in cut["process"]) == (["make", "\\xff"], False)
    assert "args" not in none["process"]


def test_what_was_lost_is_counted() -> None:
    """A reader of the documents sees that they are not all."""
    loss, dropped = documents(event("loss", 1, 0, count=12), event("dropped", 2, 0, count=3))

    assert (loss["event"]["action"], loss["message"]) == ("loss", "12 events lost on their way to the daemon")
    assert (dropped["event"]["action"], dropped["message"][:17]) == ("dropped", "3 events left out")


@pytest.mark.parametrize("time_ns", [None])
def test_an_event_of_an_older_daemon_has_the_time_of_its_reading(time_ns: None) -> None:
    """A document must have a time."""
    (document,) = documents(event("reap", 1, 5, time_ns=time_ns))

    assert document["@timestamp"] == "2023-11-14T22:13:20.000000000Z"
