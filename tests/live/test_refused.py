# SPDX-License-Identifier: Apache-2.0
"""Messages about programs that the kernel refuses: a refusal by the verifier is not reported as a lack of rights."""

import struct
from collections import defaultdict

import pytest

from agent.errors import HostError
from bpf import compiler, loader, syscall
from bpf.compiler import Bundle

# r0 = *(u64 *)(r2 + 0), of a register that was never set; exit
UNSET = struct.pack("<BBhi", 0x79, 0x20, 0, 0) + struct.pack("<BBhi", 0x95, 0, 0, 0)


def refused() -> syscall.VerifierError:
    """A program that no verifier takes."""
    with pytest.raises(syscall.VerifierError) as caught:
        syscall.load_program(UNSET, syscall.PROG_RAW_TRACEPOINT, "unset")
    return caught.value


def test_the_verifiers_refusal_has_its_log_and_last_words() -> None:
    """It is an EACCES, as a lack of rights often is."""
    error = refused()

    assert error.strerror is not None
    assert error.strerror.endswith("R2 !read_ok")
    assert any(line.startswith("0: (79) r0 = *(u64 *)(r2 +0)") for line in error.log)


def test_a_program_that_the_verifier_refuses_is_told_as_such() -> None:
    """The message has its log and the remedy, and does not speak of rights."""
    said = loader.refusal(refused())

    assert "refuses what this bcc makes" in said
    assert "R2 !read_ok" in said
    assert "(79) r0 = *(u64 *)(r2 +0)" in said
    assert "docs/matrix.md" in said
    assert "CAP_BPF" not in said


def test_the_loader_answers_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the first program that it needs, when it has tried several at once."""

    def compiled(*_: object) -> Bundle:
        key = syscall.MapShape(2, 4, 16, 1, 0)  # BPF_MAP_TYPE_ARRAY
        return Bundle(defaultdict(lambda: UNSET), {"string_key": key}, defaultdict(int))

    monkeypatch.setattr(compiler, "bundle", compiled)
    monkeypatch.setattr(loader, "private_mounts", lambda: None)
    with pytest.raises(syscall.VerifierError):
        loader.load(4096, ())


def test_a_kernel_without_the_numbering_instruction_is_told_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is refused before maps are made, which such a kernel may refuse with EPERM as if rights were missing."""
    assert syscall.has_fetch_and_add()

    def refuse_map(*_: object) -> int:
        raise PermissionError(1, "BPF_MAP_CREATE ring: Operation not permitted")

    monkeypatch.setattr(syscall, "has_fetch_and_add", lambda: False)
    monkeypatch.setattr(syscall, "create_map", refuse_map)
    with pytest.raises(HostError, match=r"atomic fetch-and-add.*Linux 5\.12"):
        loader.load(4096, ())
