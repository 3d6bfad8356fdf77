/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Ties beside the tree: the controlling terminal of a process, the owners of its open files, and what it shares with tasks
 * outside its thread group.
 *
 * Few processes have ties, so they are read in two steps. The sweep and the question by address tell in passing whether
 * there is anything to read (`ties` in bpf/events.h). The agent then makes an iterator for this one process, or for all
 * where that is cheaper. An iterator over all open files of a host takes twice as long as the sweep.
 */
#ifndef CKPTREE_TIES_H
#define CKPTREE_TIES_H

#define TABLE_SMALL 64 /* NR_OPEN_DEFAULT: a table that never had more files is part of the files_struct */
#define TABLE_WORDS 16 /* of its bitmap: larger tables are not looked through in passing */
#define WORD_FILES 64
#define MORE 16	  /* files that are looked up in the bitmap's first word, at most */
#define FURTHER 2 /* and in any other word */
#define LOADED 16 /* files that loaded_owned() looks up, if no file has a higher number */
#define FEW 8	  /* files that are looked up with one read, if no file has a higher number */

/* Load the pid object that owns an open file; NULL: none. */
#ifdef HAVE_EMBEDDED_OWNER
#define LOAD_OWNER(to, file) LOAD(u64, to, file, OFF_file_f_owner + OFF_fown_struct_pid)
#else
#define LOAD_OWNER(to, file) LOAD(u64, to, file, OFF_file_f_owner) /* allocated for the first owner, and kept */
#endif

#define OWNED(n) \
	if (open & (1ull << (n))) { \
		LOAD(u64, file, files, OFF_files_struct_fd_array + ENTRY(n)); \
		if (file) { \
			LOAD_OWNER(owner, file); \
			if (owner) \
				return TIES_OWNED; \
		} \
	}
#define OWNED_8(n) \
	if (open & (0xffull << (n))) { \
		OWNED(n) \
		OWNED(n + 1) \
		OWNED(n + 2) \
		OWNED(n + 3) \
		OWNED(n + 4) \
		OWNED(n + 5) \
		OWNED(n + 6) \
		OWNED(n + 7) \
	}

static __always_inline int has_owner(const void *file)
{
	const void *owner = 0;

#ifdef HAVE_OWNERS
	if (file)
#ifdef HAVE_EMBEDDED_OWNER
		READ(owner, file, OFF_file_f_owner + OFF_fown_struct_pid);
#else
		READ(owner, file, OFF_file_f_owner);
#endif
#endif
	return owner != 0;
}

/* The number of trailing zeros, without a branch that the verifier would have to follow. */
static __always_inline u32 trailing_zeros(u64 bits)
{
	u64 n = (bits & -bits) - 1; /* as many ones: count them */

	/* LLVM 19 would recognize both steps and use a lookup table, for which a loaded program has no place */
	asm volatile("" : "+r"(n));
	n -= n >> 1 & 0x5555555555555555;
	n = (n & 0x3333333333333333) + (n >> 2 & 0x3333333333333333);
	n = (n + (n >> 4)) & 0x0f0f0f0f0f0f0f0f;
	return n * 0x0101010101010101 >> 56;
}

/*
 * TIES_OWNED if files of a table have owners, for a table without a type. Large tables with few files are common: a child
 * starts with a table as large as its creator needed, and shells keep a file at 255. A process with very many open files is
 * always read.
 */
static __always_inline u64 owned(const void *table)
{
#ifdef HAVE_OWNERS
	const void *bitmap = 0, *array = 0;
	u64 open[TABLE_WORDS] = {}, bits;
	u32 max_fds = 0, word, i;

	READ(max_fds, table, OFF_fdtable_max_fds);
	READ(array, table, OFF_fdtable_fd);
	READ(bitmap, table, OFF_fdtable_open_fds);
	if (max_fds > TABLE_WORDS * WORD_FILES)
		return TIES_OWNED;
	if (max_fds > WORD_FILES)
		bpf_probe_read_kernel(open, sizeof(open), bitmap); /* bits behind the end of the bitmap are not used */
	else
		READ(open[0], bitmap, 0);
#pragma clang loop unroll(disable)
	for (word = 0; word < TABLE_WORDS; word++) {
		asm volatile("" : "+r"(word));
		if (word >= TABLE_WORDS || word * WORD_FILES >= max_fds)
			break;
		bits = open[word];
#pragma clang loop unroll(disable)
		for (i = 0; i < (word ? FURTHER : MORE); i++) {
			const void *file = 0;

			asm volatile("" : "+r"(i));
			if (i >= MORE || !bits)
				break;
			READ(file, array, ENTRY(word * WORD_FILES + trailing_zeros(bits)));
			if (has_owner(file))
				return TIES_OWNED;
			bits &= bits - 1;
		}
		if (bits)
			return TIES_OWNED;
	}
#endif
	return 0;
}

/* The same for a task with a type, and for the usual small table: one look for each file. */
static __always_inline u64 loaded_owned(const char *task, const char *leader)
{
#ifdef HAVE_OWNERS
	const void *files, *shared, *table, *file, *owner;
	u32 max_fds;
	u64 open;

	LOAD(u64, files, task, OFF_task_struct_files);
	if (!files)
		return 0;
	if (task != leader) {
		LOAD(u64, shared, leader, OFF_task_struct_files);
		if (files == shared)
			return 0;
	}
	LOAD(u64, table, files, OFF_files_struct_fdt);
	if (!table)
		return 0;
	LOAD(u32, max_fds, table, OFF_fdtable_max_fds);
	if (max_fds > TABLE_SMALL)
		return owned(table);
	LOAD(u64, open, files, OFF_files_struct_open_fds_init);
	if (open >> LOADED)
		return owned(table);
	OWNED_8(0)
	OWNED_8(8)
#endif
	return 0;
}

