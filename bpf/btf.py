# SPDX-License-Identifier: Apache-2.0
"""Member offsets of the running kernel's structures, from its BTF, in plain Python.

Grammar (Documentation/bpf/btf.rst), all words u32 in the machine's byte order::

    file    := header type* string*
    header  := u16 0xeb9f, u8 version, u8 flags, u32 hdr_len, type_off, type_len, str_off, str_len
    type    := name_off, info, size_or_type, rest          rest depends on the kind, see _WORDS
    info    := vlen (bits 0-15), kind (24-28), kind_flag (31)
    member  := name_off, type, offset                      bits; with kind_flag: bit size << 24 | bit offset

Types are numbered from 1 in file order, so finding one by name is a walk. The walk stops as soon as it has seen every
wanted name, after about 3,000 of 126,000 types on a 6.18 kernel. It goes on only if a member refers to a later type.
"""

import mmap
import os
from collections.abc import Iterable
from pathlib import Path

from agent.errors import HostError
from agent.record import NamedTuple

VMLINUX = Path("/sys/kernel/btf/vmlinux")

_MAGIC = 0xEB9F
_HEADER_BYTES = 24
_KIND_SHIFT, _KIND_MASK, _COUNT_MASK, _FLAG_SHIFT = 24, 0x1F, 0xFFFF, 31  # of info
_SIZE_SHIFT, _OFFSET_MASK = 24, 0xFFFFFF  # of a member's offset, with kind_flag
_INT, _PTR, _ARRAY, _STRUCT, _UNION, _ENUM = 1, 2, 3, 4, 5, 6
_TYPEDEF, _VOLATILE, _CONST, _RESTRICT, _FUNC, _FUNC_PROTO, _TYPE_TAG = 8, 9, 10, 11, 12, 13, 18
_MODIFIERS = frozenset((_TYPEDEF, _VOLATILE, _CONST, _RESTRICT, _TYPE_TAG))
# Words behind the three common ones: (fixed, for each of vlen). DATASEC 15, DECL_TAG 17, ENUM64 19, VAR 14.
_WORDS = {_INT: (1, 0), _ARRAY: (3, 0), _STRUCT: (0, 3), _UNION: (0, 3), _ENUM: (0, 2), _FUNC_PROTO: (0, 2)}
_WORDS |= {14: (1, 0), 15: (0, 3), 17: (1, 0), 19: (0, 3)}


class StructMember(NamedTuple):
    """The place of a member in its structure.

    Attributes:
        offset: in bytes from the start of the structure; for a bit field, of the byte that holds its first bit.
        mask: the bit in its byte, for a bit field of one bit; 0 for ordinary members.
        type_id: of the member's type, without modifiers.
    """

    offset: int
    mask: int
    type_id: int


