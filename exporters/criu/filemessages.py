# SPDX-License-Identifier: Apache-2.0
"""CRIU's messages about open files but sockets. The notation is that of exporters.criu.criuschema."""

from typing import Final

FILE_TYPES: Final = {
    1: "reg", 2: "pipe", 3: "fifo", 4: "inetsk", 5: "unixsk", 6: "eventfd", 7: "eventpoll", 8: "inotify", 9: "signalfd",
    10: "packetsk", 11: "tty", 12: "fanotify", 13: "netlinksk", 14: "ns", 15: "tunf", 16: "ext", 17: "timerfd",
    18: "memfd", 19: "bpfmap", 20: "pidfd",
}  # fmt: skip
"""Kinds of an open file, by `type` of fdinfo_entry and file_entry."""

FILE_FIELDS: Final = {
    "reg": "reg", "inetsk": "isk", "ns": "nsf", "packetsk": "psk", "netlinksk": "nlsk", "eventfd": "efd",
    "eventpoll": "epfd", "signalfd": "sgfd", "tunf": "tunf", "timerfd": "tfd", "inotify": "ify", "fanotify": "ffy",
    "ext": "ext", "unixsk": "usk", "fifo": "fifo", "pipe": "pipe", "tty": "tty", "memfd": "memfd", "bpfmap": "bpf",
    "pidfd": "pidfd",
}  # fmt: skip
"""The field of file_entry that describes a file, by its kind."""

TTY_TYPES: Final = {0: "unknown", 1: "pty", 2: "console", 3: "vt", 4: "ctty", 5: "ext", 6: "serial"}
"""Kinds of a terminal, by `type` of tty_info_entry."""

REMAP_LINKED: Final = 0
REMAP_GHOST: Final = 1
REMAP_PROCFS: Final = 2

MESSAGES: Final = {
    "fdinfo_entry": "id!1 flags!2 type!3 fd!4 xattr_security_selinux?5:bytes",
    "file_entry": (
        "type!1 id!2 reg?3:reg_file_entry isk?4:inet_sk_entry nsf?5:ns_file_entry psk?6:packet_sock_entry "
        "nlsk?7:netlink_sk_entry efd?8:eventfd_file_entry epfd?9:eventpoll_file_entry sgfd?10:signalfd_entry "
        "tunf?11:tunfile_entry tfd?12:timerfd_entry ify?13:inotify_file_entry ffy?14:fanotify_file_entry "
        "ext?15:ext_file_entry usk?16:unix_sk_entry fifo?17:fifo_entry pipe?18:pipe_entry tty?19:tty_file_entry "
        "memfd?20:memfd_file_entry bpf?21:bpfmap_file_entry pidfd?22:pidfd_entry"
    ),
    "reg_file_entry": (
        "id!1 flags!2 pos!3:uint64 fown!5:fown_entry name!6:bytes mnt_id?7:sint32 size?8:uint64 ext?9:bool mode?10 "
        "build_id*11 checksum?12 checksum_config?13 checksum_parameter?14"
    ),
    "fown_entry": "uid!1 euid!2 signum!3 pid_type!4 pid!5",
    "pipe_entry": "id!1 pipe_id!2 flags!3 fown!4:fown_entry",
    "fifo_entry": "id!1 pipe_id!2 regf_id?3",
    "pipe_data_entry": "pipe_id!1 bytes!2 size?3",
    "eventfd_file_entry": "id!1 flags!2 fown!3:fown_entry counter!4:uint64",
    "eventpoll_tfd_entry": "id!1 tfd!2 events!3 data!4:uint64 dev?5 inode?6:uint64 pos?7:uint64",
    "eventpoll_file_entry": "id!1 flags!2 fown!3:fown_entry tfd*4:eventpoll_tfd_entry",
    "signalfd_entry": "id!1 flags!2 fown!3:fown_entry sigmask!4:uint64",
    "timerfd_entry": (
        "id!1 flags!2 fown!3:fown_entry clockid!4 ticks!5:uint64 settime_flags!6 vsec!7:uint64 vnsec!8:uint64 "
        "isec!9:uint64 insec!10:uint64"
    ),
    "inotify_wd_entry": "id!1 i_ino!2:uint64 mask!3 ignored_mask!4 s_dev!5 wd!6 f_handle!7:fh_entry",
    "inotify_file_entry": "id!1 flags!2 fown!4:fown_entry wd*5:inotify_wd_entry",
    "fanotify_inode_mark_entry": "i_ino!1:uint64 f_handle!2:fh_entry",
    "fanotify_mount_mark_entry": "mnt_id!1 path?2:bytes",
    "fanotify_mark_entry": (
        "id!1 type!2 mflags!3 mask!4 ignored_mask!5 s_dev!6 ie?7:fanotify_inode_mark_entry "
        "me?8:fanotify_mount_mark_entry"
    ),
    "fanotify_file_entry": "id!1 flags!2 fown!3:fown_entry faflags!4 evflags!5 mark*6:fanotify_mark_entry",
    "fh_entry": "bytes!1 type!2 handle*3:uint64 path?4:bytes mnt_id?5",
    "ext_file_entry": "id!1 fown!5:fown_entry",
    "winsize_entry": "ws_row!1 ws_col!2 ws_xpixel!3 ws_ypixel!4",
    "termios_entry": "c_iflag!1 c_oflag!2 c_cflag!3 c_lflag!4 c_line!5 c_ispeed!6 c_ospeed!7 c_cc*8",
    "tty_pty_entry": "index!1",
    "tty_data_entry": "tty_id!1 data!2:bytes",
    "tty_info_entry": (
        "id!1 type!2 locked!3:bool exclusive!4:bool packet_mode!5:bool sid!6 pgrp!7 rdev!8 termios?9:termios_entry "
        "termios_locked?10:termios_entry winsize?11:winsize_entry pty?12:tty_pty_entry dev?13 uid?14 gid?15"
    ),
    "tty_file_entry": "id!1 tty_info_id!2 flags!3 fown!4:fown_entry regf_id?6",
    "tunfile_entry": "id!1 netdev?2:bytes detached?3:bool ns_id?4",
    "bpfmap_file_entry": (
        "id!1 flags!2 pos!3:uint64 fown!4:fown_entry map_type!5 key_size!6 value_size!7 map_id!8 max_entries!9 "
        "map_flags!10 memlock!11:uint64 frozen!12:bool map_name!13:bytes ifindex!14 mnt_id?15:sint32 "
        "map_extra?16:uint64"
    ),
    "bpfmap_data_entry": "map_id!1 keys_bytes!2 values_bytes!3 count!4",
    "pidfd_entry": "id!1 ino!2 flags!3 nspid!4:int32 fown!5:fown_entry",
    "remap_file_path_entry": "orig_id!1 remap_id!2 remap_type?3",
    "ghost_file_entry": (
        "uid!1 gid!2 mode!3 dev?4 ino?5:uint64 rdev?6 atim?7:timeval mtim?8:timeval chunks?9:bool size?10:uint64 "
        "symlnk_target?11:bytes"
    ),
    "ghost_chunk_entry": "len!1:uint64 off!2:uint64",
    "file_lock_entry": "flag!1 type!2 pid!3:int32 fd!4:int32 start!5:int64 len!6:int64",
    "timeval": "tv_sec!1:uint64 tv_usec!2:uint64",
    "ns_file_entry": "id!1 ns_id!2 ns_cflag!3 flags!4",
}
