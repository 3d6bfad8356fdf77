# SPDX-License-Identifier: Apache-2.0
"""Perfetto's own trace processor: it reads a trace, and answers questions in SQL."""

import struct
import subprocess
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

from exporters.content.messagenotation import classes
from tests.support import suitepackages

_SCRIPT: Final = Path(__file__).with_suffix(".js")
_LENGTH: Final = struct.Struct("<I")
_APPEND, _FINALIZE, _QUERY = 1, 2, 3
_NULL, _VARINT, _FLOAT64, _STRING = 1, 2, 3, 4
# protos/perfetto/trace_processor/trace_processor.proto
_MESSAGES: Final = {
    "Stream": "msg*1:Rpc",
    "Rpc": (
        "fatal_error?5:bytes request?2 append_trace_data?101:bytes query_args?103:QueryArgs append_result?201:Result "
        "query_result?203:QueryResult finalize_data_result?212:Finalized"
    ),
    "QueryArgs": "sql_query?1:bytes",
    "Result": "error?2:bytes",
    "Finalized": "error?1:bytes",
    "QueryResult": "column_names*1:bytes error?2:bytes batch*3:Batch",
    "Batch": "cells?1:bytes varint_cells?2:bytes float64_cells?3:bytes string_cells?5:bytes",
}

Row = dict[str, int | float | str | None]


def answers(trace: bytes, questions: Sequence[str]) -> list[list[Row]]:
    """Return the rows that each question about a trace yields; AssertionError where the trace or a question is wrong."""
    stream = _stream()
    asked = [{"request": _APPEND, "append_trace_data": trace}, {"request": _FINALIZE}]
    asked += [{"request": _QUERY, "query_args": {"sql_query": each.encode()}} for each in questions]
    requests = [stream(msg=[each]).SerializeToString() for each in asked]
    ran = subprocess.run(
        [suitepackages.node(), _SCRIPT, suitepackages.perfetto()],
        input=b"".join([_LENGTH.pack(len(each)) + each for each in requests]),
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    tables: list[list[Row]] = []
    data = ran.stdout
    while data:
        (length,) = _LENGTH.unpack_from(data)
        for said in stream.FromString(data[4 : 4 + length]).msg:
            for part in (said.append_result, said.query_result, said.finalize_data_result):
                assert not part.error, part.error.decode()
            assert not said.fatal_error, said.fatal_error.decode()
            if said.HasField("query_result"):
                if said.query_result.column_names or not tables:
                    tables.append([])
                tables[-1] += _rows(said.query_result)
        data = data[4 + length :]
    return tables


@cache
def _stream() -> Any:
    return classes(_MESSAGES, "tests.perfetto", "the tests", "perfetto")["Stream"]


def _rows(result: Any) -> list[Row]:
    names = [name.decode() for name in result.column_names]
    cells: list[int | float | str | None] = []
    for batch in result.batch:
        whole = iter(_varints(batch.varint_cells))
        real = iter(struct.unpack(f"<{len(batch.float64_cells) // 8}d", batch.float64_cells))
        texts = iter(batch.string_cells.decode().split("\0"))
        values: dict[int, Iterator[int | float | str]] = {_VARINT: whole, _FLOAT64: real, _STRING: texts}
        cells += [None if kind == _NULL else next(values[kind]) for kind in batch.cells]
    return [dict(zip(names, cells[at : at + len(names)], strict=True)) for at in range(0, len(cells), len(names) or 1)]


def _varints(data: bytes) -> list[int]:
    found: list[int] = []
    value = shift = 0
    for byte in data:
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            found.append(value - (1 << 64) if value >> 63 else value)
            value = shift = 0
    return found
