# SPDX-License-Identifier: Apache-2.0
"""CRIU's messages about memory: areas, page maps. Notation: exporters.criu.criuschema."""

from typing import Any, Final

# Bits of vma_entry.status.
AREA_REGULAR: Final = 1 << 0
AREA_STACK: Final = 1 << 1
AREA_VSYSCALL: Final = 1 << 2
AREA_VDSO: Final = 1 << 3
AREA_HEAP: Final = 1 << 5
FILE_PRIVATE: Final = 1 << 6
FILE_SHARED: Final = 1 << 7
ANON_SHARED: Final = 1 << 8
ANON_PRIVATE: Final = 1 << 9
AREA_SYSVIPC: Final = 1 << 10
AREA_SOCKET: Final = 1 << 11
AREA_VVAR: Final = 1 << 12
AREA_AIORING: Final = 1 << 13
AREA_MEMFD: Final = 1 << 14
AREA_SHADOW_STACK: Final = 1 << 15
AREA_GUARD: Final = 1 << 16
AREA_UPROBES: Final = 1 << 17
AREA_PLUGIN: Final = 1 << 27
AREA_UNSUPPORTED: Final = 1 << 31

# Bits of pagemap_entry.flags.
IN_PARENT: Final = 1 << 0
LAZY: Final = 1 << 1
PRESENT: Final = 1 << 2

MESSAGES: Final = {
    "aio_ring_entry": "id!1:uint64 nr_req!2 ring_len!3",
    "mm_entry": (
        "mm_start_code!1:uint64 mm_end_code!2:uint64 mm_start_data!3:uint64 mm_end_data!4:uint64 "
        "mm_start_stack!5:uint64 mm_start_brk!6:uint64 mm_brk!7:uint64 mm_arg_start!8:uint64 mm_arg_end!9:uint64 "
        "mm_env_start!10:uint64 mm_env_end!11:uint64 exe_file_id!12 mm_saved_auxv*13:uint64 vmas*14:vma_entry "
        "dumpable?15:int32 aios*16:aio_ring_entry thp_disabled?17:bool"
    ),
    "vma_entry": (
        "start!1:uint64 end!2:uint64 pgoff!3:uint64 shmid!4:uint64 prot!5 flags!6 status!7 fd!8:sint64 madv?9:uint64 "
        "fdflags?10"
    ),
    "pagemap_head": "pages_id!1",
    "pagemap_entry": "vaddr!1:uint64 compat_nr_pages!2 in_parent?3:bool flags?4 nr_pages?5:uint64",
    "memfd_file_entry": "id!1 flags!2 pos!3:uint64 fown!4:fown_entry inode_id!5",
    "memfd_inode_entry": (
        "name!1:bytes uid!2 gid!3 size!4:uint64 shmid!5 seals!6 inode_id!7:uint64 hugetlb_flag?8 mode?9"
    ),
}


def page_count(entry: Any) -> int:
    """Return the number of pages of a pagemap_entry, by its wider field where it has that."""
    return int(entry.nr_pages if entry.HasField("nr_pages") else entry.compat_nr_pages)


def page_flags(entry: Any) -> int:
    """Return the flags of a pagemap_entry; without them all pages are present but those of the parent."""
    if entry.HasField("flags"):
        return int(entry.flags)
    return IN_PARENT if entry.in_parent else PRESENT
