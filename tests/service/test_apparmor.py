# SPDX-License-Identifier: Apache-2.0
"""The package's AppArmor profile, enforced by the kernel of Debian's stable release.

Root with every capability tries the forbidden acts, so that only the profile can prevent them.
"""

import shlex
from typing import NamedTuple

import pytest

from tests.service.host import Host, Ran

pytestmark = pytest.mark.machine

PROFILE = "ckptree-daemon"
PROGRAM = "/usr/bin/python3"


class Act(NamedTuple):
    """An act that the daemon has no need of.

    Attributes:
        done: a program in Python that exits with 0 if the act succeeds.
        operation: the kernel's word for it, in its log.
    """

    done: str
    operation: str


FORBIDDEN = {
    "write to a file of root's": Act("open('/etc/forbidden', 'w')", "mknod"),
    "write to what root has compiled": Act("open('/var/cache/ckptree/forbidden', 'w')", "mknod"),
    "write beside its socket": Act("open('/run/ckptree/forbidden', 'w')", "mknod"),
    "read root's secrets": Act("open('/etc/shadow')", "open"),
    "start another program": Act("import os; os.execv('/usr/bin/true', ['true'])", "exec"),
    "start a shell": Act("import os; os.execv('/bin/sh', ['sh', '-c', 'true'])", "exec"),
    "open a network socket": Act("import socket; socket.socket(socket.AF_INET)", "create"),
    "open a raw socket": Act("import socket; socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)", "create"),
    "take over a process": Act("import os; open(f'/proc/{os.getppid()}/environ').read()", "ptrace"),
    "kill a process of another program": Act("import os, sys; os.kill(int(sys.argv[1]), 15)", "signal"),
    "give itself another user": Act("import os; os.setuid(1)", "capable"),
    "mount": Act(
        "import ctypes; libc = ctypes.CDLL(None); assert not libc.mount(b'none', b'/mnt', b'tmpfs', 0, None)", "mount"
    ),
}


@pytest.fixture
def running(host: Host) -> Host:
    """Return the host with the service active."""
    host.do("reset-failed")
    host.do("start", "ckptree.service")
    return host


def denied(host: Host) -> list[str]:
    """Return the lines of the kernel's log on accesses that the profile denied."""
    ran = host.run("journalctl --dmesg --output=cat --no-pager")
    return [line for line in ran.out.splitlines() if 'apparmor="DENIED"' in line and f'profile="{PROFILE}"' in line]


def act(host: Host, done: str, *, confined: bool) -> Ran:
    """Do the act as root, with the daemon's profile or with none."""
    words = ["aa-exec", "--profile", PROFILE, "--"] if confined else []
    command = shlex.join([*words, PROGRAM, "-S", "-c", done])
    return host.run(f"sleep 60 & {command} $!; code=$?; kill -KILL $! 2>/dev/null; exit $code")


def test_the_daemon_is_confined_and_works(running: Host) -> None:
    """The daemon starts, sees births, answers, and hands over to its successor; the profile denies none of this."""
    before = denied(running)
    root = running.tree()
    births = running.births(root)
    label = running.run(f"cat /proc/{running.main_pid()}/attr/current").out.strip()
    running.do("restart", "ckptree.service")

    assert label == f"{PROFILE} (enforce)"
    assert all(birth["observed"] for birth in births)
    assert running.births(root) == births
    assert denied(running) == before == []


def test_it_compiles_for_itself_where_root_has_not(running: Host) -> None:
    """The profile allows the compiler's files."""
    drop_in = f"{running.units}/ckptree.service.d/uncompiled.conf"
    running.do("stop", "ckptree.service")
    running.run(
        f"mv /var/cache/ckptree /var/cache/kept; mkdir -p $(dirname {drop_in}); "
        f"printf '[Service]\\nExecStartPre=\\n' > {drop_in}"
    )
    running.do("daemon-reload")
    running.run("systemctl clean --what=fdstore ckptree.service")
    started = running.systemctl("start", "ckptree.service")
    births = running.births(running.tree()) if not started.code else []
    running.run(f"rm {drop_in}; rm -rf /var/cache/ckptree; mv /var/cache/kept /var/cache/ckptree")
    running.do("daemon-reload")

    assert started.code == 0, running.log()
    assert births
    assert all(birth["observed"] for birth in births)
    assert denied(running) == []


def test_the_command_line_is_not_confined(running: Host) -> None:
    """A restart runs the programs of an image."""
    ran = running.run(f"{PROGRAM} -c 'print(open(\"/proc/self/attr/current\").read())'; {running.ckptree} --version")

    assert ran.out.startswith("unconfined")
    assert "ckptree" in ran.out


@pytest.mark.parametrize("name", FORBIDDEN)
def test_a_compromised_daemon_cannot(running: Host, name: str) -> None:
    """Root succeeds without the profile and fails with it, and the kernel's log names the profile."""
    done, operation = FORBIDDEN[name]
    before = len(denied(running))
    kept = act(running, done, confined=True)
    lines = denied(running)[before:]
    free = act(running, done, confined=False)
    running.run("rm -f /etc/forbidden /var/cache/ckptree/forbidden /run/ckptree/forbidden; umount /mnt 2>/dev/null")

    assert free.code == 0, free.err
    assert kept.code != 0
    assert any(f'operation="{operation}"' in line for line in lines), (kept.err, lines)
