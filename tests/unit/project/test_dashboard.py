# SPDX-License-Identifier: Apache-2.0
"""The dashboard for Grafana: what it asks for is what the daemon's figures are, and a Prometheus answers it."""

import contextlib
import copy
import http.client
import itertools
import json
import re
import subprocess
import threading
import time
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

import pytest

from agent.cli.openmetrics import CONTENT_TYPE, render
from tests.support import suitepackages
from tests.support.daemonfigures import FIGURES
from tests.support.scraped import families

TOP: Final = Path(__file__).parents[3]
DASHBOARD: Final[dict[str, Any]] = json.loads((TOP / "docs/example/grafana.json").read_text())
PANELS: Final[list[dict[str, Any]]] = DASHBOARD["panels"]
QUERIES: Final = [
    (f"{panel['title']} {target['refId']}", target)
    for panel in PANELS
    if panel["type"] != "row"
    for target in panel["targets"]
]
SCRAPED: Final = {"instance", "job"}
PATIENCE_S: Final = 60.0


def full_figures() -> dict[str, Any]:
    """Return figures in which each map has a key."""
    figures = copy.deepcopy(FIGURES)
    for path in ("anomalies", "refused", "clients.expired"):
        *above, last = path.split(".")
        inner = figures
        for key in above:
            inner = inner[key]
        inner[last] = {"some": 1}
    return figures


def samples() -> dict[str, set[str]]:
    """Return the labels of each sample's name that `ckptree metrics` prints."""
    found: dict[str, set[str]] = {}
    for family in families(render(full_figures())):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


@pytest.mark.parametrize(("title", "target"), QUERIES, ids=[title for title, _ in QUERIES])
def test_each_metric_and_label_that_is_asked_for_is_printed(title: str, target: dict[str, Any]) -> None:
    """In expressions, and in legends."""
    known = samples()
    asked = re.findall(r"\bckptree_\w+", target["expr"])
    labels = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
    labels |= {name for group in re.findall(r"\bby \(([^)]*)\)", target["expr"]) for name in group.split(", ")}

    assert asked
    assert set(asked) <= known.keys()
    assert labels <= SCRAPED.union(*(known[name] for name in asked))


def test_every_metric_has_a_panel_or_a_reason() -> None:
    """A new figure is not forgotten."""
    asked = {name for _, target in QUERIES for name in re.findall(r"\bckptree_\w+", target["expr"])}
    families_asked = {re.sub(r"_(bucket|total|info)$", "", name) for name in asked}
    unasked = {family.name for family in families(render(full_figures()))} - families_asked

    assert unasked == {
        "ckptree_allowed_changes",  # the configuration says it
        "ckptree_assumed_births",  # as old as the daemon
        "ckptree_log_lines_dropped",  # of the log
        "ckptree_most_clients",  # the panel of clients shows it over time
    }


def test_panels_have_ids_and_places_of_their_own() -> None:
    """Grafana takes the later one of two with one id, and moves one of two with one place."""
    ids = [panel["id"] for panel in PANELS]
    cells = [
        (panel["gridPos"]["x"] + across, panel["gridPos"]["y"] + down)
        for panel in PANELS
        for across, down in itertools.product(range(panel["gridPos"]["w"]), range(panel["gridPos"]["h"]))
    ]

    assert len(set(ids)) == len(ids)
    assert len(set(cells)) == len(cells)
    assert max(across for across, _ in cells) == 23
    variables = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(PANELS)))
    assert used == variables | {"__rate_interval", "__range"}


@contextmanager
def exposed() -> Iterator[int]:
    """Serve figures whose counters rise, as `ckptree metrics --listen` does; yield the port."""
    scrapes = itertools.count(1)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = render(_risen(full_figures(), next(scrapes))).encode()
            self.send_response(200)
            self.send_header("Content-Type", CONTENT_TYPE)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Print nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join(20)


def _risen(value: Any, times: int) -> Any:
    if isinstance(value, dict):
        return {key: each if key in ("version", "ring") else _risen(each, times) for key, each in value.items()}
    if isinstance(value, list):
        return [[bound, count * times] for bound, count in value] if value and isinstance(value[0], list) else value
    return value * times if isinstance(value, (int, float)) and not isinstance(value, bool) else value


def _answered(address: str, expression: str) -> list[Any]:
    query = urllib.parse.urlencode({"query": expression})
    with contextlib.closing(http.client.HTTPConnection(address, timeout=20)) as connection:
        connection.request("GET", f"/api/v1/query?{query}")
        told = json.load(connection.getresponse())
    assert told["status"] == "success"
    found: list[Any] = told["data"]["result"]
    return found


@pytest.mark.slow
def test_a_prometheus_that_scrapes_the_figures_answers_every_query(tmp_path: Path) -> None:
    """Debian's, on a loopback port: each expression is parsed, and has a result."""
    with exposed() as port:
        config = {
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s"},
            "scrape_configs": [{"job_name": "ckptree", "static_configs": [{"targets": [f"127.0.0.1:{port}"]}]}],
        }
        (tmp_path / "prometheus.yml").write_text(json.dumps(config))  # YAML has JSON's notation
        log = tmp_path / "log"
        words = [
            *suitepackages.prometheus(),
            f"--config.file={tmp_path}/prometheus.yml",
            f"--storage.tsdb.path={tmp_path}/data",
            "--web.listen-address=127.0.0.1:0",
        ]
        with log.open("wb") as out:
            process = subprocess.Popen(words, stdout=out, stderr=out, stdin=subprocess.DEVNULL, cwd=tmp_path)
        try:
            address = _listening(process, log)
            deadline = time.monotonic() + PATIENCE_S
            while not _answered(address, "rate(ckptree_snapshots_total[10s])"):
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.2)
            for title, target in QUERIES:
                expression = target["expr"].replace("$__rate_interval", "10s").replace("$__range", "10s")
                assert _answered(address, re.sub(r"\$(job|instance)\b", ".*", expression)), (title, expression)
        finally:
            process.kill()
            process.wait(20)


def _listening(process: "subprocess.Popen[bytes]", log: Path) -> str:
    """Return the address of a Prometheus once it listens there."""
    deadline = time.monotonic() + PATIENCE_S
    while (found := re.search(r"Listening on.* address=(127\.0\.0\.1:\d+)", log.read_text())) is None:
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)
    return found[1]
