# SPDX-License-Identifier: Apache-2.0
"""The host as a map: the header of a document, and the defaults of an image's head.

    header    = {release, version, machine, lsm: text; kernel_version: [major, minor, patch], has_fxsr, has_xsave,
                 xstate_size} | foreign
    foreign   = {arch_id, rev, constants: [12 integers], uflags, arch: bytes, lsm_info: bytes}, all optional

The kernel's strings are bytes; here they are text in the form of exporters.content.fields, so each comes back as it
was. A foreign key is there only if an image has another value in that place than ckptree writes: images of ckptree have
no foreign keys, and images of other writers keep their values.

Architecture
------------
The format of 2011 numbers x86-32, x86-64, s390x, 32 and 64 bits of PowerPC, from 1 on. arm64 is younger: the format has
no number for it, and the readers of 2011 accept no such image. For arm64 ckptree writes ELF's number, which is none of
those, and a HEADER_ARCH of zeros. ckptree decodes the HEADER_ARCH of x86 and keeps any other as bytes.
"""

import struct
from typing import Final

from agent.model import Header
from agent.record import replace
from exporters.content.fields import U32_MAX, U64_MAX, Fields

ARCH_X86_32: Final = 1
ARCH_X86_64: Final = 2
ARCH_AARCH64: Final = 183  # EM_AARCH64

REV: Final = 6
# task_comm_len, at_vector_size, signal_nsig; uts sysname, nodename, release, version, machine, domainname;
# =# rlimit_nlimits, n_tty_buf_size, tty_termios_nccs: of an x86-64 kernel of 2011.
CONSTANTS: Final = (16, 44, 64, 65, 65, 65, 65, 65, 65, 16, 4096, 19)
UTS_CONSTANTS: Final = slice(5, 8)  # release, version, machine
UTS_LIMIT: Final = 1024
LSM_INFO: Final = b"dummy"
LSM_INFO_LIMIT: Final = 192
SUBTREE: Final = 1
"""The bit of uflags for the mode; the other bits are foreign."""

X86_ARCH: Final = struct.Struct("<4H")
"""HEADER_ARCH on x86: has_fxsr, has_xsave, xstate_size, padding."""
ARCH_LIMIT: Final = 192

U16_MAX: Final = 0xFFFF

_AARCH64 = ("aarch64", "aarch64_be", "armv8l", "armv8b")  # the last two: uname(2) for a 32-bit program


def arch_id(header: Header) -> int:
    """Return the number of the host's architecture."""
    if header.arch_id is not None:
        return header.arch_id
    return ARCH_AARCH64 if header.machine in _AARCH64 else ARCH_X86_64


def is_x86(number: int) -> bool:
    """Return True if ckptree decodes the HEADER_ARCH of this architecture."""
    return number in (ARCH_X86_32, ARCH_X86_64)


def arch_body(header: Header) -> bytes:
    """Return the body of HEADER_ARCH."""
    if header.arch is not None:
        return header.arch
    if not is_x86(arch_id(header)):
        return bytes(X86_ARCH.size)
    return X86_ARCH.pack(header.has_fxsr, header.has_xsave, min(header.xstate_size, U16_MAX), 0)


def settled(header: Header) -> Header:
    """Return the header without foreign values that equal ckptree's own."""
    if header.arch_id is not None and header.arch_id == arch_id(replace(header, arch_id=None)):
        header = replace(header, arch_id=None)
    if header.arch is not None and header.arch == arch_body(replace(header, arch=None)):
        header = replace(header, arch=None)
    rev = None if header.rev == REV else header.rev
    constants = () if header.constants == CONSTANTS else header.constants
    lsm_info = None if header.lsm_info == LSM_INFO else header.lsm_info
    if (rev, constants, lsm_info) == (header.rev, header.constants, header.lsm_info):
        return header
    return replace(header, rev=rev, constants=constants, lsm_info=lsm_info)


def header_fields(header: Header) -> dict[str, object]:
    """Return the header's map, keys sorted."""
    known: dict[str, object] = {
        "has_fxsr": header.has_fxsr,
        "has_xsave": header.has_xsave,
        "kernel_version": header.kernel_version,
        "lsm": header.lsm,
        "machine": header.machine,
        "release": header.release,
        "version": header.version,
        "xstate_size": header.xstate_size,
    }
    foreign = {
        "arch": header.arch,
        "arch_id": header.arch_id,
        "constants": header.constants or None,
        "lsm_info": header.lsm_info,
        "rev": header.rev,
        "uflags": header.uflags or None,
    }
    said = {key: value for key, value in foreign.items() if value is not None}
    return dict(sorted((known | said).items())) if said else known


def read_header(fields: Fields, absent: Header) -> Header:
    """Read a header from its map; a missing key keeps its value of `absent`."""
    version = absent.kernel_version
    if fields.has("kernel_version"):
        numbers = fields.integers("kernel_version", 0, U32_MAX)
        if len(numbers) != len(version):
            raise fields.wrong("kernel_version", "major, minor and patch")
        version = numbers[0], numbers[1], numbers[2]
    size = fields.maybe_integer("xstate_size", 0, U32_MAX)
    fxsr, xsave = fields.flag("has_fxsr"), fields.flag("has_xsave")
    known = replace(
        absent,
        release=fields.text("release", absent.release),
        version=fields.text("version", absent.version),
        machine=fields.text("machine", absent.machine),
        kernel_version=version,
        has_fxsr=absent.has_fxsr if fxsr is None else fxsr,
        has_xsave=absent.has_xsave if xsave is None else xsave,
        xstate_size=absent.xstate_size if size is None else size,
        lsm=fields.text("lsm", absent.lsm),
    )
    return settled(_read_foreign(fields, known))


def _read_foreign(fields: Fields, header: Header) -> Header:
    """Read the foreign values, which EXTENSION does not hold: an image has them in its own fields."""
    number, rev = fields.maybe_integer("arch_id", 0, U16_MAX), fields.maybe_integer("rev", 0, U16_MAX)
    constants = fields.integers("constants", 0, U16_MAX)
    if constants and (len(constants) != len(CONSTANTS) or max(constants[UTS_CONSTANTS]) > UTS_LIMIT):
        raise fields.wrong("constants", f"{len(CONSTANTS)} integers, {UTS_LIMIT} at most for the strings of the host")
    uflags = fields.maybe_integer("uflags", 0, U64_MAX)
    if uflags is not None and uflags & SUBTREE:
        raise fields.wrong("uflags", "without bit 0, which is the mode's")
    arch, lsm_info = fields.raw("arch"), fields.raw("lsm_info")
    if lsm_info is not None and len(lsm_info) > LSM_INFO_LIMIT:
        raise fields.wrong("lsm_info", f"{LSM_INFO_LIMIT} bytes at most")
    read = replace(
        header,
        arch_id=header.arch_id if number is None else number,
        rev=header.rev if rev is None else rev,
        constants=constants or header.constants,
        uflags=header.uflags if uflags is None else uflags,
        arch=header.arch if arch is None else arch,
        lsm_info=header.lsm_info if lsm_info is None else lsm_info,
    )
    if read.arch is not None:
        if is_x86(arch_id(read)) and len(read.arch) != X86_ARCH.size:
            raise fields.wrong("arch", f"{X86_ARCH.size} bytes on x86")
        if len(read.arch) > ARCH_LIMIT:
            raise fields.wrong("arch", f"{ARCH_LIMIT} bytes at most")
    return read
