# SPDX-License-Identifier: Apache-2.0
"""Open files that wait for something run on after a restart: epoll, signalfd, timerfd, inotify; devices and folders."""

import ast
import os
import signal
import sys
import time
from pathlib import Path

from tests.live.dumps import dump, eventually, program, restarted
from tests.live.standing import alike, dumped, dumped_at_a_stop, restored

WAITING = """
import ctypes, os, select, signal, socket, struct, time
libc = ctypes.CDLL(None, use_errno=True)
folder = os.open(".", os.O_RDONLY | os.O_DIRECTORY)
null, zero = os.open("/dev/null", os.O_RDWR), os.open("/dev/zero", os.O_RDONLY)
read, write = os.pipe()
copy = os.dup(read)
mask = struct.pack("Q", 1 << signal.SIGUSR2 - 1)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
signals = libc.signalfd(-1, mask, 0o4000)

def timer(clock, flags, value, interval):
    fd = libc.timerfd_create(clock, 0o4000)
    setting = struct.pack("qqqq", *divmod(interval, 10**9), *divmod(value, 10**9))
    assert libc.timerfd_settime(fd, flags, setting, None) == 0
    return fd

ticking = timer(1, 0, 1, 10**7)
absolute = timer(0, 1, time.time_ns() + 4 * 10**9, 0)
unread = timer(7, 0, 10**6, 0)
late = timer(1, 0, 1, 3 * 10**8)
idle = timer(1, 0, 0, 0)
watching = libc.inotify_init1(0o4000)
first = libc.inotify_add_watch(watching, b"gone", 0x100)
assert libc.inotify_rm_watch(watching, first) == 0
os.read(watching, 4096)
watch = libc.inotify_add_watch(watching, b"watched", 0x100)
poll = select.epoll()
inner = select.epoll()
inner.register(signals, select.EPOLLIN)
poll.register(inner.fileno(), select.EPOLLIN)
data = {}
for fd, flags in ((read, select.EPOLLIN | select.EPOLLET), (copy, select.EPOLLIN | select.EPOLLONESHOT),
                  (ticking, select.EPOLLIN), (watching, select.EPOLLIN)):
    poll.register(fd, flags)
time.sleep(0.1)
os.rename("begin", "begun")
ticks, seen = 0, []
while True:
    for fd, _ in poll.poll(0.05):
        if fd == ticking:
            ticks += struct.unpack("Q", os.read(fd, 8))[0]
            continue
        if fd == inner.fileno():
            assert inner.poll(0) == [(signals, 1)]
            seen.append(("signal", struct.unpack("I", os.read(signals, 128)[:4])[0]))
        elif fd == watching:
            event = os.read(fd, 4096)
            number, _, _, length = struct.unpack("iIII", event[:16])
            seen.append(("watch", number == watch, event[16:].rstrip(b"\\0").decode()))
        else:
            seen.append(("pipe", "read" if fd == read else "copy"))
    if os.path.exists("ask") and not os.path.exists("told"):
        assert os.write(null, b"x") == 1 and os.read(zero, 2) == b"\\0\\0"
        os.close(os.open("made", os.O_CREAT | os.O_WRONLY, dir_fd=folder))
        with open("telling", "w") as file:
            for fd in (unread, late):
                try:
                    seen.append(("unread", struct.unpack("Q", os.read(fd, 8))[0]))
                except BlockingIOError:
                    seen.append(("unread", 0))
            time.sleep(0.35)
            seen.append(("again", struct.unpack("Q", os.read(late, 8))[0]))
            print(ticks, seen, os.listdir(folder), file=file)
        os.rename("telling", "told")
    if os.path.exists("press"):
        os.unlink("press")
        os.write(write, b"x")
    try:
        os.read(absolute, 8)
        open("over", "w").close()
    except BlockingIOError:
        pass
    try:
        os.read(idle, 8)
        open("wrong", "w").close()
    except BlockingIOError:
        pass
"""


def test_files_that_wait_go_on_waiting(tmp_path: Path, daemon_socket: Path) -> None:
    """Each has its targets, mask, clock, expirations and watches, at the numbers that the program knows."""
    for name in ("gone", "watched"):
        (tmp_path / name).mkdir()
    (tmp_path / "begin").touch()
    with program([sys.executable, "-c", WAITING], tmp_path) as pid:
        eventually((tmp_path / "begun").exists, "it has begun")
        time.sleep(0.4)
        images = dumped_at_a_stop(pid, tmp_path / "images", daemon_socket)
    assert not (tmp_path / "over").exists()
    with alike(images, daemon_socket) as ready:
        root = ready["root"]
        for _ in range(3):  # the edge is seen each time, the other one once
            (tmp_path / "press").touch()
            eventually(lambda: not (tmp_path / "press").exists(), "it has written")
            time.sleep(0.1)
        (tmp_path / "watched" / "new").touch()
        os.kill(root, signal.SIGUSR2)
        time.sleep(0.3)
        (tmp_path / "ask").touch()
        eventually((tmp_path / "told").exists, "it tells")
        eventually((tmp_path / "over").exists, "the absolute timer expires")
    assert not (tmp_path / "wrong").exists()
    count, rest = (tmp_path / "told").read_text().split(" ", 1)
    seen, names = ast.literal_eval(f"[{rest.replace('] [', '], [')}]")
    late = [each for each in seen if each[0] == "unread"]
    assert int(count) > 60, "the timer of 10 ms has ticked before and after"
    assert seen.count(("pipe", "copy")) == 1
    assert seen.count(("pipe", "read")) == 3
    assert ("watch", True, "new") in seen
    assert ("signal", signal.SIGUSR2) in seen
    assert late[0] == ("unread", 1)
    assert late[1][1] >= 1
    # Twice where the first of them is in the first 50 ms.
    assert ("again", 1) in seen or ("again", 2) in seen
    assert "made" in names


