/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A kernel's records without a kernel: births, programs, sessions, groups, threads, orphans and ends of processes beside
 * some that stay, as fast as they can be written.
 *
 * usage: lives RECORDS LIVE PID_MAX SEED
 *
 * Standard output has parts of a ring, each behind a head of three words: bytes, the number that follows the part, and
 * CLOCK_BOOTTIME at its end, ns. The first parts enter the init and the LIVE tasks that stay; an empty one ends them.
 *
 * Each record is one that Linux writes in this place: a table that applies all of them is never in doubt. Numbers are
 * given in turn up to PID_MAX, as alloc_pid() does, and one is free once no process, group or session has it.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../bpf/events.h"

#define RESERVED 300
#define CLONE_THREAD 0x00010000u
#define FORK_FLAGS 0x01200011u
#define THREAD_FLAGS 0x003d0f00u
#define SIGCHLD 17
#define ACTIVE 96  /* processes at work at once */
#define LATE 128   /* task_structs that wait for their RCU grace period */
#define WORKERS 64 /* that each starter has */
#define PART_BYTES (1u << 15)
#define STEP_NS 20000 /* between two records, on average */
#define TURNOVER 400  /* of so many processes, one takes the place of one that stays */
#define PROGRAMS 300

enum phase { UNUSED, STAYS, BORN, NAMED, RUNS, ZOMBIE, DEAD };

struct object { /* a pid object; its number is its index */
	uint64_t identity;
	uint32_t users;
};

struct task {
	enum phase phase;
	uint64_t start_ns;
	uint32_t tid, pgid, sid, uid;
	int parent, leader, at; /* tasks by index; `at`: the place among those at work */
	int depth, children, zombies, threads, program;
	char comm[16];
};

static struct object *objects;
static struct task *tasks;
static int *spare, spares, active[4 * ACTIVE], actives, *starters, starter_count;
static uint64_t seq, now_ns = 1000000000000ull, identities, chance, pid_max, last_pid = RESERVED;
static uint8_t part[PART_BYTES + 4096];
static uint32_t used;
static struct record_end late[LATE];
static int late_tasks[LATE], late_at;

static uint64_t draw(uint64_t below)
{
	chance ^= chance << 13;
	chance ^= chance >> 7;
	chance ^= chance << 17;
	return (chance >> 11) % below;
}

static uint64_t mixed(uint64_t value)
{
	value = (value ^ (value >> 33)) * 0xff51afd7ed558ccdull;
	return (value ^ (value >> 33)) * 0xc4ceb9fe1a85ec53ull;
}

static uint64_t address(int task)
{
	return task < 0 ? 0xffffffff82a14940ull : 0xffff888100000000ull + (uint64_t)task * 0x2640;
}

static void flush(void)
{
	uint64_t head[3] = {used, seq, now_ns + 500};

	if (fwrite(head, sizeof(head), 1, stdout) != 1 || fwrite(part, 1, used, stdout) != used)
		exit(1);
	used = 0;
}

static void put(void *record, uint32_t bytes, const void *more, uint32_t more_bytes)
{
	uint32_t length = bytes + more_bytes;

	memcpy(part + used, &length, 4);
	memset(part + used + 4, 0, 4);
	memcpy(part + used + 8, record, bytes);
	if (more_bytes)
		memcpy(part + used + 8 + bytes, more, more_bytes);
	memset(part + used + 8 + length, 0, -length & 7);
	used += 8 + ((length + 7) & ~7u);
	if (used >= PART_BYTES)
		flush();
}

static struct record headed(uint32_t kind, uint32_t argument)
{
	now_ns += 1 + draw(2 * STEP_NS);
	return (struct record){seq++, kind, argument, now_ns};
}

