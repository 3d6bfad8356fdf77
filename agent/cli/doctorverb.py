# SPDX-License-Identifier: Apache-2.0
"""``ckptree doctor``."""

from agent.cli import terminal
from agent.cli.options import AsJson, Socket
from agent.errors import HostError


def doctor(socket: Socket = None, as_json: AsJson = False) -> None:
    """Test ckptree's needs on this host, and print a remedy for each failure. Exit code 5 where it cannot work."""
    from agent.doctor import around, capturing, rebuilding
    from agent.doctor.diagnosis import as_lines, verdict

    findings = [*capturing.examine(socket), *rebuilding.examine(), *around.examine()]
    works = verdict(findings)
    if as_json:
        terminal.tell_json(works | {"findings": [one._asdict() for one in findings]})
    else:
        for line in as_lines(findings):
            terminal.tell(line)
    if not all(works.values()):
        raise SystemExit(HostError.exit_code)
