# SPDX-License-Identifier: Apache-2.0
"""Log records to a collector of OpenTelemetry over OTLP/HTTP, by OpenTelemetry's own libraries.

They read their own environment variables: OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_EXPORTER_OTLP_HEADERS, ..._TIMEOUT,
..._COMPRESSION, ..._CERTIFICATE, each with a form for logs alone (OTEL_EXPORTER_OTLP_LOGS_ENDPOINT), OTEL_SERVICE_NAME,
OTEL_RESOURCE_ATTRIBUTES; the bounds of the queue are OTEL_BLRP_MAX_QUEUE_SIZE, OTEL_BLRP_MAX_EXPORT_BATCH_SIZE and
OTEL_BLRP_SCHEDULE_DELAY. The queue is ours, for theirs does not count what it leaves out.
"""

import logging
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from agent import VERSION
from agent.errors import HostError, UsageError
from agent.telemetry.otlprecords import EventRecord
from agent.telemetry.outbox import Bounds, Outbox
from agent.telemetry.thishost import ThisHost

if TYPE_CHECKING:
    from opentelemetry._logs import LogRecord

_LOGS: Final = "/v1/logs"
_INFO: Final = 9  # SeverityNumber


class OtlpSender:
    """A connection to a collector.

    Args:
        host: that the records are of.
        lost: makes the record that tells of so many records that were lost.
        endpoint: URL of the collector, without the path of logs; None: of the environment.
        say: takes what the libraries have to say, a line each.

    Raises:
        HostError: the libraries are not installed.
        UsageError: a variable of the environment has no number.
    """

    def __init__(
        self, host: ThisHost, lost: Callable[[int], EventRecord], endpoint: str | None, say: Callable[[str], None]
    ) -> None:
        try:
            from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
            from opentelemetry.sdk._logs import ReadableLogRecord
            from opentelemetry.sdk._logs.export import LogRecordExportResult
            from opentelemetry.sdk.resources import SERVICE_NAME, Resource
            from opentelemetry.sdk.util.instrumentation import InstrumentationScope
        except ImportError as error:
            raise HostError(
                f"OpenTelemetry's libraries are not installed ({error.name}): pip install 'ckptree[export]'"
            ) from error
        logger = logging.getLogger("opentelemetry")
        logger.propagate = False
        logger.addHandler(_Saying(say))
        resource = Resource({"host.name": host.name, "os.type": "linux", "os.version": host.kernel}).merge(
            Resource.create({})
        )
        if str(resource.attributes.get(SERVICE_NAME, "")).startswith("unknown_service"):
            resource = resource.merge(Resource({SERVICE_NAME: "ckptree"}))
        scope = InstrumentationScope("ckptree", VERSION)
        exporter = OTLPLogExporter(endpoint=None if endpoint is None else endpoint.rstrip("/") + _LOGS)

        def send(records: list[EventRecord]) -> bool:
            made = [ReadableLogRecord(_made(each), resource, scope) for each in records]
            return exporter.export(made) is LogRecordExportResult.SUCCESS

        self._shutdown: Callable[[], None] = exporter.shutdown
        self.outbox = Outbox(send, lost, _bounds())

    def close(self, within_s: float) -> None:
        """Send what waits, and close the connection."""
        self.outbox.close(within_s)
        self._shutdown()


def _made(record: EventRecord) -> "LogRecord":
    from opentelemetry._logs import LogRecord, SeverityNumber

    return LogRecord(
        timestamp=record.time_ns,
        severity_number=SeverityNumber(_INFO),
        body=record.body,
        attributes=record.attributes,
        event_name=record.name,
    )


def _bounds() -> Bounds:
    usual = Bounds()
    queued = _number("OTEL_BLRP_MAX_QUEUE_SIZE", usual.queued)
    batch = min(_number("OTEL_BLRP_MAX_EXPORT_BATCH_SIZE", usual.batch), queued)
    return Bounds(queued, batch, _number("OTEL_BLRP_SCHEDULE_DELAY", round(usual.delay_s * 1000)) / 1000)


def _number(name: str, usual: int) -> int:
    text = os.environ.get(name, "").strip()
    if not text:
        return usual
    if not (text.isascii() and text.isdecimal() and int(text) > 0):
        raise UsageError(f"{name} of the environment is {text!r}: expected a number above 0")
    return int(text)


class _Saying(logging.Handler):
    """A handler that passes messages on, each once as long as it is the last one."""

    def __init__(self, say: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self._say = say
        self._last = ""

    def emit(self, record: logging.LogRecord) -> None:
        """Pass a message on."""
        text = record.getMessage()
        if record.msg != self._last:
            self._last = str(record.msg)
            self._say(text)
