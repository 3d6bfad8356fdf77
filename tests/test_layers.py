# SPDX-License-Identifier: Apache-2.0
"""Who may know whom. lint-imports checks the contracts; here is what they cannot say."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

TOP = Path(__file__).parents[1]
CONTRACTS = tomllib.loads((TOP / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
THIRD_PARTY = {
    "agent": {"msgpack", "psutil", "typer"},
    "bpf": {"bcc", "msgpack"},
    "exporters": {"google", "msgpack"},  # google.protobuf, within functions: the criu format alone needs it
}


def modules_of(package: str) -> list[str]:
    """Its modules by name."""
    paths = (path.relative_to(TOP).with_suffix("") for path in (TOP / package).rglob("*.py"))
    return sorted(".".join(path.parts) for path in paths if path.name not in ("__init__", "__main__"))


def loaded_by(module: str) -> set[str]:
    """Names of all modules that are there once it has been imported."""
    program = f"import {module}, sys; print(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", program], cwd=TOP, capture_output=True, text=True, check=True)
    return set(ran.stdout.split())


def test_every_module_of_the_agent_is_core_or_shell() -> None:
    """A new one has to be put into the contract, on one side or the other."""
    (contract,) = (each for each in CONTRACTS if "the core" in each["name"])
    core = set(contract["source_modules"])
    shell = {name for name in contract["forbidden_modules"] if name.startswith("agent.")}

    assert core.isdisjoint(shell)
    assert sorted(core | shell) == modules_of("agent")


@pytest.mark.parametrize("package", sorted(THIRD_PARTY))
def test_a_package_imports_no_other_third_party_than_its_own(package: str) -> None:
    """Neither at the top nor within a function."""
    ours = sys.stdlib_module_names | THIRD_PARTY.keys()
    found = set()
    for path in (TOP / package).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            found |= {name.partition(".")[0] for name in names} - ours

    assert found <= THIRD_PARTY[package]


def test_the_daemon_loads_little() -> None:
    """It stays in memory: no compiler, no command line, no psutil, no package that it uses now and then."""
    heavy = {"bcc", "typer", "click", "rich", "psutil", "asyncio", "bpf.compiler", "bpf.loader", "agent.cli"}
    heavy |= {"exporters.jsonfmt", "exporters.msgpackfmt", "exporters.criu", "exporters.plugins", "google.protobuf"}

    assert not loaded_by("agent.daemon") & heavy


def test_the_exporters_load_nothing_that_could_capture() -> None:
    """A file can be read on a machine that has no /proc at all."""
    loaded = loaded_by("exporters.registry, exporters.store, exporters.treeview")

    assert {name for name in loaded if name.startswith(("agent.", "bpf"))} == {"agent.errors", "agent.model"}
    assert "psutil" not in loaded


def test_the_command_line_starts_light() -> None:
    """What only one verb needs is imported when that verb runs."""
    loaded = loaded_by("agent.cli")

    assert not loaded & {"bcc", "psutil", "agent.watch", "agent.procfs", "exporters.registry", "exporters.treeview"}
