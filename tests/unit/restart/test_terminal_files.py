# SPDX-License-Identifier: Apache-2.0
"""The operations that restore terminals, and the terminals that are refused."""

import struct
from typing import Any

import pytest

from agent.restart.contents.fillprogram import Data
from agent.restart.contents.refusals import Refused
from agent.restart.contents.terminalfiles import TerminalFiles
from exporters.criu.criuschema import messages
from tests.support.filledfiles import calls, file_entry, filled

MODES = {"c_iflag": 1, "c_oflag": 2, "c_cflag": 3, "c_lflag": 4, "c_line": 0, "c_ispeed": 0, "c_ospeed": 0}
MASTER, SLAVE = 0x502, 0x8800
NUMBER = 999


def _info(identity: int, device: int, **more: Any) -> Any:
    known = {"type": 1, "locked": False, "exclusive": False, "packet_mode": False, "sid": 0, "pgrp": 0}
    modes = MODES | {"c_cc": [0x04030201, 5]}
    shown = {"termios": modes, "termios_locked": modes | dict.fromkeys(MODES, 0), "pty": {"index": NUMBER}}
    size = {"winsize": {"ws_row": 9, "ws_col": 8, "ws_xpixel": 0, "ws_ypixel": 0}}
    made: Any = messages()["tty_info_entry"]
    return made(**{"id": identity, "rdev": device} | known | shown | size | more)


def _kind(entries: list[Any], *infos: Any, data: dict[int, bytes] | None = None, caller: bytes = b"") -> TerminalFiles:
    paths = [file_entry(8, 1, name=b"/dev/pts/%d" % NUMBER, pos=0), file_entry(9, 1, name=b"/dev/ptmx", pos=0)]
    return TerminalFiles(
        {int(each.id): each for each in (*paths, *entries)}, {int(i.id): i for i in infos}, data or {}, caller
    )


def _pair() -> list[Any]:
    return [
        file_entry(1, 11, tty_info_id=2 * NUMBER, regf_id=8),
        file_entry(2, 11, tty_info_id=2 * NUMBER + 1, regf_id=9),
    ]


def test_a_master_is_opened_at_its_number_before_its_slave_and_the_leader_of_its_session_takes_it() -> None:
    """The leader is another process than the one that makes the pair."""
    entries = _pair()
    infos = _info(2 * NUMBER, SLAVE), _info(2 * NUMBER + 1, MASTER, sid=11, pgrp=11)

    server, leader = filled(entries, {11: _kind(entries, *infos)}, [((10,), [2]), ((11,), [1])])

    made = calls(server, "open", "openat")
    assert [each.name for each in made] == ["open", "openat"]
    assert made[0].arguments[2] == NUMBER
    assert [each.arguments[1] for each in calls(leader, "ioctl")] == [0x540E, 0x5410]
    assert not [each for each in calls(server, "ioctl") if each.arguments[1] == 0x540E]


def test_control_characters_are_bytes_within_numbers() -> None:
    """So CRIU writes them."""
    entries = _pair()
    (holder,) = filled(
        entries, {11: _kind(entries, _info(2 * NUMBER, SLAVE), _info(2 * NUMBER + 1, MASTER))}, [((10,), [1, 2])]
    )

    place = next(each.arguments[2] for each in calls(holder, "ioctl") if each.arguments[1] == 0x5402)
    assert isinstance(place, Data)
    found = struct.unpack_from("<4IB19s", holder.program._data, place.offset)
    assert found == (1, 2, 3, 4, 0, bytes([1, 2, 3, 4, 5]) + bytes(14))


def test_what_nobody_has_read_is_put_back_before_the_modes() -> None:
    """The modes of the program would change or echo it."""
    entries = _pair()
    infos = _info(2 * NUMBER, SLAVE), _info(2 * NUMBER + 1, MASTER)
    data = {2 * NUMBER: b"typed", 2 * NUMBER + 1: b"written"}

    (holder,) = filled(entries, {11: _kind(entries, *infos, data=data)}, [((10,), [1, 2])])

    steps = [each.name for each in holder.leader.operations if each.name == "write" or 0x5402 in each.arguments[1:2]]
    assert steps == ["ioctl", "write", "write", "ioctl"]


def test_a_slave_without_a_master_is_the_callers_or_refused() -> None:
    """Its master is outside the tree."""
    entry = file_entry(1, 11, tty_info_id=2 * NUMBER)
    info = _info(2 * NUMBER, SLAVE)

    with pytest.raises(Refused, match="use --shell-job"):
        _kind([entry], info).check(entry, {3})
    kind = _kind([entry], info, caller=b"/dev/pts/5")
    kind.check(entry, {3})
    (holder,) = filled([entry], {11: kind}, [((10,), [1])])
    place = calls(holder, "openat")[-1].arguments[1]
    assert isinstance(place, Data)
    assert bytes(holder.program._data[place.offset :]).startswith(b"/dev/pts/5\0")


@pytest.mark.parametrize(
    ("regf_id", "name", "rule"),
    [
        (7, b"", "missing"),
        (1, b"", "missing"),
        (9, b"/dev/null", "path"),
        (9, b"/dev/pts/%d" % NUMBER, "path"),
        (9, b"/dev/pt\0mx", "missing"),
        (8, b"/dev/ptmx", "path"),
        (8, b"/dev/pts/%d" % (NUMBER + 1), "path"),
        (8, b"/tmp/%d" % NUMBER, "path"),
    ],
)
def test_an_end_whose_path_is_none_of_it_is_refused(regf_id: int, name: bytes, rule: str) -> None:
    """A made-up image may name no file there, an end of a terminal, or a file that is no terminal."""
    entries = _pair()
    kind = _kind(entries, _info(2 * NUMBER, SLAVE), _info(2 * NUMBER + 1, MASTER))
    for sound in entries:
        kind.check(sound, {3})
    wrong = entries[regf_id != 8]
    wrong.tty.regf_id = regf_id
    if name:
        kind._files[regf_id].reg.name = name
    with pytest.raises(Refused) as refused:
        kind.check(wrong, {3})

    assert refused.value.refusal[2] == rule


def test_a_terminal_of_no_pair_must_be_a_device() -> None:
    """Its program would write into a file of any kind."""
    info = _info(7, 4 << 8 | 1, type=2)
    info.ClearField("pty")
    entry = file_entry(1, 11, tty_info_id=7, regf_id=8)
    kind = _kind([entry], info)
    kind._files[8].reg.name = b"/dev/null"
    kind.check(entry, {3})
    kind._files[8].reg.name = b"/etc/passwd"
    with pytest.raises(Refused, match="or no terminal"):
        kind.check(entry, {3})
