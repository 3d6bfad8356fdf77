// SPDX-License-Identifier: Apache-2.0
/*
 * The storm's own log: the true acts of every task, with their times.
 *
 * A file, mapped shared by all tasks of the storm: one struct log, then `capacity` lives. The creator of a task takes the
 * next life, without a lock, before it calls clone(); creator, task and reaper write their own stamps into it, each
 * stamp by one writer only. So a life is usable whichever of them dies first. Stamps are CLOCK_BOOTTIME in ns, the
 * clock of a task's start in the kernel; 0 means that the event never happened, or that no task lived to log it.
 *
 * A stamp never claims more than its writer knew: *_lo is read before the call, *_hi after it returned.
 *
 * stormlog.py reads this; test_stormlog.py compares the two.
 */
#ifndef STORM_LOG_H
#define STORM_LOG_H

#include <stdint.h>

#define STORM_MAGIC 0x676f4c6d726f7453ull /* "StormLog" */
#define STORM_NUMBERS (1u << 22)	  /* PID_MAX_LIMIT */

enum kind {
	KIND_VOID, /* clone() failed */
	KIND_ROOT,
	KIND_HOLDER, /* parent of the idle ones */
	KIND_IDLE,
	KIND_WORKER,
	KIND_PROCESS, /* waited for by its creator */
	KIND_VFORK,
	KIND_THREAD,
	KIND_ORPHAN,   /* its creator leaves first; the root reaps it */
	KIND_AUTOREAP, /* its creator ignores SIGCHLD */
	KIND_KILLED,   /* ends by SIGKILL */
	KIND_INIT,     /* of a pid namespace of its own; waited for by its creator, outside */
	KIND_INNER,    /* a child of that init; waited for, or killed at the end of the init */
	KIND_COUNT
};

struct life {
	uint64_t birth_lo;     /* creator, before clone() */
	uint64_t birth_child;  /* first thing the task does */
	uint64_t birth_parent; /* creator, after clone() */
	uint64_t death_lo;     /* the task before its exit, or its killer before the kill */
	uint64_t zombie_hi;    /* reaper, after waitid(WNOWAIT): it is a zombie by now */
	uint64_t reap_lo;      /* reaper, before the wait that took it away */
	uint64_t gone_hi;      /* reaper after that wait; without a wait: when kill() fails with ESRCH */
	uint64_t setsid_lo;
	uint64_t setsid_hi;
	uint64_t setpgid_lo; /* by the task itself */
	uint64_t setpgid_hi;
	uint64_t moved_lo; /* setpgid by its parent */
	uint64_t moved_hi;
	uint64_t exec_lo; /* in the leader's life, whichever thread calls exec */
	uint64_t exec_hi;
	uint32_t kind;
	int32_t tid; /* as the storm's root counts, like every number here */
	int32_t tgid;
	uint32_t parent;  /* life of the leader of the process that is its parent at birth */
	uint32_t leader;  /* life of its thread group's leader; its own unless it is a thread */
	int32_t sid;	  /* at birth */
	int32_t pgid;	  /* at birth */
	int32_t new_pgid; /* what both setpgid() above ask for */
	uint32_t heir;	  /* life of the subreaper next above: its parent once `parent` is dead; then the root */
	uint32_t pad;
};

struct log {
	uint64_t magic;
	uint32_t life_size;
	uint32_t lives_offset;
	uint32_t capacity;
	uint32_t taken;	     /* lives handed out; may overshoot capacity */
	uint64_t stop_ns;    /* begin of the end; from here on lives are not complete. 0: not yet */
	uint32_t idle_ready; /* idle tasks that run */
	uint32_t workers;    /* workers that still run */
	uint32_t unmatched;  /* reaped by the root without a life */
	uint32_t adopted;    /* reaped by the root */
	uint32_t counts[KIND_COUNT];
	uint32_t execs;
	uint32_t setsids;
	uint32_t setpgids;
	uint32_t subreapers;
	uint32_t by_tid[STORM_NUMBERS]; /* newest life of a number */
};

#endif
