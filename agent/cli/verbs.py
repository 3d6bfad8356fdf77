# SPDX-License-Identifier: Apache-2.0
"""The verbs, each with its module. A module is imported when its verb is called: imports are most of a verb's time."""

from importlib import import_module
from typing import Any, Final

VERBS: Final = {
    "snapshot": "snapshotverb",
    "show": "fileverbs",
    "check": "fileverbs",
    "convert": "fileverbs",
    "plan": "planverb",
    "diff": "diffverb",
    "restart": "restartverb",
    "tree": "treeverb",
    "doctor": "doctorverb",
    "events": "pastverbs",
    "history": "pastverbs",
    "export": "exportverb",
    "watch": "daemonverbs",
    "status": "daemonverbs",
    "metrics": "daemonverbs",
    "hook": "hookverb",
    "relay": "relayverb",
}
"""In the order of the help."""
FLEET: Final = "fleet"
FLEET_VERBS: Final = {
    "hosts": "fleetverbs",
    "snapshot": "fleetverbs",
    "events": "fleeteventsverb",
    "show": "setverbs",
    "check": "setverbs",
    "diff": "setverbs",
    "plan": "setverbs",
    "restart": "fleetrestartverb",
    "takeover": "takeoververb",
}
"""The verbs behind FLEET."""


def module(name: str) -> Any:
    """Import a module of VERBS or FLEET_VERBS. It has a function by the name of each of its verbs."""
    return import_module(f"agent.cli.{name}")
