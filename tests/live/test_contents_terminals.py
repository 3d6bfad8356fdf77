# SPDX-License-Identifier: Apache-2.0
"""Programs on terminals run on after a restart: pairs in the tree, the terminal of a session, that of the caller."""

import ast
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.live.dumps import dump, eventually, program, restarted

TOP = Path(__file__).parents[2]
PAIR = """
import fcntl, os, pty, signal, struct, sys, termios, time
pid, master = pty.fork()
if pid == 0:
    interrupted = []
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    job = os.fork()
    if job == 0:
        os.setpgid(0, 0)
        os.tcsetpgrp(0, os.getpid())
        signal.signal(signal.SIGINT, lambda *_: open("job interrupted", "w").close())
        while True:
            time.sleep(0.05)
    signal.signal(signal.SIGINT, lambda *_: open("shell interrupted", "w").close())
    modes = termios.tcgetattr(0)
    modes[3] &= ~termios.ECHO
    termios.tcsetattr(0, termios.TCSANOW, modes)
    fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 77, 0, 0))
    while os.tcgetpgrp(0) != job:
        time.sleep(0.01)
    print("ready", flush=True)
    while not os.path.exists("ask"):
        time.sleep(0.02)
    tty = os.open("/dev/tty", os.O_RDWR)
    group = os.tcgetpgrp(tty) == job
    os.tcsetpgrp(0, os.getpid())
    seen = {
        "name": os.ttyname(0), "group": group, "session": termios.tcgetwinsize(0),
        "echo": termios.tcgetattr(0)[3] & termios.ECHO, "typed": sys.stdin.readline(),
    }
    os.tcsetpgrp(0, job)
    with open("told by the slave", "w") as file:
        print(seen, file=file)
    time.sleep(60)
got = os.read(master, 100)
while b"ready\\r\\n" not in got:
    got += os.read(master, 100)
os.write(master, b"a line\\n")
slave = os.open(os.ptsname(master) if hasattr(os, "ptsname") else "/dev/pts/%d" % struct.unpack(
    "I", fcntl.ioctl(master, 0x80045430, bytes(4)))[0], os.O_RDWR | os.O_NOCTTY)
os.write(slave, b"unread")
with open("before", "w") as file:
    print((os.ttyname(slave),), file=file)
open("begun", "w").close()
while not os.path.exists("ask"):
    time.sleep(0.02)
unread = os.read(master, 100)
while not os.path.exists("told by the slave"):
    time.sleep(0.02)
os.write(master, b"\\x03")
with open("told by the master", "w") as file:
    print({"unread": unread, "name": os.ttyname(slave)}, file=file)
time.sleep(60)
"""


def test_a_pair_of_terminals_keeps_its_number_session_and_modes(tmp_path: Path, daemon_socket: Path) -> None:
    """The group in the foreground is interrupted, and no other; lines that nobody has read are still there."""
    with program([sys.executable, "-c", PAIR], tmp_path) as pid:
        eventually((tmp_path / "begun").exists, "it has begun")
        images = dump(pid, tmp_path / "images", daemon_socket)
    (name,) = ast.literal_eval((tmp_path / "before").read_text())
    with restarted(images):
        (tmp_path / "ask").touch()
        eventually((tmp_path / "job interrupted").exists, "the job is interrupted")
        eventually((tmp_path / "told by the slave").exists, "the slave tells")
        time.sleep(0.1)
    slave = ast.literal_eval((tmp_path / "told by the slave").read_text())
    master = ast.literal_eval((tmp_path / "told by the master").read_text())
    assert slave == {"name": name, "group": True, "session": (33, 77), "echo": 0, "typed": "a line\n"}
    assert master == {"unread": b"unread", "name": name}
    assert not (tmp_path / "shell interrupted").exists()


HUNG_UP = """
import errno, os, pty, signal, time
master, slave = pty.openpty()
again = os.open(os.ttyname(slave), os.O_RDWR | os.O_NOCTTY)
os.close(master)
signal.signal(signal.SIGHUP, lambda *_: open("signalled", "w").close())
open("ready", "w").close()
while not os.path.exists("go"):
    time.sleep(0.01)
seen = []
for fd in (slave, again):
    try:
        os.write(fd, b"x")
    except OSError as error:
        seen.append(error.errno == errno.EIO)
with open("telling", "w") as file:
    print(seen, os.read(slave, 9), os.read(again, 9), file=file)
os.rename("telling", "told")
time.sleep(100)
"""


