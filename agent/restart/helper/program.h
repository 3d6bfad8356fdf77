/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The program that guard.c runs and agent/restart/rebuild/helperprogram.py writes. This file defines both; a test compiles it and
 * compares. program.py has the order of the parts.
 */
#ifndef CKPTREE_PROGRAM_H
#define CKPTREE_PROGRAM_H

#include <stdint.h>

#define PROGRAM_MAGIC 0x45525443u
#define PROGRAM_VERSION 3u
#define NO_ACTOR 0xffffffffu
#define MAX_LEVELS 33 /* pid namespaces nest 32 deep, so a process has so many numbers at most */

/* see Op in plan.py */
enum op {
	OP_CLONE = 1,
	OP_SETSID,
	OP_SETPGID,
	OP_SUBREAPER,
	OP_ENTER,
	OP_UNSHARE,
	OP_EXIT,
	OP_REAP,
	OP_AWAIT,
	OP_ACTIVATE,
	OP_STOP,
	OP_LINGER,
};

/* value of an OP_CLONE step */
#define CLONE_BIT_THREAD 1
#define CLONE_BIT_PARENT 2
#define CLONE_BIT_NEWPID 4
#define CLONE_BIT_FIRST 8 /* the init of a namespace that its creator has unshared */
#define CLONE_BIT_FILES 16

enum phase { PHASE_BUILD, PHASE_ACTIVATE, PHASE_LEAVE, PHASE_STOP, PHASES };

/* program_head.flags */
#define PROGRAM_PIDNS 1u	/* actor 0 is the init of a new pid namespace */
#define PROGRAM_ANY_NUMBERS 2u	/* the kernel chooses all numbers */
#define PROGRAM_REAPER 4u	/* actor 0 stays, reaps orphans, and ends with the root's end */
#define PROGRAM_NO_STDIO 8u	/* standard streams become /dev/null */
#define PROGRAM_NEW_SESSION 16u /* actor 0 begins in a session and group whose leader has exited */
#define PROGRAM_KEEP_RIGHTS 32u /* tasks that run nothing keep the caller's rights */
#define PROGRAM_IPCNS 64u	/* the tree is in a new IPC namespace */
#define PROGRAM_KEYRING 128u	/* the tree has a session keyring of its own */

/* program_actor.flags */
#define ACTOR_THREAD 1u
#define ACTOR_SPARE 2u /* its numbers are spare ones, the same at every level; an init's innermost number is 1 */
#define ACTOR_TASK 4u
#define ACTOR_ENDS 8u	  /* it exits within the program */
#define ACTOR_STOPPED 32u /* SIGSTOP stops it: it waits for a child with that exit signal */
#define ACTOR_IDS 64u	  /* it takes the ids of its entry before it exits */
#define ACTOR_LINGERS 16u /* it waits within its exit until its namespace is empty; an OP_LINGER waits for it */

struct program_head {
	uint32_t magic;
	uint32_t version;
	uint32_t actors;
	uint32_t steps;
	uint32_t dependencies;
	uint32_t numbers;
	uint32_t flags;
	int32_t spare_first; /* numbers that no task of the program has, at any level */
	int32_t spare_end;
	uint32_t stage; /* page of the program's file at which a struct stage_head begins; 0: there is none */
};

/*
 * Memory that all actors inherit from the guard, until they are released: agent/restart/contents/staging.py
 *
 *     stage = struct stage_head | struct stage_read * maps | struct stage_read * reads | (path, a byte 0) *
 */
struct stage_head {
	uint64_t bytes; /* of the stage's description */
	uint64_t address;
	uint64_t size;
	uint32_t reads;
	uint32_t maps;
};

/* Bytes of a file that are read into the stage, or that it maps. */
struct stage_read {
	uint64_t address;
	uint64_t size;
	uint64_t offset; /* in the file */
	uint32_t path;	 /* of the file: its offset in the description */
	uint32_t flags;	 /* to open it with */
};

struct program_actor {
	uint32_t first_step;
	uint32_t step_count;
	uint32_t first_number; /* depth + 1 numbers, that of the root's namespace first; 0: not known yet */
	uint32_t depth;
	uint32_t leader;
	uint32_t flags;
	int32_t exit_signal;
	uint32_t tag; /* of its pid object in the image; 0: none */
	char comm[16];
	uint32_t users[4];  /* real, effective and saved id, and that for files */
	uint32_t groups[4]; /* likewise */
};

struct program_step {
	uint32_t op;
	uint32_t by;
	uint32_t target;
	int32_t value;
	uint32_t phase;
	uint32_t first_dependency;
	uint32_t dependency_count;
	uint32_t place; /* in the plan, for messages */
};

#endif
