/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * For announce.h: the verifier knows the task's type, so plain loads follow its pointers (iterator.h). Announcing a fork or
 * an exit takes a third of the time of forty helper calls.
 */

#define FN(name) loaded_##name
#define GET(width, to, base, offset) LOAD(width, to, base, offset)
#define GET_COMM(to, task) \
	do { \
		LOAD(u64, *(u64 *)&(to)[0], task, OFF_task_struct_comm); \
		LOAD(u64, *(u64 *)&(to)[8], task, OFF_task_struct_comm + 8); \
	} while (0)
#define IDENTITY(pid) loaded_pid_identity(pid)
