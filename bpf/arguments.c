/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A hash of a program's arguments and one of its environment, and on request the text of both. exec() has just put them at
 * the top of the new stack, and the process has not run since. The daemon takes the same hash of a later read of /proc
 * (agent/table/areas.py), which tells if the process has changed them. It is a universal hash. Its key and its values are
 * secret, so a process cannot compute another text with the same hash.
 *
 * A program of its own, behind on_exec, so that its records are numbered after the exec's. The kernel runs it at most once
 * at a time on each CPU, so the buffer needs no lock.
 */

enum area { ARGUMENTS, ENVIRONMENT }; /* the argument of RECORD_STRINGS */

#define WORD_BYTES 8
#define BLOCK_WORDS (STRINGS_BLOCK / WORD_BYTES)
#define HALF_BITS 32

struct strings {
	struct record_strings r;
	u64 words[(STRINGS_BYTES + STRINGS_BLOCK) / WORD_BYTES]; /* one more block, to fill up the last one */
};

BPF_PERCPU_ARRAY(strings, struct strings, 1);
BPF_F_TABLE("array", u32, struct string_key, string_key, 1, MMAPABLE);

#ifdef HAVE_ARGUMENTS
/*
 * The sum of all halves of words, each times a random number of its own. Two different texts of one length have the same
 * sum under at most one of 2^33 keys. The two sums share no part of the key, so both are the same under one of 2^66.
 */
static __always_inline void take_hash(struct strings *s, const struct string_key *key, u32 bytes)
{
	u64 first = 0, second = 0, blocks = (bytes + STRINGS_BLOCK - 1) / STRINGS_BLOCK, i;
	u32 j;

#pragma clang loop unroll(disable)
	for (i = 0; i < STRINGS_BYTES / STRINGS_BLOCK; i++) {
		const u64 *text, *factors;

		asm volatile("" : "+r"(i));
		if (i >= blocks || i >= STRINGS_BYTES / STRINGS_BLOCK)
			break;
		text = &s->words[i * BLOCK_WORDS];
		factors = &key->words[i * (STRINGS_BLOCK / 2)];
#pragma unroll
		for (j = 0; j < BLOCK_WORDS; j++) {
			u64 low = (u32)text[j], high = text[j] >> HALF_BITS;

			first += low * factors[4 * j] + high * factors[4 * j + 1];
			second += low * factors[4 * j + 2] + high * factors[4 * j + 3];
		}
	}
	s->r.first_hash = first;
	s->r.second_hash = second;
}

static __always_inline void announce_strings(enum area which, const void *task, u64 from, u64 to)
{
	u32 zero = 0, bytes, *kept, at;
	struct strings *s = strings.lookup(&zero);
	const struct string_key *key = string_key.lookup(&zero);
	struct page *p = counters();
	struct record_strings *r;
	u64 size;

	if (!s || !key || !p || !from || to < from)
		return;
	r = &s->r;
	bytes = to - from > STRINGS_BYTES ? STRINGS_BYTES : (u32)(to - from);
	asm volatile("" : "+r"(bytes));
	if (bytes > STRINGS_BYTES)
		return;
#pragma unroll
	for (at = 0; at < BLOCK_WORDS; at++)
		s->words[bytes / WORD_BYTES + at] = 0;
	if (bpf_probe_read_user(s->words, bytes, (const void *)from))
		return;
	r->address = from;
	r->size = to - from;
	take_hash(s, key, bytes);
	kept = keep.lookup(&zero);
	r->kept = !kept || !(*kept >> which & 1) ? 0 : bytes > KEPT_BYTES ? KEPT_BYTES : bytes;
	r->head.kind = RECORD_STRINGS;
	r->head.argument = which;
	r->task = (u64)task;
	READ(r->start_ns, task, OFF_START);
	READ(r->tid, task, OFF_task_struct_pid);
	size = r->kept;
	asm volatile("" : "+r"(size));
	if (size > KEPT_BYTES)
		return;
	size += sizeof(*r);
	r->head.seq = take_number(&p->seq);
	r->head.time_ns = record_time();
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
	announce_strings(ARGUMENTS, task, arg_start, arg_end);
	announce_strings(ENVIRONMENT, task, env_start, env_end);
#endif
	return 0;
}
