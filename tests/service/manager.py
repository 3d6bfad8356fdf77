# SPDX-License-Identifier: Apache-2.0
"""A real systemd that runs our units and starts within a second: root's own manager, in a mount namespace of its own.

It is in the initial pid and user namespaces, as the daemon requires, and takes the units as they are: another user,
ambient capabilities, the sandbox, the socket, the store of descriptors, the watchdog. Only its pid is not 1.
"""

import os
import shlex
import subprocess
from pathlib import Path
from typing import Self

from tests.service.cgroups import Cgroups
from tests.service.host import PATIENCE_S, Host, Ran

TOP = Path(__file__).parents[2]
PLACE = "/run/under-test"
UNITS = "/run/units"
LOG = "/run/ckptree.log"

# New mounts cover the folders that the manager and the units write; this checkout with its environment is installed.
SET_UP = f"""
set -e
{{join}}
mount -t tmpfs -o mode=755 none /run
mkdir -p /run/systemd/system /run/etc /run/work {UNITS} {PLACE}/bin {PLACE}/source {PLACE}/lib/{{python}}/site-packages
mount -t overlay -o lowerdir=/etc,upperdir=/run/etc,workdir=/run/work none /etc
mount -t tmpfs -o mode=755 none /var/cache
test -d /sys/kernel/tracing/events || mount -t tracefs none /sys/kernel/tracing
mount --bind {{top}} {PLACE}/source
mount --bind {{site}} {PLACE}/lib/{{python}}/site-packages
printf '%s\\n' 'home = /usr/bin' 'include-system-site-packages = true' > {PLACE}/pyvenv.cfg
ln -s /usr/bin/python3 {PLACE}/bin/python3
printf '%s\\n' '#!/bin/sh' 'cd {PLACE}/source; exec {PLACE}/bin/python3 -m agent "$@"' > {PLACE}/bin/ckptree
printf '%s\\n' '#!/bin/sh' 'cd {PLACE}/source; exec {PLACE}/bin/python3 "$@"' > {PLACE}/bin/python
chmod +x {PLACE}/bin/ckptree {PLACE}/bin/python
systemd-sysusers {{top}}/systemd/sysusers.d/ckptree.conf 2>/run/sysusers.log || {{{{ cat /run/sysusers.log >&2; exit 1; }}}}
mkdir /etc/ckptree
cp {{top}}/systemd/ckptree.toml /etc/ckptree/
cp {{top}}/systemd/ckptree*.service {{top}}/systemd/ckptree*.socket {UNITS}/
mkdir {UNITS}/ckptree.service.d
cat > {UNITS}/ckptree.service.d/place.conf <<END
[Service]
ExecStartPre=
ExecStartPre=-+{PLACE}/bin/python3 -m agent daemon --compile
ExecStart=
ExecStart={PLACE}/bin/python3 -m agent daemon --config /etc/ckptree/ckptree.toml
WorkingDirectory={PLACE}/source
StandardError=append:{LOG}
RestartSec=100ms
END
touch {LOG}
umask 0
export XDG_RUNTIME_DIR=/run XDG_CACHE_HOME=/var/cache SYSTEMD_UNIT_PATH={UNITS}:/usr/lib/systemd/user
{PLACE}/bin/python3 -P {PLACE}/source/tests/service/initialuser.py \
    /lib/systemd/systemd --user --log-target=console --log-level=warning
exit
"""


class Manager(Host):
    """A systemd of a test's own.

    Args:
        folder: for its log.
        contained: in a pid namespace of its own, as in a container.
    """

    ckptree = f"{PLACE}/bin/ckptree"
    python = f"{PLACE}/bin/python"  # other users may not read this checkout in its own place
    units = UNITS
    manager = "--user"
    watchdog_s = 2

    def __init__(self, folder: Path, *, contained: bool = False) -> None:
        self._log = folder / "manager.log"
        spaces = ("--pid", "--fork", "--kill-child", "--mount-proc") if contained else ()
        self._command = ["unshare", "--mount", "--propagation", "private", *spaces, "sh", "-c"]
        self._contained = contained

    def __enter__(self) -> Self:
        self._cgroups = Cgroups()
        (site,) = (TOP / ".venv" / "lib").glob("python3*/site-packages")
        script = SET_UP.format(
            join=self._cgroups.join, top=shlex.quote(str(TOP)), site=shlex.quote(str(site)), python=site.parent.name
        )
        with self._log.open("wb") as log:
            self._process = subprocess.Popen([*self._command, script], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self._come_up(self._answers, self._process, self._log)
        return self

    def _answers(self) -> bool:
        """Return True if the manager answers."""
        if self._contained and not self._pid:
            return False
        ran = self.run("test -S /run/systemd/private && systemctl --user is-system-running")
        return ran.out.strip() in {"running", "degraded"}

    @property
    def _pid(self) -> int:
        """Return the pid of the shell that waits for systemd; 0: not started yet."""
        if not self._contained:
            return self._process.pid
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        return int(children[0]) if children else 0

    def _end(self) -> None:
        """End the manager and all processes that it started."""
        self._cgroups.clear()
        self._process.wait(PATIENCE_S)

    def run(self, command: str) -> Ran:
        """Run a shell command in the manager's namespaces."""
        spaces = ["--mount", "--pid"] if self._contained else ["--mount"]
        ran = subprocess.run(
            ["nsenter", f"--target={self._pid}", *spaces, "--", "sh", "-c", command],
            env={"PATH": os.environ["PATH"], "XDG_RUNTIME_DIR": "/run"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            timeout=PATIENCE_S,
        )
        return Ran(ran.returncode, ran.stdout.decode(errors="replace"), ran.stderr.decode(errors="replace"))
