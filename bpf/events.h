/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The records that the kernel side writes and agent/table/wire.py reads. This file defines both.
 *
 * Plain types, explicit padding, never packed, every field naturally aligned: gcc, clang and bcc agree on the layout, and
 * tests/unit/table/test_wire.py compares the Python mirror with it. Native byte order.
 *
 * Order. The writer takes a record's number first and reads the state afterwards. So of two records about one task, the one
 * with the larger number never shows an older state: a change after the read announces itself under a still larger number.
 * Apply records in the order of their numbers; in the ring they may be slightly out of order.
 *
 * A number that never arrives was lost; struct page has the last lost numbers.
 */
#ifndef CKPTREE_EVENTS_H
#define CKPTREE_EVENTS_H

#include <linux/types.h>

#define MAX_LEVELS 33	 /* a pid in the deepest namespace, level 32, has one number for each level from 0 */
#define MAX_OBJECTS 4	 /* pid, tgid, pgrp, session */
#define LOST_NUMBERS 512 /* ring of the last lost numbers; a power of two */

enum record_kind {
	RECORD_FORK = 1, /* struct record_task: the new task; argument: low 32 clone flags; by: the caller of clone() */
	RECORD_EXEC,	 /* struct record_task; argument: the tid that the task had before exec */
	RECORD_EXIT, /* struct record_task: state before exit_notify(); argument: 1 if no thread of the group is left */
	RECORD_SESSION,	  /* struct record_task: after setsid() */
	RECORD_GROUP,	  /* struct record_task: after setpgid(), the task that moved */
	RECORD_SUBREAPER, /* struct record_task: after prctl(PR_SET_CHILD_SUBREAPER) */
	RECORD_STATE,	  /* struct record_task: the answer to a question by address; by: its ties, as in sweep_row */
	RECORD_GONE,	  /* struct record_end: the other answer: the task is gone */
	RECORD_FREE,	/* struct record_end: the last reference is gone, at least an RCU grace period after the reap */
	RECORD_RELEASE, /* struct record_end: release_task() begins: the numbers become free */
	RECORD_WAITED,	/* struct record_call: a wait returned number `value`, in the caller's namespace */
	RECORD_REGROUPED, /* struct record_call: setpgid() of a task that the hook could not find; value: pid argument */
	RECORD_MARKER,	  /* struct record: a point in the stream; argument: the number that the agent asked for */
	RECORD_STRINGS,	  /* struct record_strings: after exec; argument: 0 its arguments, 1 its environment */
};

/* record_task.flags */
#define TASK_SUBREAPER (1u << 0)       /* signal->is_child_subreaper */
#define TASK_UNDER_SUBREAPER (1u << 1) /* signal->has_child_subreaper */
#define TASK_EXITED (1u << 2)	       /* exit_state is not 0: exit_notify() is past */
#define TASK_RELEASED (1u << 3)	       /* exit_state EXIT_DEAD */
#define TASK_EXITING (1u << 4)	       /* PF_EXITING */
#define TASK_STOPPED (1u << 5)	       /* signal->flags: SIGNAL_STOP_STOPPED: the whole group is stopped */
#define TASK_KERNEL (1u << 6)	       /* PF_KTHREAD: a kernel thread */
#define TASK_IO_WORKER (1u << 7)       /* PF_IO_WORKER or PF_USER_WORKER: kernel code in a user's group */
#define TASK_AUTOREAP (1u << 8)	       /* EXIT with argument 1: the parent ignores SIGCHLD, the kernel reaps */
#define TASK_PTRACED (1u << 9)	       /* ptrace is not 0: a dead thread stays until its tracer waits */
#define TASK_MOVING (1u << 11)	       /* the next child will be born into another pid namespace */
#define TASK_MOVING_NOWHERE (1u << 12) /* not in sweep_row: that namespace's init is gone, so births fail there */
#define ROW_SIGNAL_SHIFT 24	       /* only in sweep_row: the low byte of exit_signal is above the flags */

