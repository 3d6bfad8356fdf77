# SPDX-License-Identifier: Apache-2.0
"""A virtual machine whose first process is systemd, on the kernel of Debian's stable release, with the package in it.

The machine is emulated, so it needs no feature of this machine's processor, and boots in a quarter of a minute. The
root is the kernel's initial file system, so it needs neither module nor disk. Commands go to and fro over its second
serial port.
"""

import base64
import json
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import Self

from tests.service.host import Host, Ran
from tests.service.roots import debian, install, kernel, package, packed, upgrade

MEMORY = "3G"
BOOT_S = 600.0
COMMAND_S = 600.0

# The server in the machine: a line of base64 of JSON for each request and each answer.
AGENT = """
import base64, json, subprocess, tty
with open("/dev/ttyS1", "r+b", buffering=0) as port:
    tty.setraw(port)
    port.write(b"ready\\n")
    line = b""
    while True:
        line += port.read(4096)
        if line.endswith(b"\\n"):
            command = json.loads(base64.b64decode(line))
            ran = subprocess.run(command, shell=True, stdin=subprocess.DEVNULL, capture_output=True)
            answer = [ran.returncode, ran.stdout.decode(errors="replace"), ran.stderr.decode(errors="replace")]
            port.write(base64.b64encode(json.dumps(answer).encode()) + b"\\n")
            line = b""
"""
AGENT_UNIT = """
[Unit]
After=multi-user.target
[Service]
ExecStart=/usr/bin/python3 /opt/test-agent.py
StandardError=file:/dev/ttyS0
"""
# On a busy machine the emulated one takes minutes to compile the programs.
PATIENCE = "[Service]\nTimeoutStartSec=600\n"
# The files that an upgrade compiles. All of them take minutes in emulation; test_deb.py tests that.
COMPILE = """#!/bin/sh
cd /usr/lib/ckptree/lib/python3*/site-packages && exec python3 -m compileall -q agent bpf exporters msgpack
"""


class Machine(Host):
    """A running machine with the package installed.

    Args:
        folder: for its console, and for the files that go into the machine.
    """

    ckptree = "/usr/bin/ckptree"
    python = "/usr/lib/ckptree/bin/python3"
    units = "/run/systemd/system"
    manager = "--system"
    watchdog_s = 10

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._line = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            self._boot()
        except BaseException:
            self._end()
            raise
        return self

    def _boot(self) -> None:
        initial, port, console = (self._folder / name for name in ("initial.cpio", "port", "console.log"))
        root = debian(self._folder / "root", "apparmor")
        install(root, package())
        upgrade(package(), root)
        (root / "usr/bin/py3compile").write_text(COMPILE)
        wanted = root / "etc/systemd/system/multi-user.target.wants"
        (root / "etc/systemd/system/agent.service").write_text(AGENT_UNIT)
        (wanted / "agent.service").symlink_to("../agent.service")
        (root / "opt/test-agent.py").write_text(AGENT)
        drop_in = root / "etc/systemd/system/ckptree.service.d/emulated.conf"
        drop_in.parent.mkdir()
        drop_in.write_text(PATIENCE)
        packed(root, initial)
        shutil.rmtree(root)
        # Its clock goes on while it gets no CPU, and then its hooks make more records than its daemon has time for.
        command = [
            *("nice", "--adjustment=-10"),
            *("qemu-system-x86_64", "-accel", "tcg,thread=multi", "-smp", "2", "-m", MEMORY, "-display", "none"),
            *("-monitor", "none", "-no-reboot", "-nic", "none", "-kernel", str(kernel()), "-initrd", str(initial)),
            *("-append", "console=ttyS0 rdinit=/lib/systemd/systemd panic=-1 loglevel=4 systemd.show_status=0"),
            *("-serial", f"file:{console}", "-serial", f"unix:{port},server=on,wait=off"),
        ]
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        deadline = time.monotonic() + BOOT_S
        while self._line.connect_ex(os.fspath(port)):
            assert self._process.poll() is None, "qemu ended"
            time.sleep(0.05)
        self._line.settimeout(deadline - time.monotonic())
        try:
            while not self._read().endswith("ready"):
                pass
        except TimeoutError:
            raise AssertionError(console.read_text(errors="replace")[-4000:]) from None
        self._line.settimeout(COMMAND_S)

    def _read(self) -> str:
        line = b""
        while not line.endswith(b"\n"):
            piece = self._line.recv(1 << 16)
            assert piece, "the machine is gone"
            line += piece
        return line.decode().strip()

    def run(self, command: str) -> Ran:
        """Run a shell command in the machine."""
        self._line.sendall(base64.b64encode(json.dumps(command).encode()) + b"\n")
        return Ran(*json.loads(base64.b64decode(self._read())))

    def log(self) -> str:
        """Return the daemon's log."""
        return self.run("journalctl --unit=ckptree.service --output=cat --no-pager --lines=60").out

    def _end(self) -> None:
        self._line.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
