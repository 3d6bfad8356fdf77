/* SPDX-License-Identifier: GPL-2.0-only */
/* For announce.h: a task is a plain address, and a helper reads everything behind it. Works in every program. */

#define FN(name) name
#define GET(width, to, base, offset) READ(to, base, offset)
#define GET_COMM(to, task) bpf_probe_read_kernel(to, sizeof(to), (const char *)(task) + OFF_task_struct_comm)
#define IDENTITY(pid) pid_identity(pid)