/* Every record starts with this. 24 bytes. */
struct record {
	__u64 seq;	/* number of the record, from 0; only a loss leaves a gap */
	__u32 kind;	/* enum record_kind */
	__u32 argument; /* see enum record_kind */
	__u64 time_ns;	/* CLOCK_BOOTTIME right after the number was taken, ns, where the agent asks for it; else 0 */
};

#define KEEP_ARGUMENTS 1   /* bits of the word that the agent sets: areas of strings whose text is told */
#define KEEP_ENVIRONMENT 2 /* by the number of the area */
#define KEEP_TIME 4	   /* the time of each record is told */

#define INITIAL_INUM 0xEFFFFFFCu /* PROC_PID_INIT_INO: the namespace of level 0 on every host */

/* One number of a pid object. 16 bytes. In a record_task the one of level 0 has INITIAL_INUM and no ns_id. */
struct pid_number {
	__u32 nr;    /* the number */
	__u32 inum;  /* inode number of its namespace: reused at once, so no identity */
	__u64 ns_id; /* identity of its namespace within this boot: ns_common.ns_id, else the start of its init, ns */
};

/*
 * The whole state of one task. 160 bytes, then the numbers of up to four pid objects: for each role r in pid, tgid, pgrp,
 * session with levels[r] != 0, struct pid_number[levels[r]], level 0 first. levels[r] == 0: an earlier role has the object
 * with the same identity.
 */
struct record_task {
	struct record head;
	__u64 task;	/* address of the task_struct; never leaves the daemon */
	__u64 start_ns; /* CLOCK_BOOTTIME at birth, ns */
	__u64 parent;	/* address of real_parent */
	__u64 leader;	/* address of group_leader */
	__u64 pid;	/* identities of the four pid objects: pid->ino, else a mix of number and address */
	__u64 tgid;
	__u64 pgid;
	__u64 sid;
	__u32 tid;	   /* number in the initial pid namespace */
	__u32 parent_tid;  /* real_parent's number in the initial pid namespace */
	__u32 flags;	   /* TASK_* */
	__u32 exit_code;   /* raw wait status; valid once the task exits */
	__s32 exit_signal; /* signal to the parent at exit; -1 for a thread */
	__u32 uid;	   /* real ids, in the initial user namespace */
	__u32 gid;
	__u32 by_tid; /* FORK: number of the caller of clone() in the initial pid namespace; else 0 */
	__u64 by;     /* FORK: address of that caller; STATE: ties, as in sweep_row; else 0 */
	__u8 levels[MAX_OBJECTS];
	__u32 child_inum; /* pid namespace of the next child, if it is not the task's own; else 0 */
	__u64 child_ns_id;
	__u8 comm[16]; /* NUL padded */
};

/* A task that has ended or is ending. 48 bytes. */
struct record_end {
	struct record head;
	__u64 task; /* address */
	__u64 start_ns;
	__u32 tid;	 /* its last number in the initial pid namespace */
	__u32 exit_code; /* raw wait status of this one thread */
};

/* A system call whose effect the hook cannot announce itself. 40 bytes. */
struct record_call {
	struct record head;
	__u64 task; /* address of the caller */
	__u32 tid;  /* the caller's number in the initial pid namespace */
	__u32 value;
};

#define STRINGS_BYTES 8192 /* bytes of an area, from its start, that are hashed at most */
#define KEPT_BYTES 4096	   /* bytes of it that a record has at most */
#define STRINGS_BLOCK 64   /* bytes of a block of the hash; NULs fill up the last one */

/* One area of NUL-ended strings that exec() put on the stack. 80 bytes, then `kept` bytes of its text. */
struct record_strings {
	struct record head;
	__u64 task; /* address */
	__u64 start_ns;
	__u32 tid;
	__u32 kept;	  /* bytes of text: 0, or the first KEPT_BYTES */
	__u64 address;	  /* of the area, in the memory of the process */
	__u64 size;	  /* of the area, bytes */
	__u64 first_hash; /* of the first STRINGS_BYTES; agent/table/areas.py defines both */
	__u64 second_hash;
};

