/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A hash of a program's arguments and one of its environment, and on request the text of both. exec() has just put them at
 * the top of the new stack, and the process has not run since. A later reader of /proc takes the same hash
 * (agent/arguments.py) and so knows whether the process has changed them.
 *
 * A program of its own, behind on_exec, so that its records are numbered after the exec's. The kernel runs it at most once
 * at a time on each CPU, so the buffer needs no lock.
 */

#define HASH_BASIS 0xcbf29ce484222325ull
#define HASH_FACTOR 0x9e3779b97f4a7c15ull

struct strings {
	struct record_strings r;
	u64 words[STRINGS_BYTES / 8 + 1];	/* one more word, to fill up the last one */
};

BPF_PERCPU_ARRAY(strings, struct strings, 1);
BPF_ARRAY(keep_strings, u32, 1);	/* 1: the records have the text too */

#ifdef HAVE_ARGUMENTS
static __always_inline u64 hash_of(const struct strings *s, u32 bytes)
{
	u64 hash = HASH_BASIS;
	u32 words = (bytes + 7) / 8, i;

#pragma clang loop unroll(disable)
	for (i = 0; i < STRINGS_BYTES / 8; i++) {
		asm volatile("" : "+r"(i));
		if (i >= words || i >= STRINGS_BYTES / 8)
			break;
		hash = (hash ^ s->words[i]) * HASH_FACTOR;
		hash ^= hash >> 32;
	}
	return hash;
}

static __always_inline void announce_strings(u32 which, const void *task, u64 from, u64 to)
{
	u32 zero = 0, bytes, *keep;
	struct strings *s = strings.lookup(&zero);
	struct page *p = counters();
	struct record_strings *r;
	u64 size;

	if (!s || !p || !from || to < from)
		return;
	r = &s->r;
	bytes = to - from > STRINGS_BYTES ? STRINGS_BYTES : (u32)(to - from);
	asm volatile("" : "+r"(bytes));
	if (bytes > STRINGS_BYTES)
		return;
	s->words[bytes / 8] = 0;
	if (bpf_probe_read_user(s->words, bytes, (const void *)from))
		return;
	r->address = from;
	r->size = to - from;
	r->hash = hash_of(s, bytes);
	keep = keep_strings.lookup(&zero);
	r->kept = keep && *keep ? bytes : 0;
	r->head.kind = RECORD_STRINGS;
	r->head.argument = which;
	r->task = (u64)task;
	READ(r->start_ns, task, OFF_START);
	READ(r->tid, task, OFF_task_struct_pid);
	size = r->kept;
	asm volatile("" : "+r"(size));
	if (size > STRINGS_BYTES)
		return;
	size += sizeof(*r);
	r->head.seq = take_number(&p->seq);
	if (ring.ringbuf_output(r, size, wakeup(r->head.seq)))
		lost(p, r->head.seq);
}
#endif

/* sched_process_exec(struct task_struct *p, pid_t old_pid, struct linux_binprm *bprm) */
int on_exec_strings(u64 *ctx)
{
#ifdef HAVE_ARGUMENTS
	const void *task = (const void *)ctx[0], *mm = 0;
	u64 arg_start = 0, arg_end = 0, env_start = 0, env_end = 0;

	READ(mm, task, OFF_task_struct_mm);
	if (!mm)
		return 0;
	READ(arg_start, mm, OFF_mm_struct_arg_start);
	READ(arg_end, mm, OFF_mm_struct_arg_end);
	READ(env_start, mm, OFF_mm_struct_env_start);
	READ(env_end, mm, OFF_mm_struct_env_end);
	announce_strings(0, task, arg_start, arg_end);
	announce_strings(1, task, env_start, env_end);
#endif
	return 0;
}
