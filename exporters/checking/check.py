# SPDX-License-Identifier: Apache-2.0
"""All faults of a file, not only the first one.

The code that loads an image also checks it, with a cursor that goes on after a fault (exporters.image.framing). So
whatever a reader refuses is an error here. Then follow the rules that readers do not apply
(exporters.checking.kernelrules). exporters.content.findings has the names and meanings of all findings.
"""

from agent.errors import FormatError
from agent.model import Snapshot
from exporters import gcpause, registry
from exporters.checking.kernelrules import doubts
from exporters.content.factsreader import Base
from exporters.content.findings import Finding
from exporters.content.soundness import TaskIds
from exporters.documents.document import examine, path_of
from exporters.format import Format
from exporters.image import reading
from exporters.image.framing import Collector
from exporters.image.packed import unpack
from exporters.image.records import HEADER


def check(data: bytes) -> list[Finding]:
    """Return all findings of a file in any format known here, by offset; empty for a sound file. Raises nothing."""
    try:
        found = registry.recognize(data)
    except FormatError as error:
        # A file that was cut off, or whose magic was overwritten, is still checked as an image.
        if data[:4] == HEADER.to_bytes(4, "little"):
            return _image(data)
        return [Finding("unknown-format", error.path, error.message, 0)]
    return _image(data) if found.name == "ckpt" else _document(found, data)


def _image(data: bytes) -> list[Finding]:
    cursor = Collector(data)
    parts = reading.take(cursor)
    with gcpause.paused():
        for fault in doubts(parts.base, parts.snapshot):
            found = parts.places.locate(fault)
            if found:
                cursor.report(found)
        return cursor.findings()


def _document(format_: Format, data: bytes) -> list[Finding]:
    """Return a document's findings. They have paths and no offsets: no reader looks for a byte of a document."""
    findings: list[Finding] = []
    with gcpause.paused():
        try:
            if format_.name == "json":
                from exporters.documents import jsonfmt

                base, snapshot, findings = examine(jsonfmt.parse(data))
            elif format_.name == "msgpack":
                base, snapshot, findings = examine(unpack(data, "document"))
            else:
                snapshot = registry.load(data)
                base = base_of(snapshot)
        except FormatError as error:
            return [Finding("document", error.path, error.message, None if error.offset < 0 else error.offset)]
        if base is not None:
            findings += [
                Finding(fault.rule, path_of(fault), fault.text, None, fault.tags) for fault in doubts(base, snapshot)
            ]
        return findings


def base_of(snapshot: Snapshot) -> Base:
    """Return the part of a snapshot that a bare image holds."""
    numbers = [pid.numbers for pid in snapshot.pids]
    tasks = [TaskIds(*task[:6]) for task in snapshot.tasks]
    return Base(snapshot.mode, snapshot.dialect, snapshot.first_tag, snapshot.header, numbers, tasks)
