# SPDX-License-Identifier: Apache-2.0
"""A collector of OpenTelemetry's logs: an HTTP server that reads the requests with OpenTelemetry's own messages."""

import gzip
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest, ExportLogsServiceResponse


class Collector:
    """The requests that a collector has received.

    Attributes:
        url: of it, without a path.
        requests: path, headers and message of each.
        open: it answers while this is set.
        status: of its answers.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.requests: list[tuple[str, dict[str, str], ExportLogsServiceRequest]] = []
        self.open = threading.Event()
        self.open.set()
        self.status = 200

    def records(self) -> list[tuple[str, dict[str, Any], Any]]:
        """Return name, attributes and message of each record."""
        return [
            (record.event_name, {each.key: _value(each.value) for each in record.attributes}, record)
            for _, _, request in self.requests
            for of_resource in request.resource_logs
            for of_scope in of_resource.scope_logs
            for record in of_scope.log_records
        ]

    def resources(self) -> list[dict[str, Any]]:
        """Return the attributes of each resource."""
        return [
            {each.key: _value(each.value) for each in of_resource.resource.attributes}
            for _, _, request in self.requests
            for of_resource in request.resource_logs
        ]


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(each) for each in value.array_value.values]
    return getattr(value, kind) if kind else None


@contextmanager
def collecting() -> Iterator[Collector]:
    """Run a collector on a loopback port for the time of the block."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            found.open.wait(60)
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            if found.status == 200:
                request = ExportLogsServiceRequest.FromString(body)
                found.requests.append((self.path, {key.lower(): value for key, value in self.headers.items()}, request))
            answer = ExportLogsServiceResponse().SerializeToString()
            self.send_response(found.status)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            """Print nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        host, port = server.server_address[:2]
        found = Collector(f"http://{host!s}:{port}")
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield found
        finally:
            found.open.set()
            server.shutdown()
            thread.join(20)
