# SPDX-License-Identifier: Apache-2.0
"""The digest of a process's view of the file system: equal views and different ones, with any mounts over others."""

import os
import random
import subprocess

import pytest

from agent.model import Surroundings
from agent.proc.statfile import opened
from agent.proc.surroundings import SurroundingsReader, strange, view_of

ROOT = "21 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw"
PROC = "22 21 0:20 / /proc rw,nosuid shared:2 - proc proc rw"
A = "30 21 0:41 / /x rw,relatime - tmpfs none rw"
B = "31 30 0:42 / /x rw,relatime - tmpfs none rw"  # over A
INITIAL_USER = 4026531837


def view(*lines: str, rights: int = 0) -> str:
    """Return the digest of these mounts."""
    found = view_of("".join(f"{line}\n" for line in lines).encode(), rights)
    assert found is not None
    return found


def copied(*lines: str) -> list[str]:
    """Return the same mounts as in a copy of the namespace: other ids, another order, no peers."""
    ids = {line.split()[0]: str(900 + at) for at, line in enumerate(lines)}
    made = []
    for line in lines:
        number, parent, *rest = line.split()
        made.append(" ".join([ids[number], ids.get(parent, parent), *(word for word in rest if ":1" not in word)]))
    random.Random(1).shuffle(made)
    return made


def test_a_copy_of_a_namespace_has_the_same_view() -> None:
    """Its mounts have other ids, and another order among siblings."""
    lines = (ROOT, PROC, A, B, "40 31 0:43 / /x/y ro - tmpfs none rw", "41 21 0:44 / /srv rw - tmpfs none rw")

    assert view(*copied(*lines)) == view(*lines) == view(*lines)


def test_mounts_in_another_order_over_one_point_are_another_view() -> None:
    """A path leads to the upper one."""
    swapped = (ROOT, PROC, A.replace("0:41", "0:42"), B.replace("0:42", "0:41"))

    assert view(ROOT, PROC, A, B) != view(*swapped)


def test_what_lies_on_a_hidden_mount_is_not_what_lies_on_the_one_that_is_seen() -> None:
    """Both have the same path."""
    below, above = ("40 30 0:43 / /x/y rw - tmpfs none rw", "40 31 0:43 / /x/y rw - tmpfs none rw")

    assert view(ROOT, A, B, below) != view(ROOT, A, B, above)


@pytest.mark.parametrize("option", ["ro", "nosuid", "nodev", "noexec", "nosymfollow", "idmapped"])
def test_what_may_be_done_with_a_mount_counts(option: str) -> None:
    """Options forbid programs, set-id bits, or writing."""
    other = A.replace("rw,relatime", f"{'' if option == 'ro' else 'rw,'}{option},relatime")

    assert view(ROOT, other) != view(ROOT, A)


@pytest.mark.parametrize(
    "changed",
    ["30 21 0:49 / /x rw - tmpfs none rw", "30 21 0:41 /z /x rw - tmpfs none rw", "30 21 0:41 / /x rw - ext4 none rw"],
    ids=["device", "root within it", "type"],
)
def test_what_is_mounted_counts(changed: str) -> None:
    """The mount point is the same."""
    assert view(ROOT, A.replace(",relatime", "")) != view(ROOT, changed)


def test_when_access_is_noted_and_to_whom_mounts_propagate_does_not_count() -> None:
    """The name of the source does not count either, because any user may choose it."""
    assert view(ROOT, A) == view(ROOT, "30 21 0:41 / /x rw,noatime shared:7 master:3 - tmpfs other rw,size=1k")


def test_a_procfs_on_proc_does_not_count_and_anything_else_there_does() -> None:
    """A rebuilt tree has a procfs of its own."""
    own = "50 22 0:60 / /proc rw,nosuid,nodev,noexec - proc proc rw"
    within = "51 22 0:35 / /proc/sys/fs/binfmt_misc rw - binfmt_misc none rw"
    files = "52 22 0:61 / /proc rw - tmpfs none rw"

    assert view(ROOT, PROC, within, own) == view(ROOT, PROC, within)
    assert view(ROOT, PROC, files) != view(ROOT, PROC)
    assert view(ROOT, "22 21 0:20 / /etc rw - proc proc rw") != view(ROOT)


def test_the_rights_of_a_root_that_is_no_mount_point_count() -> None:
    """No line describes the mount that it lies in."""
    assert view(A, rights=os.ST_NOSUID) != view(A)