static void tell(uint32_t kind, int which, uint32_t argument, int by)
{
	struct task *task = &tasks[which], *leader = &tasks[task->leader];
	struct record_task record = {.head = headed(kind, argument)};
	uint32_t numbers[MAX_OBJECTS] = {task->tid, leader->tid, leader->pgid, leader->sid};
	struct pid_number told[MAX_OBJECTS];
	int count = 0, parent = leader->parent;

	if (kind == RECORD_FORK)
		task->start_ns = now_ns - 700;
	record.task = address(which);
	record.start_ns = task->start_ns;
	record.parent = address(parent);
	record.leader = address(task->leader);
	for (int role = 0; role < MAX_OBJECTS; role++) {
		int first = 1;

		(&record.pid)[role] = objects[numbers[role]].identity;
		for (int before = 0; before < role; before++)
			first &= numbers[before] != numbers[role];
		record.levels[role] = first;
		if (first)
			told[count++] = (struct pid_number){numbers[role], INITIAL_INUM, 0};
	}
	record.tid = task->tid;
	record.parent_tid = parent < 0 ? 0 : tasks[parent].tid;
	record.flags = kind == RECORD_EXIT ? TASK_EXITING : 0;
	record.exit_code = kind == RECORD_EXIT ? (task->tid % 7 ? 0 : 256) : 0;
	record.exit_signal = task->leader == which ? SIGCHLD : -1;
	record.uid = record.gid = task->uid;
	if (kind == RECORD_FORK) {
		record.by_tid = by < 0 ? 0 : tasks[by].tid;
		record.by = by < 0 ? 0 : address(by);
	}
	memcpy(record.comm, task->comm, sizeof(record.comm));
	put(&record, sizeof(record), told, count * sizeof(told[0]));
}

static void tell_strings(int which, uint32_t area)
{
	struct task *task = &tasks[which];
	uint64_t content = area ? 1 + task->uid : draw(3) ? (uint64_t)task->program : seq;
	char text[64];
	uint32_t length = snprintf(text, sizeof(text), "/usr/bin/%s%c--job%c%llu", task->comm, 0, 0,
				   (unsigned long long)content) +
			  1;
	struct record_strings record = {
		.head = headed(RECORD_STRINGS, area),
		.task = address(which),
		.start_ns = task->start_ns,
		.tid = task->tid,
		.kept = area ? 0 : length,
		.address = 0x7ffc00000000ull + (mixed(seq) & 0xfffff) * 0x1000 + 0x7c0,
		.size = area ? 1500 + content % 64 : length,
		.first_hash = mixed(2 * content + 1),
		.second_hash = mixed(2 * content + 7919),
	};

	put(&record, sizeof(record), text, record.kept);
}

static uint32_t allocated(void)
{
	do {
		if (++last_pid >= pid_max)
			last_pid = RESERVED;
	} while (objects[last_pid].users);
	objects[last_pid].identity = ++identities + 0x1000;
	return (uint32_t)last_pid;
}

static int born(int by, uint32_t flags)
{
	int which = spare[--spares], leads = !(flags & CLONE_THREAD);
	struct task *task = &tasks[which], *creator = by < 0 ? NULL : &tasks[by];

	*task = (struct task){
		.phase = BORN, .parent = by, .leader = leads ? which : creator->leader, .tid = allocated(), .at = -1};
	objects[task->tid].users++;
	if (creator) {
		task->depth = creator->depth + 1;
		task->uid = creator->uid;
		task->program = creator->program;
		memcpy(task->comm, creator->comm, sizeof(task->comm));
	}
	if (leads) {
		task->pgid = creator ? tasks[creator->leader].pgid : task->tid;
		task->sid = creator ? tasks[creator->leader].sid : task->tid;
		objects[task->pgid].users++;
		objects[task->sid].users++;
		if (creator)
			creator->children++;
	} else {
		tasks[task->leader].threads++;
	}
	tell(by < 0 ? RECORD_STATE : RECORD_FORK, which, flags, by);
	return which;
}

static void work(int which)
{
	tasks[which].at = actives;
	active[actives++] = which;
}

static void rest(int which)
{
	int last = active[--actives];

	active[tasks[which].at] = last;
	tasks[last].at = tasks[which].at;
	tasks[which].at = -1;
}

static void run(int which)
{
	struct task *task = &tasks[which];

	task->program = (int)(draw(PROGRAMS) * draw(PROGRAMS) / PROGRAMS);
	task->phase = RUNS;
	memset(task->comm, 0, sizeof(task->comm));
	snprintf(task->comm, sizeof(task->comm), "program%d", task->program);
	tell(RECORD_EXEC, which, task->tid, -1);
	tell_strings(which, 0);
	tell_strings(which, 1);
}

static void move(int which, int session)
{
	struct task *task = &tasks[which];

	objects[task->tid].users++;
	objects[task->pgid].users--;
	task->pgid = task->tid;
	if (session) {
		objects[task->tid].users++;
		objects[task->sid].users--;
		task->sid = task->tid;
	}
	tell(session ? RECORD_SESSION : RECORD_GROUP, which, 0, -1);
}

