# SPDX-License-Identifier: Apache-2.0
"""CRIU's messages about namespaces: names, System V objects, mounts, clocks. Notation: exporters.criu.criuschema."""

from typing import Final

MESSAGES: Final = {
    "utsns_entry": "nodename!1:bytes domainname!2:bytes",
    "ipc_desc_entry": "key!1 uid!2 gid!3 cuid!4 cgid!5 mode!6 id!7",
    "ipc_msg": "mtype!1:uint64 msize!2",
    "ipc_msg_entry": "desc!1:ipc_desc_entry qbytes!2 qnum!3",
    "ipc_sem_entry": "desc!1:ipc_desc_entry nsems!2",
    "ipc_shm_entry": "desc!1:ipc_desc_entry size!2:uint64 in_pagemaps?3:bool hugetlb_flag?4",
    "ipc_var_entry": (
        "sem_ctls*1 msg_ctlmax!2 msg_ctlmnb!3 msg_ctlmni!4 auto_msgmni!5 shm_ctlmax!6:uint64 shm_ctlall!7:uint64 "
        "shm_ctlmni!8 shm_rmid_forced!9 mq_queues_max!10 mq_msg_max!11 mq_msgsize_max!12 mq_msg_default?13 "
        "mq_msgsize_default?14 msg_next_id?15 sem_next_id?16 shm_next_id?17"
    ),
    "mnt_entry": (
        "fstype!1 mnt_id!2 root_dev!3 parent_mnt_id!4 flags!5 root!6:bytes mountpoint!7:bytes source!8:bytes "
        "options!9:bytes shared_id?10 master_id?11 with_plugin?12:bool ext_mount?13:bool fsname?14:bytes "
        "internal_sharing?15:bool deleted?16:bool sb_flags?17 ext_key?18:bytes"
    ),
    "timespec": "tv_sec!1:uint64 tv_nsec!2:uint64",
    "timens_entry": "monotonic!1:timespec boottime!2:timespec",
    "pidns_entry": "ext_key?1:bytes",
    "uid_gid_extent": "first!1 lower_first!2 count!3",
    "userns_entry": "uid_map*1:uid_gid_extent gid_map*2:uid_gid_extent",
}