/*
 * TIES_SHARED if a task may share memory, folder or files with another thread group: they then have more users than its
 * own group has living threads, each of which counts once. A thread always shares its leader's memory. A thread with a
 * folder or files of its own gets the flag itself, because the leader's may then have as many users from outside. A reader
 * may raise a count for a moment, but the count is never too low: a thread leaves `live` before it drops its references.
 */
static __always_inline u64 loaded_shared(const char *task, const char *leader, const char *signal)
{
#ifdef HAVE_SHARING
	const void *mm, *fs, *files, *theirs;
	s32 live, users;

	LOAD(u64, mm, task, OFF_task_struct_mm);
	if (!mm) /* a kernel thread, or an exited task */
		return 0;
	LOAD(u64, fs, task, OFF_task_struct_fs);
	LOAD(u64, files, task, OFF_task_struct_files);
	if (!fs || !files)
		return 0;
	if (task != leader) {
		LOAD(u64, theirs, leader, OFF_task_struct_fs);
		if (fs != theirs)
			return TIES_SHARED;
		LOAD(u64, theirs, leader, OFF_task_struct_files);
		return files != theirs ? TIES_SHARED : 0;
	}
	LOAD(u32, live, signal, OFF_signal_struct_live);
	LOAD(u32, users, mm, OFF_mm_struct_mm_users);
	if (users > live)
		return TIES_SHARED;
	LOAD(u32, users, fs, OFF_fs_struct_users);
	if (users > live)
		return TIES_SHARED;
	LOAD(u32, users, files, OFF_files_struct_count);
	if (users > live)
		return TIES_SHARED;
#endif
	return 0;
}

static __always_inline u64 loaded_ties(const char *task, const char *signal)
{
	const char *leader;
	u64 word = 0;

	LOAD(u64, leader, task, OFF_task_struct_group_leader);
#ifdef HAVE_TERMINALS
	if (task == leader) {
		const void *terminal;

		LOAD(u64, terminal, signal, OFF_signal_struct_tty);
		if (!terminal)
			LOAD(u64, terminal, signal, OFF_signal_struct_tty_old_pgrp);
		if (terminal)
			READ(word, &terminal, 0); /* the verifier rejects arithmetic on a typed pointer */
	}
#endif
	return word | loaded_owned(task, leader) | loaded_shared(task, leader, signal);
}

/* The same for a task without a type and with few files, in as few reads as possible. */
static __always_inline u64 few_owned(const void *files)
{
#ifdef HAVE_OWNERS
	const void *table = 0;
	struct {
		u64 open; /* in files_struct a little before the array */
		u8 between[OFF_files_struct_fd_array - OFF_files_struct_open_fds_init - sizeof(u64)];
		const void *file[FEW];
	} own = {};
	u32 i;

	READ(table, files, OFF_files_struct_fdt);
	if (table != files + OFF_files_struct_fdtab)
		return owned(table);
	READ(own, files, OFF_files_struct_open_fds_init);
	if (own.open >> FEW)
		return owned(table);
#pragma unroll
	for (i = 0; i < FEW; i++)
		if (own.open >> i & 1 && has_owner(own.file[i]))
			return TIES_OWNED;
#endif
	return 0;
}

/* loaded_shared() for a task without a type. */
static __always_inline u64 shared_beyond(const void *task, const void *leader)
{
#ifdef HAVE_SHARING
	const void *mm = 0, *fs = 0, *files = 0, *signal = 0;
	s32 live = 0, users = 0;

	READ(mm, task, OFF_task_struct_mm);
	if (!mm)
		return 0;
	READ(fs, task, OFF_task_struct_fs);
	READ(files, task, OFF_task_struct_files);
	if (!fs || !files)
		return 0;
	if (task != leader) {
		const void *theirs = 0;

		READ(theirs, leader, OFF_task_struct_fs);
		if (fs != theirs)
			return TIES_SHARED;
		READ(theirs, leader, OFF_task_struct_files);
		return files != theirs ? TIES_SHARED : 0;
	}
	READ(signal, task, OFF_task_struct_signal);
	READ(live, signal, OFF_signal_struct_live);
	READ(users, mm, OFF_mm_struct_mm_users);
	if (users > live)
		return TIES_SHARED;
	READ(users, fs, OFF_fs_struct_users);
	if (users > live)
		return TIES_SHARED;
	READ(users, files, OFF_files_struct_count);
	if (users > live)
		return TIES_SHARED;
#endif
	return 0;
}

static __always_inline u64 ties(const void *task)
{
	const void *leader = 0, *files = 0, *shared = 0;
	u64 terminal = 0;

	READ(leader, task, OFF_task_struct_group_leader);
#ifdef HAVE_TERMINALS
	if (task == leader) {
		const void *signal = 0;

		READ(signal, task, OFF_task_struct_signal);
		READ(terminal, signal, OFF_signal_struct_tty);
		if (!terminal)
			READ(terminal, signal, OFF_signal_struct_tty_old_pgrp);
	}
#endif
#ifdef HAVE_OWNERS
	READ(files, task, OFF_task_struct_files);
	if (task != leader)
		READ(shared, leader, OFF_task_struct_files);
	if (files && files != shared)
		terminal |= few_owned(files);
#endif
	return terminal | shared_beyond(task, leader);
}

#endif
