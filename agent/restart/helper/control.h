/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The interface of guard and coordinator beside the program: messages over the control socket, and the parts behind the
 * program in the same file. agent/restart/rebuild/helperabi.py is the mirror; a test compiles this header and compares.
 *
 *     file = program, padded to 8 | struct answer | s32 outer pid * actors | padding to a page | run section
 *
 * The run section is written just before the release, if tasks are to run programs. Its offsets count from its start; 0
 * means none. The name of a file with the guard's pid follows it, on a page of its own.
 *
 *     run section = struct run_entry * actors | u64 offset of a string * n, 0 ... | u32 group * n ...
 *                   | strings, each with its NUL
 */
#ifndef CKPTREE_CONTROL_H
#define CKPTREE_CONTROL_H

#include <stdint.h>

#define FD_PROGRAM 3
#define FD_CONTROL 4

/* message.kind */
enum said {
	SAID_STANDING = 1, /* guard: all actors are born and in place */
	SAID_ACTIVE,	   /* guard: all activations are done, and the ghosts are gone */
	SAID_RELEASED,	   /* guard: all actors hold or run, and the stopped ones have their signal */
	SAID_FAILED,	   /* guard: the reason of a failure; GONE follows */
	SAID_GONE,	   /* guard: no process is left; value: the root's wait status, or -1 */
	SAID_GO = 16,	   /* coordinator: activate */
	SAID_RELEASE,	   /* coordinator: hold, or run or be filled by the section at `offset` */
	SAID_SIGNAL,	   /* coordinator: send signal `value` to the root */
	SAID_KILL,	   /* coordinator: take the tree down */
	SAID_DETACH,	   /* coordinator: outlive me; in the end remove the file named at `offset` */
};

/* message.reason of SAID_FAILED */
enum reason {
	REASON_STEP = 1, /* a step's system call failed: actor, place, error (the kernel's, here and below) */
	REASON_DIED,	 /* an actor has died: actor, place of its first step that is not done */
	REASON_STUCK,	 /* no progress for a long time: actor, place of the first step that is not done */
	REASON_SETUP,	 /* something before any step failed, `value` is an enum setup: error */
	REASON_RUN,	 /* an actor cannot run its program: error, `value` is an enum doing */
	REASON_NUMBERS,	 /* an actor cannot read its numbers in /proc: error, or 0 if some are missing */
	REASON_SPARE,	 /* no spare number is left for a step: actor, place */
	REASON_UNKNOWN,	 /* the helper does not know a step: actor, place */
	REASON_SURVIVED, /* an actor has survived its last signal: actor, place, `value` is that signal */
};

enum setup {
	SETUP_PROGRAM = 1,
	SETUP_USERNS,
	SETUP_IDMAP,
	SETUP_SOCKETS,
	SETUP_CLONE,
	SETUP_PRIVATE,
	SETUP_STDIO,
	SETUP_SESSION,
	SETUP_WATCHER,
	SETUP_STAGE,
	SETUP_KEYRING,
};

enum run { RUN_HOLD = 1, RUN_SECTION, RUN_FILL }; /* message.value of SAID_RELEASE; RUN_FILL: see fill.h */

/* the call that failed before a task could run its program */
enum doing {
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
	DOING_OPEN,
	DOING_COMPARE,
	DOING_FOLDER,
};

/* run_entry.flags */
#define RIGHTS_GIVEN 1u	 /* take the rights below; else keep the present ones */
#define RIGHTS_GROUPS 2u /* set the groups too; without this flag they are right already */
#define RIGHTS_NO_NEW_PRIVS 4u
#define RIGHTS_IDS 8u	 /* run nothing, and take ids and groups before all rights are lost */
#define RIGHTS_BOUND 16u /* keep the ids, and of the capabilities those in `bounding` */
#define RUN_OPENED 32u	 /* execute the file that is open, not what its path leads to by then */

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
	uint64_t first_clone_ns; /* CLOCK_MONOTONIC */
	uint64_t standing_ns;
	int32_t proc_error;	/* errno of the mount of a new /proc in the tree's namespace; 0: mounted */
	int32_t user_namespace; /* 1: the tree has a user namespace of its own */
};

struct run_entry {
	uint64_t path; /* 0: the task holds its place; ids and groups then apply to it too */
	uint64_t argv; /* of an array of offsets that ends with 0 */
	uint64_t envp;
	uint64_t cwd;	      /* 0: the present folder */
	uint64_t groups;      /* of an array of u32; its length is group_count */
	uint64_t inheritable; /* capability sets, one bit for each capability */
	uint64_t permitted;
	uint64_t effective;
	uint64_t bounding;
	uint64_t ambient;
	uint32_t flags;
	uint32_t umask;
	uint32_t uid; /* real; exec() copies the effective id to the saved one and to the one for files */
	uint32_t euid;
	uint32_t gid;
	uint32_t egid;
	uint32_t group_count;
	uint32_t device_major; /* the file that the path must lead to */
	uint32_t device_minor;
	uint32_t reserved;
	uint64_t inode;	    /* 0: whatever it leads to */
	int64_t changed_ns; /* of the inode */
	uint32_t cwd_major; /* the folder that `cwd` must lead to */
	uint32_t cwd_minor;
	uint64_t cwd_inode; /* 0: any */
};

#endif
