/* SPDX-License-Identifier: GPL-2.0-only */
/* Iterators over the ties of tasks; ties.h tells in passing which tasks have any. */

struct file_iterator {
	void *meta;
	void *task;
	u32 fd;
	u32 pad;
	void *file;
};

/* The number of levels of a pid object; 0 without an object. */
static __always_inline u32 levels_of(const void *pid)
{
	u32 level = 0;

	if (!pid)
		return 0;
	READ(level, pid, OFF_pid_level);
	return level < MAX_LEVELS ? level + 1 : MAX_LEVELS;
}

/* Write the numbers of a pid object, behind the row. The kernel repeats a row that did not fit as a whole. */
static __always_inline void write_numbers(void *seq_file, const void *pid, u32 levels)
{
	u32 i;

#pragma clang loop unroll(disable)
	for (i = 0; i < MAX_LEVELS; i++) {
		struct pid_number number = {};

		asm volatile("" : "+r"(i));
		if (i >= levels || i >= MAX_LEVELS)
			break;
		read_number(&number, pid, i);
		bpf_seq_write(seq_file, &number, sizeof(number));
	}
}

/*
 * Write the last word of a row: 1 if the same structures were in place before and after the read, so that they were
 * referenced all the time. No lock is held in between.
 */
static __always_inline void write_held(void *seq_file, u64 held)
{
	u64 word = held;

	bpf_seq_write(seq_file, &word, sizeof(word));
}

/* iter/task: struct terminal_row of a process that has or had a terminal. */
int on_terminal(struct task_iterator *ctx)
{
#ifdef HAVE_TERMINALS
	struct iterator_meta *meta = ctx->meta;
	struct terminal_row row = {};
	const void *task = 0, *leader = 0, *signal = 0, *tty = 0, *pgrp = 0, *old_pgrp = 0, *again = 0;
	u64 held;

	READ(task, &ctx->task, 0);
	if (!task)
		return 0;
	READ(leader, task, OFF_task_struct_group_leader);
	READ(signal, task, OFF_task_struct_signal);
	if (task != leader || !signal)
		return 0;
	READ(tty, signal, OFF_signal_struct_tty);
	READ(old_pgrp, signal, OFF_signal_struct_tty_old_pgrp);
	if (tty) {
		bpf_probe_read_kernel(row.name, sizeof(row.name), (const char *)tty + OFF_tty_struct_name);
		READ(pgrp, tty, OFF_tty_struct_pgrp);
	} else if (!old_pgrp) {
		return 0;
	}
	row.task = (u64)task;
	READ(row.start_ns, task, OFF_START);
	READ(row.tid, task, OFF_task_struct_pid);
	row.terminal = (u64)(tty ? tty : old_pgrp);
	row.hung_up = !tty;
	row.pgrp = pid_identity(pgrp);
	row.old_pgrp = pid_identity(old_pgrp);
	row.levels[0] = levels_of(pgrp);
	row.levels[1] = levels_of(old_pgrp);
	bpf_seq_write(meta->seq_file, &row, sizeof(row));
	write_numbers(meta->seq_file, pgrp, row.levels[0]);
	write_numbers(meta->seq_file, old_pgrp, row.levels[1]);
	READ(again, signal, OFF_signal_struct_tty);
	held = again == tty;
	READ(again, signal, OFF_signal_struct_tty_old_pgrp);
	held &= again == old_pgrp;
	if (tty) {
		READ(again, tty, OFF_tty_struct_pgrp);
		held &= again == pgrp;
	}
	write_held(meta->seq_file, held);
#endif
	return 0;
}

/* iter/task_file: struct owner_row of an open file that has an owner. The iterator holds the file meanwhile. */
int on_file(struct file_iterator *ctx)
{
#ifdef HAVE_OWNERS
	struct iterator_meta *meta = ctx->meta;
	struct owner_row row = {};
	const void *task = 0, *file = 0, *owner = 0, *pid = 0, *again = 0;
	u32 levels;

	READ(task, &ctx->task, 0);
	READ(file, &ctx->file, 0);
	if (!task || !file)
		return 0;
#ifdef HAVE_EMBEDDED_OWNER
	owner = (const char *)file + OFF_file_f_owner;
#else
	READ(owner, file, OFF_file_f_owner);
#endif
	if (!owner)
		return 0;
	READ(pid, owner, OFF_fown_struct_pid);
	if (!pid)
		return 0;
	READ(row.start_ns, task, OFF_START);
	READ(row.files, task, OFF_task_struct_files);
	row.owner = pid_identity(pid);
	READ(row.tid, task, OFF_task_struct_pid);
	row.fd = ctx->fd;
	READ(row.pid_type, owner, OFF_fown_struct_pid_type);
	/* f_getown_ex(): an owner without a task of that type is none, though another process may use its number */
	READ(again, pid, OFF_pid_tasks + ENTRY(row.pid_type & PIDTYPE_MASK));
	row.levels = levels = again ? levels_of(pid) : 0;
	bpf_seq_write(meta->seq_file, &row, sizeof(row));
	write_numbers(meta->seq_file, pid, levels);
	READ(again, owner, OFF_fown_struct_pid);
	write_held(meta->seq_file, again == pid);
#endif
	return 0;
}

/* iter/task: struct sharing_row of a task that has memory, a folder or files. */
int on_sharing(struct task_iterator *ctx)
{
#ifdef HAVE_SHARING
	struct iterator_meta *meta = ctx->meta;
	struct sharing_row row = {};
	const void *task = 0;
	u64 vm = 0, fs = 0, files = 0;

	READ(task, &ctx->task, 0);
	if (!task)
		return 0;
	READ(row.start_ns, task, OFF_START);
	READ(row.tid, task, OFF_task_struct_pid);
	READ(row.vm, task, OFF_task_struct_mm);
	READ(row.fs, task, OFF_task_struct_fs);
	READ(row.files, task, OFF_task_struct_files);
	bpf_seq_write(meta->seq_file, &row, sizeof(row));
	READ(vm, task, OFF_task_struct_mm);
	READ(fs, task, OFF_task_struct_fs);
	READ(files, task, OFF_task_struct_files);
	write_held(meta->seq_file, vm == row.vm && fs == row.fs && files == row.files);
#endif
	return 0;
}
