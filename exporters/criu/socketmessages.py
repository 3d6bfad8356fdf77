# SPDX-License-Identifier: Apache-2.0
"""CRIU's messages about sockets and what is queued in them. Notation: exporters.criu.criuschema."""

from typing import Final

MESSAGES: Final = {
    "file_perms_entry": "mode!1 uid!2 gid!3",
    "unix_sk_entry": (
        "id!1 ino!2 type!3 state!4 flags!5 uflags!6 backlog!7 peer!8 fown!9:fown_entry opts!10:sk_opts_entry "
        "name!11:bytes shutdown?12 file_perms?13:file_perms_entry name_dir?14:bytes deleted?15:bool ns_id?16 "
        "mnt_id?17:sint32"
    ),
    "ip_opts_raw_entry": "hdrincl?1:bool nodefrag?2:bool checksum?3:bool icmpv_filter*4",
    "ip_opts_entry": "freebind?1:bool raw?4:ip_opts_raw_entry pktinfo?5:bool tos?6 ttl?7",
    "inet_sk_entry": (
        "id!1 ino!2 family!3 type!4 proto!5 state!6 src_port!7 dst_port!8 flags!9 backlog!10 src_addr*11 dst_addr*12 "
        "fown!13:fown_entry opts!14:sk_opts_entry v6only?15:bool ip_opts?16:ip_opts_entry ifname?17:bytes ns_id?18 "
        "shutdown?19 tcp_opts?20:tcp_opts_entry"
    ),
    "scm_entry": "type!1 rights*2",
    "sk_packet_entry": "id_for!1 length!2 scm*4:scm_entry",
    "packet_mclist": "index!1 type!2 addr!3:bytes",
    "packet_ring": "block_size!1 block_nr!2 frame_size!3 frame_nr!4 retire_tmo!5 sizeof_priv!6 features!7",
    "packet_sock_entry": (
        "id!1 type!2 protocol!3 flags!4 ifindex!5 fown!6:fown_entry opts!7:sk_opts_entry version!8 reserve!9 "
        "aux_data!10:bool orig_dev!11:bool vnet_hdr!12:bool loss!13:bool timestamp!14 copy_thresh!15 "
        "mclist*16:packet_mclist fanout?17 rx_ring?18:packet_ring tx_ring?19:packet_ring ns_id?20"
    ),
    "netlink_sk_entry": (
        "id!1 ino!2 protocol!3 state!4 flags!6 portid!7 groups*8 dst_portid!9 dst_group!10 fown!11:fown_entry "
        "opts!12:sk_opts_entry ns_id?13"
    ),
    "sk_opts_entry": (
        "so_sndbuf!1 so_rcvbuf!2 so_snd_tmo_sec!3:uint64 so_snd_tmo_usec!4:uint64 so_rcv_tmo_sec!5:uint64 "
        "so_rcv_tmo_usec!6:uint64 reuseaddr?7:bool so_priority?8 so_rcvlowat?9 so_mark?10 so_passcred?11:bool "
        "so_passsec?12:bool so_dontroute?13:bool so_no_check?14:bool so_bound_dev?15:bytes so_filter*16:fixed64 "
        "so_reuseport?17:bool so_broadcast?18:bool so_keepalive?19:bool tcp_keepcnt?20 tcp_keepidle?21 "
        "tcp_keepintvl?22 so_oobinline?23 so_linger?24 so_buf_lock?25"
    ),
    "tcp_opts_entry": "cork?1:bool nodelay?2:bool keepcnt?3 keepidle?4 keepintvl?5",
    "tcp_stream_entry": (
        "inq_len!1 inq_seq!2 outq_len!3 outq_seq!4 opt_mask!5 snd_wscale!6 mss_clamp!7 rcv_wscale?8 timestamp?9 "
        "cork?10:bool nodelay?11:bool unsq_len?12 snd_wl1?13 snd_wnd?14 max_window?15 rcv_wnd?16 rcv_wup?17"
    ),
}