OTHER = """
import os, resource, select, socket, struct, time
links = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
links.bind((0, 1))
child = os.fork()
if child == 0:
    while not os.path.exists("end"):
        time.sleep(0.02)
    os._exit(7)
process = os.pidfd_open(child)
resource.setrlimit(resource.RLIMIT_NOFILE, (3000, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
os.dup2(os.open("/dev/null", os.O_RDWR), 2500)
open("begun", "w").close()
while not os.path.exists("ask"):
    time.sleep(0.02)
links.send(struct.pack("=IHHIIB3x", 20, 18, 0x301, 1, 0, 0))
answer = links.recv(65536)
ended = bool(select.select([process], [], [], 0)[0])
open("end", "w").close()
ended = ended, bool(select.select([process], [], [], 10)[0]), os.waitid(os.P_PIDFD, process, os.WEXITED).si_status
with open("telling", "w") as file:
    print((struct.unpack("=H", answer[4:6])[0], links.getsockname()[1], ended, os.write(2500, b"x")), file=file)
os.rename("telling", "told")
time.sleep(60)
"""


def test_netlink_sockets_descriptors_of_processes_and_high_numbers_go_on(tmp_path: Path, daemon_socket: Path) -> None:
    """A descriptor may be above the limit that restart has for its own."""
    with program([sys.executable, "-c", OTHER], tmp_path) as pid:
        eventually((tmp_path / "begun").exists, "it has begun")
        images = dumped_at_a_stop(pid, tmp_path / "images", daemon_socket)
    with alike(images, daemon_socket):
        (tmp_path / "ask").touch()
        eventually((tmp_path / "told").exists, "it tells")
    assert ast.literal_eval((tmp_path / "told").read_text()) == (16, 1, (False, True, 7), 1)


NAMESPACES = """
import os, time
files = {name: os.open(f"/proc/self/ns/{name}", os.O_RDONLY) for name in ("net", "ipc", "mnt", "user", "uts", "pid")}
open("begun", "w").close()
while not os.path.exists("ask"):
    time.sleep(0.02)
same = {name: os.readlink(f"/proc/self/fd/{file}") == os.readlink(f"/proc/self/ns/{name}") for name, file in files.items()}
with open("telling", "w") as file:
    file.write(repr(same))
os.rename("telling", "told")
time.sleep(60)
"""


SPENT = """
import select
def spent(file, events=select.EPOLLIN):
    poll = select.epoll()
    poll.register(file, events | select.EPOLLONESHOT)
    assert len(poll.poll(0)) == 1
    return poll
def pipe(content=b"x"):
    ends = os.pipe()
    os.write(ends[1], content)
    return ends
(read, written), (empty, kept), (closing, closed) = pipe(), pipe(), pipe()
polls = [spent(read), spent(written, select.EPOLLOUT), spent(empty), spent(closing)]
polls[0].register(kept, select.EPOLLOUT)
os.read(empty, 1)
os.close(closed)
def answer():
    before = [poll.poll(0) for poll in polls]
    os.write(kept, b"y")
    for poll, file in zip(polls, (read, written, empty, closing)):
        poll.modify(file, select.EPOLLIN | select.EPOLLOUT | select.EPOLLONESHOT)
    after = [len(poll.poll(0)) for poll in polls]
    return before == [[(kept, 4)], [], [], []], after, [len(poll.poll(0)) for poll in polls]
stand("one", answer)
"""


def test_a_target_that_has_reported_once_reports_again_when_it_is_asked_for(
    tmp_path: Path, daemon_socket: Path
) -> None:
    """With EPOLLONESHOT, also where its other end was closed meanwhile: a thread has it at work."""
    standing = dumped(SPENT, tmp_path, daemon_socket)
    with restored(standing, daemon_socket, compared=False):  # an end that is not ready will tell of its other end's
        assert ast.literal_eval(standing.ask("one")) == (True, [2, 1, 1, 1], [1, 0, 0, 0])


BOTH_WAYS = """
read, write = os.pipe()
both = os.open(f"/proc/self/fd/{read}", os.O_RDWR)
alone_read, alone_write = os.pipe()
alone = os.open(f"/proc/self/fd/{alone_read}", os.O_RDWR | os.O_NONBLOCK)
os.write(alone, b"within")
for each in (read, alone_read, alone_write):
    os.close(each)
def answer():
    os.write(write, b"one")
    os.write(both, b"two")
    return os.read(both, 6), os.read(alone, 9), os.write(alone, b"x"), os.read(alone, 9)
stand("one", answer)
"""


def test_a_pipe_that_is_open_for_reading_and_writing_takes_both(tmp_path: Path, daemon_socket: Path) -> None:
    """As one that was opened by /proc/PID/fd."""
    standing = dumped(BOTH_WAYS, tmp_path, daemon_socket)
    with restored(standing, daemon_socket):
        assert ast.literal_eval(standing.ask("one")) == (b"onetwo", b"within", 1, b"x")


def test_open_namespaces_are_those_of_the_tree(tmp_path: Path, daemon_socket: Path) -> None:
    """Also the pid namespace that the tree gets."""
    with program([sys.executable, "-c", NAMESPACES], tmp_path) as pid:
        eventually((tmp_path / "begun").exists, "it has begun")
        images = dump(pid, tmp_path / "images", daemon_socket)
    with restarted(images):
        (tmp_path / "ask").touch()
        eventually((tmp_path / "told").exists, "it tells")
    found = ast.literal_eval((tmp_path / "told").read_text())

    assert found == dict.fromkeys(("net", "ipc", "mnt", "user", "uts", "pid"), True)
