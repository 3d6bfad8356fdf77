# SPDX-License-Identifier: Apache-2.0
"""The kernel's names of capabilities and limits, for messages."""

from typing import Final

_CAPABILITIES: Final = (
    *("CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP"),
    *("LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER"),
    *("SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE"),
    *("SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP"),
    *("MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF"),
    "CHECKPOINT_RESTORE",
)
"""By number, as in include/uapi/linux/capability.h."""
_LIMITS: Final = (
    *("CPU", "FSIZE", "DATA", "STACK", "CORE", "RSS", "NPROC", "NOFILE", "MEMLOCK", "AS", "LOCKS", "SIGPENDING"),
    *("MSGQUEUE", "NICE", "RTPRIO", "RTTIME"),
)
"""By number, as in include/uapi/asm-generic/resource.h."""
_INFINITY: Final = (1 << 64) - 1


def capabilities(mask: int) -> str:
    """Return the names of the capabilities of a mask, by number where the kernel's headers of Linux 6.12 have none."""
    bits = [bit for bit in range(mask.bit_length()) if mask >> bit & 1]
    names = (f"CAP_{_CAPABILITIES[bit]}" if bit < len(_CAPABILITIES) else f"capability {bit}" for bit in bits)
    return ", ".join(names) or "none"


def limit(resource: int) -> str:
    """Return the name of a limit, as getrlimit(2) has it."""
    return f"RLIMIT_{_LIMITS[resource]}" if resource < len(_LIMITS) else str(resource)


def limit_value(value: int) -> str:
    """Return the value of a limit of 64 bits."""
    return "infinity" if value == _INFINITY else str(value)
