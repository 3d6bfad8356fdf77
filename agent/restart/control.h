/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the guard and the coordinator have in common besides the program: messages over the control socket, and what lies
 * behind the program in the same file. agent/restart/control.py is the mirror; a test compiles this and compares.
 *
 *     file = program, padded to 8 | struct answer | s32 outer pid * actors | padding to a page | run section
 *
 * The run section is written just before the release, where tasks are to run something. Offsets in it count from its
 * start; 0 is none. The name of a file with the guard's pid is behind it, on a page of its own.
 *
 *     run section = struct run_entry * actors | u64 offset of a string * n, 0 ... | u32 group * n ...
 *                   | strings, each with its NUL
 */
#ifndef CKPTREE_CONTROL_H
#define CKPTREE_CONTROL_H

#include <stdint.h>

#define FD_PROGRAM 3
#define FD_CONTROL 4

enum said {		/* message.kind */
	SAID_STANDING = 1,	/* guard: all are born and in place */
	SAID_ACTIVE,		/* guard: everybody has had its turn, and ghosts have gone */
	SAID_RELEASED,		/* guard: all hold or run, and what was stopped is stopping */
	SAID_FAILED,		/* guard: why nothing comes of it; GONE follows */
	SAID_GONE,		/* guard: nobody is left; value: the root's wait status, or -1 */
	SAID_GO = 16,		/* coordinator: activate */
	SAID_RELEASE,		/* coordinator: hold, or run the section at `offset` */
	SAID_SIGNAL,		/* coordinator: send signal `value` to the root */
	SAID_KILL,		/* coordinator: take all down */
	SAID_DETACH,		/* coordinator: stay when I have gone; remove the file whose name is at `offset` in the end */
};

enum reason {		/* message.reason of SAID_FAILED */
	REASON_STEP = 1,	/* a step's system call was refused: actor, place, error, which is the kernel's here and below */
	REASON_DIED,		/* an actor is gone: actor, place of its first step that is undone */
	REASON_STUCK,		/* nothing was done for a long time: actor, place of the first step that is undone */
	REASON_SETUP,		/* something before any step, `value` is an enum setup: error */
	REASON_RUN,		/* actor could not run its program: error, `value` is an enum doing */
	REASON_NUMBERS,		/* actor cannot read its numbers in /proc: error, or 0 where they are not all there */
	REASON_SPARE,		/* no number is left for the one that a step would make: actor, place */
	REASON_UNKNOWN,		/* a step is none that the helper knows: actor, place */
	REASON_SURVIVED,	/* an actor does not end by the signal that it is to end by: actor, place, `value` is that signal */
};

enum setup { SETUP_PROGRAM = 1, SETUP_USERNS, SETUP_IDMAP, SETUP_SOCKETS, SETUP_CLONE, SETUP_PRIVATE, SETUP_STDIO,
	     SETUP_SESSION, SETUP_WATCHER };

enum run { RUN_HOLD = 1, RUN_SECTION };	/* message.value of SAID_RELEASE */

enum doing {		/* the call by which a task that is to run something was stopped */
	DOING_MMAP = 1,
	DOING_CAPGET,
	DOING_SETGROUPS,
	DOING_SETRESGID,
	DOING_CAPBSET_DROP,
	DOING_KEEPCAPS,
	DOING_SETRESUID,
	DOING_CAPSET,
	DOING_CAP_AMBIENT,
	DOING_NO_NEW_PRIVS,
	DOING_PDEATHSIG,
	DOING_CHDIR,
	DOING_EXECVE,
	DOING_DUMPABLE,
};

/* run_entry.flags */
#define RIGHTS_GIVEN 1u		/* it takes the rights below; else it keeps those that it has */
#define RIGHTS_GROUPS 2u	/* also the groups: who may not set them has the right ones already */
#define RIGHTS_NO_NEW_PRIVS 4u
#define RIGHTS_IDS 8u		/* it runs nothing, and takes ids and groups before it loses all rights */
#define RIGHTS_BOUND 16u	/* it keeps its ids, and of its capabilities those in `bounding` */

struct message {
	uint32_t kind;
	uint32_t reason;
	uint32_t actor;
	uint32_t place;
	int32_t error;
	int32_t value;
	uint64_t offset;
	uint64_t size;
};

struct answer {
	uint64_t first_clone_ns;	/* CLOCK_MONOTONIC */
	uint64_t standing_ns;
	int32_t proc_error;		/* why there is no new /proc in the tree's namespace; 0: there is */
	int32_t user_namespace;		/* 1: the tree has a user namespace of its own */
};

struct run_entry {
	uint64_t path;			/* 0: it holds; ids and groups are then for it, too */
	uint64_t argv;			/* of an array of offsets that ends with 0 */
	uint64_t envp;
	uint64_t cwd;			/* 0: stays where it is */
	uint64_t groups;		/* of an array of u32; its length is group_count */
	uint64_t inheritable;		/* capability sets, a bit for each */
	uint64_t permitted;
	uint64_t effective;
	uint64_t bounding;
	uint64_t ambient;
	uint32_t flags;
	uint32_t umask;
	uint32_t uid;			/* real; exec() makes the saved one, and that for files, the effective one */
	uint32_t euid;
	uint32_t gid;
	uint32_t egid;
	uint32_t group_count;
	uint32_t reserved;
};

#endif
