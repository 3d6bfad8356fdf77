# SPDX-License-Identifier: Apache-2.0
"""The choice of hooks, with a kernel that loads nothing: the best way that works, each program loaded once."""

import itertools
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.errors import HostError
from bpf import compiler, loader, syscall
from bpf.hooks import FEATURES

MAPS = ("ring", "page", "raw", "perf", "string_key")
PROGRAMS = {*(hook.program for feature in FEATURES for way in feature.ways for hook in way)}
PROGRAMS |= {program for program, *_ in (*loader.CALLED, *loader.ITERATORS)}
TRACED = {hook.traced for feature in FEATURES for way in feature.ways for hook in way if hook.traced}
TRACED |= {on for *_, on in loader.ITERATORS}

Loads = Callable[..., tuple[loader.Loader, Counter[str]]]


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Loads:
    """Return a function that runs a loader, on a kernel that refuses some programs."""
    numbers = itertools.count(100)
    for call in ("create_map", "link_iterator", "attach_raw_tracepoint"):
        monkeypatch.setattr(syscall, call, lambda *_: next(numbers))
    for call in ("attach_tracepoint", "attach_kprobe"):
        monkeypatch.setattr(syscall, call, lambda *_: (next(numbers), next(numbers)))
    for call in ("set_entry", "set_word"):
        monkeypatch.setattr(syscall, call, lambda *_: None)
    monkeypatch.setattr(loader, "_TRACEFS", tmp_path)
    monkeypatch.setattr(loader, "_KPROBE_TYPE", tmp_path / "type")
    (tmp_path / "type").write_text("6\n")
    for hook in (hook for feature in FEATURES for way in feature.ways for hook in way if hook.kind == "tracepoint"):
        (tmp_path / "events/syscalls" / hook.target).mkdir(parents=True, exist_ok=True)
        (tmp_path / "events/syscalls" / hook.target / "id").write_text("7\n")

    def load(*refused: str, without: tuple[str, ...] = ()) -> tuple[loader.Loader, Counter[str]]:
        loaded: Counter[str] = Counter()

        def load_program(_code: bytes, kind: int, name: str, *_: int) -> int:
            loaded[f"{name} {kind}"] += 1
            if name in refused:
                raise OSError(1, f"no {name}")
            return next(numbers)

        monkeypatch.setattr(syscall, "load_program", load_program)
        shape = syscall.MapShape(syscall.MAP_RINGBUF, 4, 8, 4096, 0)
        bundle = compiler.Bundle(
            code={program: bytes(8 * place) for place, program in enumerate(sorted(PROGRAMS))},
            maps=dict.fromkeys(MAPS, shape),
            btf_ids=dict.fromkeys(TRACED, 5),
        )
        made = loader.Loader(bundle, 1 << 16, without)
        made.run()
        return made, loaded

    return load


@pytest.mark.parametrize("processors", [1, 2, 16])
def test_a_feature_gets_its_first_way_where_that_loads(
    loads: Loads, monkeypatch: pytest.MonkeyPatch, processors: int
) -> None:
    """No program of another way is loaded, and none twice, however many processors share the work."""
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(processors)))
    made, loaded = loads()

    assert made.hooks == {feature.name: [str(hook) for hook in feature.ways[0]] for feature in FEATURES}
    assert list(made.hooks) == [feature.name for feature in FEATURES]
    assert made.tried == {}
    assert set(loaded.values()) == {1}
    firsts = {hook.program for feature in FEATURES for hook in feature.ways[0]}
    assert {name.partition(" ")[0] for name in loaded} == firsts | {
        program for program, *_ in (*loader.CALLED, *loader.ITERATORS)
    }
    assert {name for name in made.descriptors if name.startswith("iterator")} == {
        *("iterator", "iterator:terminals", "iterator:owners", "iterator:sharing")
    }


def test_a_refused_program_gives_way_to_the_next_one_and_is_told(loads: Loads) -> None:
    """A feature with a hook of another one has its own next way, too."""
    made, loaded = loads("after_change_pid", "before_release_task", "kprobe_release_task", "on_exec_strings", "on_file")

    assert made.hooks["setsid"] == ["tracepoint:sys_exit_setsid"]
    assert made.hooks["setpgid"] == ["tracepoint:sys_exit_setpgid"]
    assert made.hooks["reap"] == ["tracepoint:sys_exit_wait4", "tracepoint:sys_exit_waitid"]
    assert made.hooks["exec"] == ["raw_tracepoint:sched_process_exec"]
    assert set(loaded.values()) == {1}
    assert made.missing == ["owners"]
    assert set(made.tried) == {
        *("fexit:change_pid", "fentry:release_task", "kprobe:release_task"),
        *("typed_tracepoint:sched_process_exec", "iterator:owners"),
    }
    assert made.tried["fexit:change_pid"] == "no after_change_pid"


def test_a_feature_that_is_left_out_is_not_loaded(loads: Loads) -> None:
    """Nor is a single hook."""
    made, loaded = loads(without=("reap", "fexit:change_pid"))

    assert made.hooks["reap"] == []
    assert made.hooks["setsid"] == ["tracepoint:sys_exit_setsid"]
    assert made.tried == {"fexit:change_pid": "left out"}
    assert not {name for name in loaded if name.startswith(("before_release", "after_change"))}


def test_a_required_feature_without_a_way_is_refused(loads: Loads) -> None:
    """The error has the reason of each way."""
    with pytest.raises(HostError, match=r"no hook for fork works on this kernel: .*no on_fork_typed.*no on_fork"):
        loads("on_fork", "on_fork_typed")


def test_a_program_that_every_kernel_loads_is_an_error_where_it_does_not(loads: Loads) -> None:
    """It is the kernel's own."""

    with pytest.raises(OSError, match="no state"):
        loads("state")