/* The key of the hash: random words, made by the loader and never told outside of the daemon. */
struct string_key {
	__u64 words[4 * STRINGS_BYTES /
		    8]; /* for each word of text: two of each hash, for its lower and its upper half */
};

/*
 * The row that the task iterator writes for each task. 88 bytes. A row takes no number, so its time is not known. If it
 * differs from the table, the agent asks for the task by address.
 */
struct sweep_row {
	__u64 task;
	__u64 start_ns;
	__u64 parent;
	__u64 pid;
	__u64 pgid;
	__u64 sid;
	__u32 tid;
	__u32 flags;
	__u32 uid;
	__u32 gid;
	__u8 comm[16];
	__u64 ties; /* see below; 0 for most tasks */
};

/*
 * Ties: relations of a task beside the tree, in one word that tells whether the agent must read more of the task. The
 * address, of leaders only, is that of the tty_struct or of tty_old_pgrp: the same address means the same terminal.
 */
#define TIES_OWNED 1ull	 /* a file of its table has an owner, or the table has too many files for a quick look */
#define TIES_SHARED 2ull /* another thread group may use its memory, folder or files; or a thread has its own */

/*
 * The terminal of a process that has one, or that had one until it hung up. 112 bytes, then the numbers of the foreground
 * group, then those of the group that was in the foreground at the hangup: struct pid_number[levels[n]]. The last word is
 * __u64 held: 0 if something changed during the read, which must then be repeated.
 */
struct terminal_row {
	__u64 task;
	__u64 start_ns;
	__u64 terminal; /* address, as in ties */
	__u64 pgrp;	/* identity of the foreground group; 0: none */
	__u64 old_pgrp; /* identity of the foreground group at the hangup; 0: none */
	__u32 tid;
	__u8 levels[2];
	__u8 hung_up; /* 1: there is no tty_struct any more, so neither name nor pgrp */
	__u8 pad;
	__u8 name[64]; /* NUL padded; the driver's name: "pts0" */
};

/*
 * An open file that has an owner (fcntl F_SETOWN). 40 bytes, then the owner's numbers: struct pid_number[levels], and
 * __u64 held as in terminal_row.
 */
struct owner_row {
	__u64 start_ns; /* of the task */
	__u64 files;	/* address of its table: tasks with the same one share it */
	__u64 owner;	/* the owner's identity */
	__u32 tid;
	__u32 fd;
	__u32 pid_type; /* enum pid_type: 0 a thread, 1 a process, 2 a group */
	__u32 levels;	/* 0: the owner has no task of that type any more */
};

/*
 * The memory, folder and files of a task, by address; 0: it has none now. 40 bytes, then __u64 held as in terminal_row.
 * The agent compares the addresses and does not pass them on.
 */
struct sharing_row {
	__u64 start_ns; /* of the task */
	__u64 vm;	/* CLONE_VM: mm_struct */
	__u64 fs;	/* CLONE_FS: fs_struct */
	__u64 files;	/* CLONE_FILES: files_struct */
	__u32 tid;
	__u32 pad;
};

/* A question by address: the context of the program `state`. */
struct question {
	__u64 task;	/* address of a task_struct; the answer to garbage is RECORD_GONE */
	__u64 start_ns; /* must be equal; 0: any start time */
};

/* The allowance of a user, by user id, for announcements of cheap calls. 16 bytes. */
struct allowance {
	__u64 spent_until_ns; /* the CLOCK_MONOTONIC time up to which the allowance is used up */
	__u64 withheld;	      /* changes that were not announced */
};

/* Counters, mapped read-only into the agent. */
struct page {
	__u64 seq;	/* numbers issued so far */
	__u64 lost;	/* number of those whose record found no room in the ring */
	__u64 nested;	/* program runs skipped because all scratch buffers were in use; they took no number */
	__u64 withheld; /* changes not announced because their user's allowance was used up; they took no number */
	__u64 reserved[4];
	__u64 lost_seq[LOST_NUMBERS]; /* the last lost numbers, at [n & (LOST_NUMBERS - 1)] */
};

#endif
