/* SPDX-License-Identifier: GPL-2.0-only */
/* What iterator programs are given, and how they follow its pointers. */
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
 * A plain load through a pointer that the verifier knows by its BTF type, as an iterator's task is: the one kind of
 * program here that has those, and the one that reads every task there is. With bpf_probe_read_kernel() a walk takes more
 * than twice as long.
 * In assembly, for bcc's rewriter turns a dereference in C into that call. What may be NULL is asked before it is followed.
 */
#define LOAD(width, to, base, offset) \
	asm volatile("%0 = *(" #width " *)(%1 + %2)" : "=r"(to) : "r"(base), "i"(offset))

static __always_inline u64 loaded_pid_identity(const void *pid)
{
	u64 id = 0;

	if (pid) {
#ifdef OFF_pid_ino
		LOAD(u64, id, pid, OFF_pid_ino);
#else
		const void *untyped = 0; /* the verifier lets nobody shift a typed pointer, as this identity has to */

		READ(untyped, &pid, 0);
		id = pid_identity(untyped);
#endif
	}
	return id;
}

#endif
