# SPDX-License-Identifier: Apache-2.0
"""``plan --for criu``: what CRIU's dump and restore would do to a tree."""

from collections import Counter
from typing import TYPE_CHECKING

from agent.cli import terminal
from agent.errors import RefusedError
from agent.restart.planning.criuforecast import VERSION, forecast
from exporters.content.wording import count

if TYPE_CHECKING:
    from agent.model import Snapshot


def tell(snapshot: "Snapshot", *, as_json: bool) -> None:
    """Print what CRIU refuses, hangs at or gets wrong, a line or object each.

    Raises:
        RefusedError: there is any.
    """
    found = forecast(snapshot)
    if as_json:
        terminal.tell_json([each._asdict() for each in found])
    elif not found:
        terminal.tell(f"CRIU {VERSION} restores this tree as it is")
    for each in () if as_json else found:
        terminal.tell(f"{each.outcome}: task {each.tag} ({each.pid}): {each.kind} {each.id}: {each.text}")
    if found:
        outcomes = Counter(each.outcome for each in found)
        said = ", ".join([f"{count(number, 'task')} {outcome}" for outcome, number in outcomes.items()])
        raise RefusedError(f"CRIU {VERSION} does not bring this tree back as it was: {said}")
