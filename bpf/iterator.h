/* SPDX-License-Identifier: GPL-2.0-only */
/* The context of iterator programs, and loads through its pointers. */
#ifndef CKPTREE_ITERATOR_H
#define CKPTREE_ITERATOR_H

struct task_iterator {
	void *meta;
	void *task;
};

struct iterator_meta {
	void *seq_file;
	u64 session_id;
	u64 seq_num;
};

/*
 * A plain load through a pointer whose BTF type the verifier knows, as of an iterator's task. A walk over all tasks with
 * bpf_probe_read_kernel() takes more than twice as long. In assembly, because bcc's rewriter turns a dereference in C into
 * that call. A pointer that may be NULL is compared before it is followed.
 */
#define LOAD(width, to, base, offset) asm volatile("%0 = *(" #width " *)(%1 + %2)" : "=r"(to) : "r"(base), "i"(offset))

static __always_inline u64 loaded_pid_identity(const void *pid)
{
	u64 id = 0;

	if (pid) {
#ifdef OFF_pid_ino
		LOAD(u64, id, pid, OFF_pid_ino);
#else
		const void *untyped =
			0; /* the verifier rejects a shift of a typed pointer, which this identity needs */

		READ(untyped, &pid, 0);
		id = pid_identity(untyped);
#endif
	}
	return id;
}

#endif