@pytest.mark.slow
def test_a_tower_of_mounts_and_one_that_lies_on_itself_are_read() -> None:
    """A process may have fs.mount-max of them, one over the other."""
    tower = [f"{n} {n - 1} 0:{n} / /x rw - tmpfs none rw" for n in range(2, 20_000)]

    assert view(*tower) == view(*reversed(tower)) != view(*tower[:-1])
    assert view("1 1 0:1 / / rw - rootfs none rw", ROOT) == view("1 1 0:1 / / rw - rootfs none rw", ROOT)
    assert view_of(b"nonsense\n") is None


# ---- the use by a restart ----------------------------------------------------------------------------------------------

HERE = Surroundings(b"/", (1, 2), None, 10, INITIAL_USER, own_ids=True, apart=(), view="aa")


def found(there: Surroundings, *, ids_made: bool = False, same_boot: bool = True) -> tuple[str, ...]:
    """Return the differences from the process of a restart."""
    return strange(there, HERE, same_boot=same_boot, ids_made=ids_made)


def test_another_namespace_with_the_same_view_is_no_other_place() -> None:
    """In the same namespace nothing differs, whatever has been mounted since."""
    assert found(HERE._replace(mount_namespace=11)) == found(HERE._replace(view="bb")) == ()
    assert found(HERE._replace(mount_namespace=11, view="bb")) == ("mounts",)
    assert found(HERE._replace(mount_namespace=11, view=None)) == ("mounts",)


def test_a_namespace_that_has_the_number_of_another_is_another() -> None:
    """The kernel uses a free number again at once, but never an id."""
    known = HERE._replace(mount_namespace_id=161, user_namespace_id=162)
    here = known._replace(mount_namespace_id=171, user_namespace_id=172)

    assert strange(known, here, same_boot=True) == ("user",)
    assert strange(known._replace(view="bb"), here, same_boot=True) == ("mounts", "user")
    assert strange(known._replace(view="bb"), known, same_boot=True) == ()


def test_the_sum_in_an_image_of_an_earlier_version_is_not_believed() -> None:
    """Any user can make mounts with the same digest; in the same namespace the digest is not compared."""
    old = HERE._replace(view=None, mounts=7)

    assert found(old) == ()
    assert found(old._replace(mount_namespace=11)) == ("mounts-unknown",)


def test_a_user_namespace_in_which_ids_are_the_same_is_another_all_the_same() -> None:
    """Programs with set-id bits gain nothing there. A caller that makes such a namespace for the tree is an
    exception.
    """
    there = HERE._replace(user_namespace=77, own_ids=False)

    assert found(there) == ("user",)
    assert found(there, ids_made=True) == ()
    assert found(there._replace(own_ids=True), ids_made=True) == ("user",)


def test_of_another_boot_only_what_was_apart_then_counts() -> None:
    """The numbers have another meaning after a reboot."""
    there = HERE._replace(mount_namespace=99, view="zz", root_id=(8, 8), user_namespace=5)

    assert found(there, same_boot=False) == ()
    assert found(there._replace(apart=("mounts", "user")), same_boot=False) == ("mounts", "user")
    assert found(there._replace(apart=("user",), own_ids=False), same_boot=False, ids_made=True) == ()


# ---- real processes ----------------------------------------------------------------------------------------------------


def apart(*command: str) -> tuple[str, ...] | None:
    """Return the differences of a process from this one; it runs a command that prints `.` when it is ready."""
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.read(1)
        with opened(f"/proc/{process.pid}") as directory:
            first, second = SurroundingsReader().of(directory), SurroundingsReader().of(directory)
        process.communicate()
    assert first == second
    return first.apart


WAIT = "printf .; read -r _"


def test_a_child_lives_where_its_parent_does() -> None:
    """It inherits everything."""
    assert apart("sh", "-c", WAIT) == ()


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts")
@pytest.mark.parametrize(
    ("does", "expected"),
    [
        ("true", ()),
        ("mount -t proc proc /proc", ()),
        ("mount -o remount,bind,ro /", ("mounts",)),
        ("mount -o remount,bind,nosuid /", ("mounts",)),
        ("mount -t tmpfs none /mnt", ("mounts",)),
    ],
)
def test_a_mount_namespace_of_its_own_is_apart_by_what_was_changed_in_it(does: str, expected: tuple[str, ...]) -> None:
    """A copy without changes has no difference."""
    shell = ["unshare", "--mount", "--propagation", "private", "sh", "-c", f"{does} && {WAIT}"]

    assert apart(*shell) == expected


@pytest.mark.skipif(os.geteuid() != 0, reason="changes its user")
def test_a_user_namespace_with_the_same_ids_is_apart() -> None:
    """It has a single id, equal inside and outside, and no capability."""
    user = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]

    assert apart(*user, "unshare", "--map-current-user", "sh", "-c", WAIT) == ("user",)
