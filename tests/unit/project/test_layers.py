# SPDX-License-Identifier: Apache-2.0
"""The import rules that lint-imports cannot check."""

import ast
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

TOP = Path(__file__).parents[3]
THIRD_PARTY = {
    "agent": {
        "msgpack",
        "psutil",
        "click",
        "typer",
        "nats",
        "obstore",
        "opentelemetry",
        "oras",
        "requests",
        "zstandard",
    },
    "bpf": {"bcc", "msgpack"},
    "exporters": {"google", "msgpack"},  # google.protobuf, within functions: only the criu format needs it
}

# Where a function writes to a name of its module. The two tables have what a pure function returns for at most 16 values.
KEPT = {
    ("agent/__main__.py", "_interrupts"),  # a signal handler has no other place
    ("agent/cli/ending.py", "_left"),  # a command line is one program, with one end
    ("agent/events/eventpack.py", "_FLAGS"),
    ("agent/selection/births.py", "_FLAGS"),
}
WRITING = frozenset(
    [
        "add",
        "append",
        "appendleft",
        "clear",
        "discard",
        "extend",
        "insert",
        "pop",
        "popitem",
        "remove",
        "setdefault",
        "update",
    ]
)


@cache
@cache
def modules(package: str) -> dict[str, ast.Module]:
    """Return the modules of a package, parsed, by their paths in the checkout."""
    paths = sorted((TOP / package).rglob("*.py"))
    return {os.fspath(path.relative_to(TOP)): ast.parse(path.read_text()) for path in paths}


def loaded_by(module: str) -> set[str]:
    """Return the names of all modules that its import loads."""
    program = f"import {module}, sys; print(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", program], cwd=TOP, capture_output=True, text=True, check=True)
    return set(ran.stdout.split())


@pytest.mark.parametrize("package", sorted(THIRD_PARTY))
def test_a_package_imports_no_other_third_party_than_its_own(package: str) -> None:
    """This holds for imports at the top and within functions."""
    ours = sys.stdlib_module_names | THIRD_PARTY.keys()
    found = set()
    for module in modules(package).values():
        for node in ast.walk(module):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            found |= {name.partition(".")[0] for name in names} - ours

    assert found <= THIRD_PARTY[package]


@pytest.mark.parametrize(
    ("names", "room"),
    [({"nats", "obstore", "oras", "requests"}, "agent/fleet/"), ({"opentelemetry"}, "agent/telemetry/")],
    ids=["fleet", "export"],
)
def test_what_an_extra_installs_is_imported_within_functions_of_its_room(names: set[str], room: str) -> None:
    """A caller that asks for no store needs none of it. Types may be named, for they are not imported."""
    found = set()
    for name, module in modules("agent").items():
        at_the_top = {id(node) for node in module.body}
        for node in ast.walk(module):
            found_names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            found_names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if any(each.partition(".")[0] in names for each in found_names):
                found.add((name.startswith(room), id(node) in at_the_top))

    assert found == {(True, False)}


def test_the_daemon_loads_little() -> None:
    """The daemon stays in memory: it loads no compiler, command line or psutil, nor any rarely used package."""
    heavy = {"bcc", "typer", "click", "rich", "psutil", "asyncio", "bpf.compiler", "bpf.loader", "agent.cli.app"}
    heavy |= {
        "exporters.documents.jsonfmt",
        "exporters.documents.msgpackfmt",
        "exporters.criu.criuformat",
        "exporters.plugins",
        "google.protobuf",
    }

    assert not loaded_by("agent.daemon.main") & heavy


def test_the_exporters_load_nothing_that_could_capture() -> None:
    """A machine without /proc can read a file."""
    loaded = loaded_by("exporters.registry, exporters.store, exporters.drawing.treeview")

    ours = {name for name in loaded if name.startswith(("agent.", "bpf"))}
    assert {".".join(name.split(".")[:2]) for name in ours} == {"agent.errors", "agent.model", "agent.record"}
    assert "psutil" not in loaded


def test_the_command_line_starts_light() -> None:
    """A module that only one verb needs is imported when that verb runs."""
    loaded = loaded_by("agent.cli.main")

    assert not loaded & {
        "bcc",
        "psutil",
        "agent.capture.watch",
        "agent.proc.procfs",
        "exporters.registry",
        "exporters.drawing.treeview",
        "agent.cli.restartverb",
        "asyncio",
    }


def written_by_functions(module: ast.Module) -> set[str]:
    """Return the names of a module that its functions assign, or whose value they change."""
    names = {each.id for node in module.body for each in targets(node)}
    found: set[str] = set()
    for function in ast.walk(module):
        for node in ast.walk(function) if isinstance(function, ast.FunctionDef | ast.Lambda) else ():
            changed: ast.AST | None = None
            if isinstance(node, ast.Global):
                found |= {*node.names}
            elif isinstance(node, ast.Subscript | ast.Attribute) and isinstance(node.ctx, ast.Store | ast.Del):
                changed = node.value
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in WRITING:
                changed = node.func.value
            if isinstance(changed, ast.Name) and changed.id in names:
                found.add(changed.id)
    return found


def targets(node: ast.stmt) -> list[ast.Name]:
    """Return the names that an assignment at the top of a module gives a value."""
    given = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [each for each in given if isinstance(each, ast.Name)]


def test_no_function_keeps_state_in_its_module() -> None:
    """State belongs to an object with an owner: two watches, two tests or two services must not share it."""
    found = {
        (name, written)
        for package in ("agent", "exporters", "bpf")
        for name, module in modules(package).items()
        for written in written_by_functions(module)
    }

    assert found == KEPT


def test_a_class_name_means_one_class() -> None:
    """A reader who meets a name need not ask which room it is from."""
    places: dict[str, list[str]] = {}
    for package in ("agent", "bpf", "exporters"):
        for name, module in modules(package).items():
            for node in ast.walk(module):
                if isinstance(node, ast.ClassDef):
                    places.setdefault(node.name, []).append(name)

    assert len(places) > 100
    assert {name: where for name, where in places.items() if len(where) > 1} == {}


def test_no_module_has_more_than_400_lines() -> None:
    """A longer one is about more than one thing."""
    modules = [
        path
        for folder in ("agent", "bpf", "exporters", "manual", "tests")
        for pattern in ("*.py", "*.[ch]")
        for path in (TOP / folder).rglob(pattern)
        if path.relative_to(TOP).parts[:2] != ("bpf", "include")
    ]

    assert len(modules) > 100
    assert {f"{path.relative_to(TOP)}": n for path in modules if (n := len(path.read_text().splitlines())) > 400} == {}
