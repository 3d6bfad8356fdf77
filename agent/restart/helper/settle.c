/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The life of an actor after the tree is active: it holds its place and does nothing, runs a program, or is the reaper.
 */
#include "settle.h"
#include "rights.h"
#include "robust.h"
#include "signals.h"

extern char __executable_start[], etext[], edata[], end[]; /* the linker's */

static char *append(char *at, const char *text)
{
	while (*text)
		*at++ = *text++;
	return at;
}

static char *append_number(char *at, uint32_t number)
{
	char digits[10];
	size_t count = 0;

	do
		digits[count++] = (char)('0' + number % 10);
	while (number /= 10);
	while (count)
		*at++ = digits[--count];
	return at;
}

void show_held(uint32_t me)
{
	const struct program_actor *actor = &program.actors[me];
	int process = !(actor->flags & ACTOR_THREAD);
	char *text = process ? map(PAGE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) : NULL, *at = text;
	struct memory_map memory = {
		.start_code = (uintptr_t)__executable_start,
		.end_code = (uintptr_t)etext,
		.start_data = (uintptr_t)etext,
		.end_data = (uintptr_t)edata,
		.start_brk = (uintptr_t)end + PAGE,
		.brk = (uintptr_t)end + PAGE,
		.start_stack = (uintptr_t)program.stacks,
		.exe_fd = ~0u,
	};

	if (!text || refusal(text))
		return;
	at = append(at, actor->tag ? "ckptree: held " : "ckptree: reaper");
	if (actor->tag) {
		at = append_number(at, actor->tag);
		at = append(append(at, " "), actor->comm);
	}
	memory.arg_start = (uintptr_t)text;
	memory.arg_end = memory.env_start = memory.env_end = (uintptr_t)at + 1;
	CALL5(prctl, PR_SET_MM, PR_SET_MM_MAP, &memory, sizeof(memory), 0);
}

static _Noreturn void hold(void)
{
	for (;;)
		CALL4(ppoll, 0, 0, 0, 0);
}

static void count(void)
{
	bump(&program.state->released);
	futex_wake_all(&program.state->released);
}

static int stops(uint32_t me)
{
	const struct program_actor *actor = &program.actors[me];

	return actor->step_count && program.steps[actor->first_step + actor->step_count - 1].op == OP_STOP;
}

/* Turn the offsets of an array into addresses in this process's own copy of the section. */
static char **pointers(char *section, uint64_t offset)
{
	uint64_t *at = (uint64_t *)(section + offset);

	for (uint64_t *each = at; *each; each++)
		*each += (uint64_t)(uintptr_t)section;
	return (char **)at;
}

/* Open the file that the path of a program leads to, and compare it with the one that was checked. */
static int open_checked(uint32_t me, const struct run_entry *entry, const char *path)
{
	struct statx found;
	long fd = CALL4(openat, AT_FDCWD, path, O_PATH | O_CLOEXEC, 0);
	long answer = fd < 0 ? fd : CALL5(statx, fd, "", AT_EMPTY_PATH, STATX_INO | STATX_CTIME, &found);

	if (answer < 0)
		cannot_run(me, DOING_OPEN, answer);
	if (found.stx_dev_major != entry->device_major || found.stx_dev_minor != entry->device_minor ||
	    found.stx_ino != entry->inode ||
	    found.stx_ctime.tv_sec * NS_PER_S + found.stx_ctime.tv_nsec != entry->changed_ns)
		cannot_run(me, DOING_COMPARE, 0);
	return (int)fd;
}

static _Noreturn void run(uint32_t me, char *section)
{
	const struct run_entry *entry = &((struct run_entry *)section)[me];
	char *path = section + entry->path;
	char **argv = pointers(section, entry->argv), **envp = pointers(section, entry->envp);
	int file = entry->inode ? open_checked(me, entry, path) : -1;

	/* exec() closes them; until then a failure can be reported. */
	CALL3(close_range, STANDARD_STREAMS, ~0u, CLOSE_RANGE_CLOEXEC);
	if (entry->flags & RUN_OPENED)
		cannot_run(me, DOING_EXECVE, CALL5(execveat, file, "", argv, envp, AT_EMPTY_PATH));
	cannot_run(me, DOING_EXECVE, CALL3(execve, path, argv, envp));
}

/* Reap children until the root ends, then end. In a namespace of its own that ends all other processes. */
static _Noreturn void reap(void)
{
	struct child_info info;
	int32_t root = program.numbers[program.actors[program.root].first_number];

	for (;;) {
		info.pid = 0;
		if (CALL5(waitid, P_ALL, 0, &info, WEXITED | WALL, 0) == -ECHILD)
			break;
		if (info.pid == root) {
			program.state->root_status = raw_status(&info);
			store(&program.state->root_ended, 1);
			break;
		}
	}
	for (;;)
		CALL1(exit_group, 0);
}

char *actor_prepare(uint32_t me)
{
	const struct program_actor *actor = &program.actors[me];
	char *section = NULL;

	if (!me && (program.head->flags & PROGRAM_REAPER))
		return NULL; /* the reaper may have to kill tasks with other ids */
	/* The exec() of its leader ends a thread at any moment. */
	if ((actor->flags & ACTOR_THREAD) && program.runs[actor->leader])
		return NULL;
	if (load(&program.state->release) == RUN_SECTION) {
		section = map(program.state->run_size, MAP_PRIVATE | MAP_NORESERVE, FD_PROGRAM,
			      program.state->run_offset);
		if (refusal(section))
			cannot_run(me, DOING_MMAP, refusal(section));
	}
	take_rights(me, section);
	return section;
}

/* Close all descriptors of the caller, once no thread needs the shared table any more. */
static void let_go(uint32_t leader)
{
	if (__atomic_sub_fetch(&program.members[leader], 1, __ATOMIC_ACQ_REL))
		return;
	if (!(program.head->flags & PROGRAM_NO_STDIO))
		streams_to_null();
	CALL3(close_range, STANDARD_STREAMS, ~0u, 0);
}

_Noreturn void actor_settle(uint32_t me, char *section)
{
	const struct program_actor *actor = &program.actors[me];

	actor_disarm(me);
	if (!me && (program.head->flags & PROGRAM_REAPER)) {
		let_go(me);
		show_held(me);
		count();
		reap();
	}
	stop_ignoring();
	/* The guard does not wait for this thread: its leader's exec() ends it. */
	if ((actor->flags & ACTOR_THREAD) && program.runs[actor->leader])
		hold();
	if (program.runs[me]) {
		if (!stops(me))
			count();
		run(me, section);
	}
	if (section)
		CALL2(munmap, section, program.state->run_size);
	let_go(actor->leader);
	if (!stops(me)) {
		show_held(me);
		count();
	}
	hold();
}
