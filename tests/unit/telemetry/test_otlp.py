# SPDX-License-Identifier: Apache-2.0
"""Events as log records of OpenTelemetry, in a request as a collector gets it."""

import logging
from collections.abc import Iterator
from typing import Final

import pytest
from opentelemetry.semconv._incubating.attributes import host_attributes, os_attributes, process_attributes
from opentelemetry.semconv.attributes import service_attributes

from agent.cli.eventlines import as_line
from agent.errors import UsageError
from agent.telemetry.lives import Lives
from agent.telemetry.otlprecords import EventRecords
from agent.telemetry.otlpsender import OtlpSender
from agent.telemetry.thishost import ThisHost
from tests.support.collector import Collector, collecting
from tests.support.told import ALL_KINDS, BOOT, birth, death, event

HOST: Final = ThisHost("web1", "6.1.0", "b-o-o-t", BOOT)
CONVENTIONS: Final = {
    value
    for module in (host_attributes, os_attributes, process_attributes, service_attributes)
    for name, value in vars(module).items()
    if name.isupper() and isinstance(value, str)
}


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    """Start a collector."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    with collecting() as found:
        yield found
    logging.getLogger("opentelemetry").handlers.clear()


def sender(collector: Collector | None, said: list[str] | None = None) -> tuple[OtlpSender, EventRecords]:
    """Return a sender to a collector, or to that of the environment, and what makes records for it."""
    records = EventRecords(HOST, Lives(lambda _task: "/usr/bin/make"), as_line, now=lambda: BOOT)
    told = said if said is not None else []
    return OtlpSender(HOST, records.lost, collector.url if collector is not None else None, told.append), records


def test_each_kind_of_event_arrives_as_a_record(collector: Collector) -> None:
    """With its name, its time, a line for people, and attributes of the conventions or of ckptree's own."""
    sends, records = sender(collector)
    for each in ALL_KINDS:
        sends.outbox.put(records.record(each))
    sends.close(20)
    found = collector.records()

    assert [name for name, _, _ in found] == [
        f"ckptree.process.{each.kind}" if each.task else f"ckptree.{each.kind}" for each in ALL_KINDS
    ]
    assert [record.time_unix_nano for _, _, record in found] == [each.time_ns for each in ALL_KINDS]
    assert found[0][2].body.string_value == as_line(ALL_KINDS[0])
    keys = {key for _, attributes, _ in found for key in attributes}
    assert {key for key in keys if not key.startswith("ckptree.")} <= CONVENTIONS
    assert (sends.outbox.sent, sends.outbox.lost) == (len(ALL_KINDS), 0)
    ((path, headers, _),) = collector.requests
    assert (path, headers["content-type"]) == ("/v1/logs", "application/x-protobuf")


def test_the_attributes_are_those_of_the_conventions(collector: Collector) -> None:
    """Names and types as of today."""
    sends, records = sender(collector)
    for each in (
        birth(1, 5, 4, numbers=(5, 1)),
        event("exec", 2, 5, numbers=(5, 1), arguments=[b"make", b"all"], arguments_cut=False),
        death(3, 5, 9),
    ):
        sends.outbox.put(records.record(each))
    sends.close(20)
    (_, born, _), (_, run, _), (_, over, _) = collector.records()

    assert {key: value for key, value in born.items() if key.startswith("process.")} == {
        "process.pid": 5,
        "process.parent_pid": 4,
        "process.vpid": 1,
        "process.user.id": 1000,
        "process.creation.time": "2023-11-14T22:13:25.000000000Z",
        "process.group_leader.pid": 4,
        "process.session_leader.pid": 3,
    }
    assert run["process.command_args"] == ["make", "all"]
    assert (run["process.args_count"], run["process.executable.path"]) == (2, "/usr/bin/make")
    assert (run["process.executable.name"], run["ckptree.comm"]) == ("make", "make")
    assert (over["process.exit.code"], over["ckptree.signal"]) == (137, "SIGKILL")
    assert over["process.exit.time"] == "2023-11-14T22:14:20.000000003Z"


def test_the_host_is_the_resource_and_the_service_has_a_name(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The environment may give the service another name, and the resource further attributes."""
    for name, attributes in (("", ""), ("watcher", "deployment.environment.name=test")):
        monkeypatch.setenv("OTEL_SERVICE_NAME", name)
        monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", attributes)
        sends, records = sender(collector)
        sends.outbox.put(records.record(birth(1, 5, 4)))
        sends.close(20)
    plain, named = collector.resources()

    assert (plain["host.name"], plain["os.type"], plain["os.version"], plain["service.name"]) == (
        "web1", "linux", "6.1.0", "ckptree",
    )  # fmt: skip
    assert (named["service.name"], named["deployment.environment.name"]) == ("watcher", "test")


def test_the_environment_of_opentelemetry_has_endpoint_headers_and_compression(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the names that its specification gives them."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "api-key=secret")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
    sends, records = sender(None)
    sends.outbox.put(records.record(birth(1, 5, 4)))
    sends.close(20)

    ((path, headers, _),) = collector.requests
    assert (path, headers["api-key"], headers["content-encoding"]) == ("/v1/logs", "secret", "gzip")


def test_what_a_slow_collector_does_not_take_is_counted_and_told(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The writer is not held up: the queue has the bounds that the environment gives it."""
    monkeypatch.setenv("OTEL_BLRP_MAX_QUEUE_SIZE", "10")
    monkeypatch.setenv("OTEL_BLRP_SCHEDULE_DELAY", "1")
    collector.open.clear()
    sends, records = sender(collector)
    for order in range(1000):
        sends.outbox.put(records.record(event("setsid", order, 5, pgid=5, sid=5)))
    collector.open.set()
    sends.close(20)
    found = collector.records()
    told = sum(attributes["ckptree.count"] for name, attributes, _ in found if name == "ckptree.export_loss")
    arrived = sum(name == "ckptree.process.setsid" for name, _, _ in found)

    assert arrived < 100
    assert told <= sends.outbox.lost == 1000 - arrived


def test_a_collector_that_refuses_gets_no_second_chance_and_the_reason_is_said(collector: Collector) -> None:
    """400 is final; the libraries repeat what may pass."""
    collector.status = 400
    said: list[str] = []
    sends, records = sender(collector, said)
    sends.outbox.put(records.record(birth(1, 5, 4)))
    sends.close(20)

    assert (sends.outbox.sent, sends.outbox.lost) == (0, 1)
    assert any("400" in line for line in said), said


@pytest.mark.parametrize("value", ["many", "0", "-1"])
def test_a_bound_that_is_no_number_is_a_usage_error(
    collector: Collector, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    """The message names the variable."""
    monkeypatch.setenv("OTEL_BLRP_MAX_QUEUE_SIZE", value)
    with pytest.raises(UsageError, match="OTEL_BLRP_MAX_QUEUE_SIZE of the environment is '"):
        sender(collector)
