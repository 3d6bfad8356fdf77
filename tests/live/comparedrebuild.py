# SPDX-License-Identifier: Apache-2.0
"""A rebuild of one image that is compared with another one, as a program, so that it may run with fewer rights.

``python -m tests.live.comparedrebuild BUILT COMPARED`` prints the differences, one a line, of the active tree.
"""

import sys
from pathlib import Path

from agent.restart.planning.search import make_plan
from agent.restart.rebuild.commands import endings
from agent.restart.rebuild.coordinator import Rebuild
from agent.restart.rebuild.verify import Standing, verify, verify_active
from exporters import registry


def main() -> None:
    """Build, compare, print."""
    built, compared = (registry.load(Path(name).read_bytes()) for name in sys.argv[1:])
    plan = make_plan(built)
    with Rebuild(plan, ids=endings(built, plan).ids, no_stdio=True) as made:
        made.build()
        assert verify(Standing(built, plan, made.pids, made.numbers, made.guard)) == []
        made.activate()
        assert verify_active(Standing(built, plan, made.pids, made.numbers, made.guard), stopped=False) == []
        for line in verify_active(Standing(compared, plan, made.pids, made.numbers, made.guard), stopped=False):
            print(line)


if __name__ == "__main__":
    main()