def test_a_terminal_that_was_hung_up_is_hung_up_for_all_that_have_it(tmp_path: Path, daemon_socket: Path) -> None:
    """Two opened its slave; both read the end of the file and cannot write."""
    with program([sys.executable, "-c", HUNG_UP], tmp_path) as pid:
        eventually((tmp_path / "ready").exists, "it is ready")
        images = dump(pid, tmp_path / "images", daemon_socket)
    (tmp_path / "go").touch()
    with restarted(images):
        eventually((tmp_path / "told").exists, "it tells")
    assert (tmp_path / "told").read_text() == "[True, True] b'' b''\n"
    assert not (tmp_path / "signalled").exists()


JOB = """
import os, time
open("begun", "w").close()
while not os.path.exists("ask"):
    time.sleep(0.02)
print("what now?", flush=True)
line = input()
with open("telling", "w") as file:
    print(repr(line), os.ttyname(0) == os.ttyname(1), os.tcgetpgrp(0) == os.getpgrp(), file=file)
os.rename("telling", "told")
time.sleep(60)
"""


def _on_terminals(command: list[str], folder: Path) -> tuple[int, int]:
    """Start a command on a terminal of its own; return its pid and the master."""
    pid, master = pty.fork()
    if pid == 0:
        os.closerange(3, 1024)  # locks among them
        os.chdir(folder)
        os.execv(command[0], command)  # noqa: S606 - no shell is wanted
    return pid, master


def test_a_job_of_a_shell_gets_the_terminal_of_restart(tmp_path: Path, daemon_socket: Path) -> None:
    """It reads what is typed there."""
    script = tmp_path / "job.py"
    script.write_text(JOB)
    shell, master = _on_terminals(["/bin/bash", "-ic", f"set -m; {sys.executable} {script}; exit"], tmp_path)
    eventually((tmp_path / "begun").exists, "it has begun")
    job = int(Path(f"/proc/{shell}/task/{shell}/children").read_text().split()[0])
    images = dump(job, tmp_path / "images", daemon_socket, "--shell-job")
    eventually(lambda: not Path(f"/proc/{job}").exists(), "the shell has waited for it")
    os.kill(shell, signal.SIGKILL)
    os.waitpid(shell, 0)
    os.close(master)

    with pytest.raises(AssertionError, match="use --shell-job"), restarted(images):
        pass
    command = [sys.executable, "-m", "agent", "restart", f"criu:{images}", "--shell-job", "--no-pidns"]
    restart, master = _on_terminals(["/usr/bin/env", f"PYTHONPATH={TOP}", *command], tmp_path)
    try:
        (tmp_path / "ask").touch()
        said = b""
        while b"what now?" not in said:
            said += os.read(master, 1000)
        os.write(master, b"go on\n")
        eventually((tmp_path / "told").exists, "it tells")
    finally:
        os.kill(restart, signal.SIGTERM)
        os.waitpid(restart, 0)
        os.close(master)
    assert (tmp_path / "told").read_text() == "'go on' True True\n"


def test_a_tmux_with_a_shell_goes_on(tmp_path: Path, daemon_socket: Path) -> None:
    """Its clients connect to its socket, and the shell in it knows what it knew."""
    socket = tmp_path / "socket"
    tmux = ["tmux", "-S", str(socket), "-f", "/dev/null"]
    environment = {**os.environ, "SHELL": "/bin/bash", "TERM": "xterm"}
    with program([*tmux, "-D"], tmp_path, env=environment) as pid:
        eventually(socket.exists, "it listens")
        subprocess.run([*tmux, "new-session", "-d", "-x", "80", "-y", "24"], check=True, env=environment)
        subprocess.run([*tmux, "send-keys", "known=value", "Enter"], check=True)
        time.sleep(0.5)
        images = dump(pid, tmp_path / "images", daemon_socket)
    with restarted(images):
        subprocess.run([*tmux, "send-keys", f"echo it is $known > {tmp_path}/said", "Enter"], check=True, timeout=20)
        eventually(lambda: (tmp_path / "said").exists() and bool((tmp_path / "said").read_text()), "it says")
        subprocess.run([*tmux, "resize-window", "-x", "100", "-y", "30"], check=True, timeout=20)
        subprocess.run([*tmux, "send-keys", f"stty size > {tmp_path}/size", "Enter"], check=True, timeout=20)
        eventually(lambda: (tmp_path / "size").exists() and bool((tmp_path / "size").read_text()), "it has a size")
    assert (tmp_path / "said").read_text() == "it is value\n"
    assert (tmp_path / "size").read_text() == "30 100\n"