/* The number, group and session are given up; the task_struct is told as free after some other ones. */
static void release(int which)
{
	struct task *task = &tasks[which];

	objects[task->tid].users--;
	if (task->leader == which) {
		objects[task->pgid].users--;
		objects[task->sid].users--;
	} else {
		tasks[task->leader].threads--;
	}
	task->phase = DEAD;
	if (late[late_at].task) {
		late[late_at].head = headed(RECORD_FREE, 0);
		put(&late[late_at], sizeof(struct record_end), NULL, 0);
		spare[spares++] = late_tasks[late_at];
	}
	late_tasks[late_at] = which;
	late[late_at] = (struct record_end){.task = address(which), .start_ns = task->start_ns, .tid = task->tid};
	late_at = (late_at + 1) % LATE;
}

static void orphan(int of)
{
	for (int n = 0; tasks[of].children && n < actives; n++) {
		struct task *task = &tasks[active[n]];

		if (task->leader == active[n] && task->parent == of) {
			task->parent = 0;
			tasks[of].children--;
			tasks[0].children++;
		}
	}
}

static void end(int which)
{
	struct task *task = &tasks[which];

	tell(RECORD_EXIT, which, task->leader == which, -1);
	if (task->leader != which) {
		rest(which);
		release(which);
		return;
	}
	orphan(which);
	task->phase = ZOMBIE;
	tasks[task->parent].zombies++;
}

static void reap(int which)
{
	struct task *task = &tasks[which], *parent = &tasks[task->parent];
	struct record_call record = {headed(RECORD_WAITED, 0), address(task->parent), parent->tid, task->tid};

	put(&record, sizeof(record), NULL, 0);
	parent->zombies--;
	parent->children--;
	rest(which);
	release(which);
}

/* A starter ends one of its workers, whose task becomes one at work, and has another instead. */
static void turn_over(int live)
{
	int which = 1 + (int)draw(live), starter = tasks[which].parent, next;

	if (tasks[which].phase != STAYS || tasks[which].children || !starter || actives >= 3 * ACTIVE)
		return;
	work(which);
	end(which);
	next = born(starter, FORK_FLAGS);
	run(next);
	tasks[next].phase = STAYS;
}

static void step(int live)
{
	struct task *task;
	int which;

	if (actives < ACTIVE) {
		if (!draw(TURNOVER))
			turn_over(live);
		work(born(starters[draw(starter_count)], FORK_FLAGS));
		return;
	}
	which = active[draw(actives)];
	task = &tasks[which];
	if (task->phase == ZOMBIE) {
		reap(which);
	} else if (task->phase == BORN && task->leader == which && !draw(5)) {
		task->phase = NAMED;
		move(which, (int)draw(2));
	} else if (task->phase != RUNS && task->leader == which && !task->threads && draw(10) < 2) {
		run(which);
	} else if (task->leader == which && task->depth < 6 && actives < 2 * ACTIVE && draw(10) < 3) {
		work(born(which, draw(8) ? FORK_FLAGS : THREAD_FLAGS));
	} else if (!task->threads && !task->zombies && (!task->children || !draw(20))) {
		end(which);
	}
}

int main(int argc, char **argv)
{
	uint64_t records;
	int live = argc == 5 ? atoi(argv[2]) : 0, room = live + 4 * ACTIVE + LATE + 16;

	if (!live)
		return 2;
	records = strtoull(argv[1], NULL, 10);
	pid_max = strtoull(argv[3], NULL, 10);
	chance = 88172645463325252ull + strtoull(argv[4], NULL, 10);
	objects = calloc(pid_max + 1, sizeof(*objects));
	tasks = calloc(room, sizeof(*tasks));
	spare = calloc(room, sizeof(*spare));
	starters = calloc(live + 1, sizeof(*starters));
	if (!objects || !tasks || !spare || !starters)
		return 1;
	for (int n = room; n-- > 0;)
		spare[spares++] = n;
	last_pid = 0;
	born(-1, 0);
	tasks[0].phase = STAYS;
	last_pid = RESERVED;
	while (starter_count * (WORKERS + 1) < live) {
		int starter = born(0, FORK_FLAGS);

		starters[starter_count++] = starter;
		tasks[starter].uid = 1000 + starter_count % 20;
		move(starter, 1);
		run(starter);
		tasks[starter].phase = STAYS;
		for (int n = 0; n < WORKERS && starter_count * (WORKERS + 1) - WORKERS + n < live; n++) {
			int worker = born(starter, FORK_FLAGS);

			run(worker);
			tasks[worker].phase = STAYS;
		}
	}
	if (used)
		flush();
	flush();
	records += seq;
	while (seq < records)
		step(live);
	if (used)
		flush();
	return fflush(stdout) ? 1 : 0;
}