def _read(path: Path) -> memoryview:
    """Map the file; before 6.16 sysfs refuses to map it and returns one page for each read, so read it all there."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise HostError(
            f"{path}: {error.strerror}. The kernel must be built with CONFIG_DEBUG_INFO_BTF=y; "
            "without it `--source procfs` still answers, unverified."
        ) from error
    try:
        try:
            return memoryview(mmap.mmap(fd, os.fstat(fd).st_size, mmap.MAP_PRIVATE, mmap.PROT_READ))
        except (OSError, ValueError):
            chunks = []
            while chunk := os.read(fd, 1 << 16):
                chunks.append(chunk)
            return memoryview(b"".join(chunks))
    finally:
        os.close(fd)


class Btf:
    """The types of one kernel.

    Args:
        path: a raw BTF file.

    Attributes:
        types: the whole type section, as bytes: kernels with equal sections have equal type ids.

    Raises:
        HostError: the file does not exist, or is no BTF.
    """

    def __init__(self, path: Path = VMLINUX) -> None:
        view = _read(path)
        if len(view) < _HEADER_BYTES or view[:2].cast("H")[0] != _MAGIC:
            raise HostError(f"{path}: not BTF of this machine's byte order")
        head = view[:_HEADER_BYTES].cast("I")
        header_len, type_off, type_len, str_off, str_len = head[1:6]
        self.types = view[header_len + type_off : header_len + type_off + type_len]
        self._types = self.types.cast("I")
        self._strings = bytes(view[header_len + str_off : header_len + str_off + str_len])
        self._at = [0]  # word index of each type seen so far; type 0 is void
        self._next = 0

    def _name_off(self, name: str) -> int:
        """Return the offset of a whole string, or -1. BTF stores each string once, so names compare as numbers."""
        found = self._strings.find(b"\0" + name.encode() + b"\0")
        return found + 1 if found >= 0 else -1

    def _step(self) -> int:
        """Walk over one more type and return its word index, or -1 at the end."""
        at = self._next
        if at >= len(self._types):
            return -1
        info = self._types[at + 1]
        fixed, each = _WORDS.get(info >> _KIND_SHIFT & _KIND_MASK, (0, 0))
        self._next = at + 3 + fixed + each * (info & _COUNT_MASK)
        self._at.append(at)
        return at

    def _word(self, type_id: int) -> int:
        while len(self._at) <= type_id:
            if self._step() < 0:
                raise HostError(f"BTF refers to type {type_id}, which it does not hold")
        return self._at[type_id]

    def _strip(self, type_id: int) -> int:
        while type_id:
            at = self._word(type_id)
            if self._types[at + 1] >> _KIND_SHIFT & _KIND_MASK not in _MODIFIERS:
                break
            type_id = self._types[at + 2]
        return type_id

    def structs(self, names: Iterable[str]) -> dict[str, int]:
        """Find structures and unions by name.

        Returns:
            Type ids by name, without unknown names. A forward declaration of the same name does not count.
        """
        wanted = {off: name for name in names if (off := self._name_off(name)) >= 0}
        found: dict[str, int] = {}
        type_id = 1
        while len(found) < len(wanted):
            at = self._at[type_id] if type_id < len(self._at) else self._step()
            if at < 0:
                break
            name = wanted.get(self._types[at])
            if name is not None and self._types[at + 1] >> _KIND_SHIFT & _KIND_MASK in (_STRUCT, _UNION):
                found.setdefault(name, type_id)
            type_id += 1
        return found

    def size(self, type_id: int) -> int:
        """Return the size of a structure in bytes."""
        return self._types[self._word(self._strip(type_id)) + 2]

    def member(self, struct_id: int, path: str) -> StructMember | None:
        """Find ``a.b.c`` in a structure. Members of an anonymous structure count as the outer one's, as in C.

        Returns:
            None where this kernel has no such member.
        """
        offset, mask, type_id = 0, 0, struct_id
        for name in path.split("."):
            name_off = self._name_off(name)
            step = self._member(self._strip(type_id), name_off) if name_off >= 0 else None
            if step is None:
                return None
            offset, mask, type_id = offset + step.offset, step.mask, step.type_id
        return StructMember(offset, mask, self._strip(type_id))

    def _member(self, struct_id: int, name_off: int) -> StructMember | None:
        at = self._word(struct_id)
        info = self._types[at + 1]
        if info >> _KIND_SHIFT & _KIND_MASK not in (_STRUCT, _UNION):
            return None
        for word in range(at + 3, at + 3 + 3 * (info & _COUNT_MASK), 3):
            own_name, type_id, raw = self._types[word : word + 3]
            bits, size = (raw & _OFFSET_MASK, raw >> _SIZE_SHIFT) if info >> _FLAG_SHIFT else (raw, 0)
            if own_name == name_off:
                # Little endian: bit n of a bit field is bit n % 8 of byte n // 8.
                return StructMember(bits // 8, 1 << bits % 8 if size == 1 else 0, type_id)
            if not own_name:
                inner = self._member(self._strip(type_id), name_off)
                if inner is not None:
                    return inner._replace(offset=bits // 8 + inner.offset)
        return None

    def function(self, name: str) -> int:
        """Return the type id of a kernel function; 0 where BTF does not name it."""
        at = self._find(name, _FUNC)
        return self._at.index(at) if at >= 0 else 0

    def tracepoint(self, event: str) -> int:
        """Return the type id of a raw tracepoint, ``btf_trace_EVENT``; 0 where it does not exist."""
        at = self._find(f"btf_trace_{event}", _TYPEDEF)
        return self._at.index(at) if at >= 0 else 0

    def _find(self, name: str, kind: int) -> int:
        """Return the word index of the first type of that name and kind, or -1."""
        name_off = self._name_off(name)
        type_id = 1
        while name_off >= 0:
            at = self._at[type_id] if type_id < len(self._at) else self._step()
            if at < 0:
                break
            if self._types[at] == name_off and self._types[at + 1] >> _KIND_SHIFT & _KIND_MASK == kind:
                return at
            type_id += 1
        return -1

    def _arguments(self, proto_id: int) -> int:
        return self._types[self._word(proto_id) + 1] & _COUNT_MASK

    def tracepoint_arguments(self, event: str) -> int | None:
        """Return the number of arguments of a raw tracepoint, from ``btf_trace_EVENT``; None for an unknown tracepoint.

        The kernel does not attach a program that reads one more.
        """
        at = self._find(f"btf_trace_{event}", _TYPEDEF)
        if at < 0:
            return None
        pointer = self._word(self._types[at + 2])
        return self._arguments(self._types[pointer + 2]) - 1  # the first one is the probe's own void *
