# SPDX-License-Identifier: Apache-2.0
"""Progress on standard error."""

import time

import pytest

from agent.fleet.stores import progress


def test_progress_is_told_every_two_seconds(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last word is the verb's own."""
    now_s = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now_s[0])
    report = progress.reporting("nats://dumps/web", "fetched")
    for seconds, come in ((1.0, 1 << 20), (1.5, 2 << 20), (1.0, 3 << 20), (1.0, 4 << 20), (5.0, 8 << 20)):
        now_s[0] += seconds
        report(come, 8 << 20)
    assert capsys.readouterr().err == (
        "ckptree: nats://dumps/web: 2 of 8 MiB fetched\nckptree: nats://dumps/web: 4 of 8 MiB fetched\n"
    )
