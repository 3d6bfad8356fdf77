/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The state that all actors and the guard share while a program runs, and the reports of progress to each other.
 */
#ifndef CKPTREE_STATE_H
#define CKPTREE_STATE_H

#include "control.h"
#include "kernel_calls.h"
#include "program.h"

#define FD_WAKE 5    /* eventfd that wakes the guard */
#define FD_REPORT 6  /* the actors' end of the socket pair by which the guard learns their pids */
#define FD_REPORTS 7 /* the guard's end */
#define FD_SIGNALS 8 /* the guard's signalfd */
#define FD_UNUSED 9  /* the first number without a meaning for actors */
#define FD_FOLDER 9  /* the guard's: the folder of its pid file, from the detach on */
#define FD_HIGH 20   /* a number above all that have a meaning, and above the standard streams */

#define ACTOR_STACK 16384
#define SPINS 20

enum ask { ASK_KILL = 1, ASK_STOP }; /* requests of a namespace's init, which cannot signal itself */

struct state {
	uint32_t apart;	       /* the guard is in a session of its own, safe from signals to the tree's */
	int32_t first;	       /* actor 0's pid for the guard, or a negative errno, if another process created it */
	uint32_t gate;	       /* the last phase that may run */
	uint32_t left[PHASES]; /* what is to do; one more each for the guard, and in BUILD for each actor */
	uint32_t progress;     /* number of steps and births that are done */
	uint32_t failing;      /* set by the first actor that fails */
	uint32_t failed;       /* `failure` is complete */
	struct message failure;
	uint32_t spare;	   /* number of spare numbers that are taken */
	uint32_t release;  /* enum run; set once */
	uint32_t released; /* number of actors that hold, run, or wait to stop */
	uint32_t asks;
	int32_t root_status; /* the root's wait status, if a reaper has waited for it */
	uint32_t root_ended;
	uint64_t run_offset;
	uint64_t run_size;
};

struct program {
	struct program_head *head;
	struct program_actor *actors;
	struct program_step *steps;
	uint32_t *dependencies;
	int32_t *numbers;
	struct answer *answer;
	int32_t *outer; /* pids for the guard */
	struct state *state;
	uint32_t *done;	   /* by step */
	uint32_t *alive;   /* by actor: its tid, a robust futex */
	uint32_t *asked;   /* by actor: enum ask */
	uint32_t *ending;  /* by lingering actor: the same robust futex, for its end */
	uint32_t *needed;  /* by step: other steps depend on it */
	uint32_t *runs;	   /* by actor: it will run a program; like the next one known from the release on */
	uint32_t *mapped;  /* by leader: its region is mapped, see fill.h */
	uint32_t *members; /* by leader: number of its threads that still need the descriptors */
	uint32_t root;	   /* the first actor that is a task */
	char *stacks;	   /* by actor: ACTOR_STACK bytes */
};

extern struct program program;

struct report {
	uint32_t actor;
};

/* Report a failure, if it is the first; the guard then takes the tree down. */
void note_failure(uint32_t reason, uint32_t actor, uint32_t place, int error, int value);

/* Report a failure, and wait for the guard's SIGKILL. */
_Noreturn void fail(uint32_t reason, uint32_t actor, uint32_t place, int error);

static inline uint32_t load(const uint32_t *word)
{
	return __atomic_load_n(word, __ATOMIC_ACQUIRE);
}

static inline void store(uint32_t *word, uint32_t value)
{
	__atomic_store_n(word, value, __ATOMIC_RELEASE);
}

static inline uint32_t bump(uint32_t *word)
{
	return __atomic_add_fetch(word, 1, __ATOMIC_ACQ_REL);
}

/* Look a few times before sleeping; the spin is short because other tasks need the cores. */
static inline void wait_at_least(uint32_t *word, uint32_t wanted)
{
	uint32_t value;

	for (int spin = 0; spin < SPINS; spin++) {
		if (load(word) >= wanted)
			return;
		RELAX();
	}
	while ((value = load(word)) < wanted)
		futex_wait(word, value, NULL);
}

/* Return 1 if the guard has died: then the other end of the reports' channel is closed, because only the guard has it. */
static inline int guard_is_gone(void)
{
	struct poll_fd reports = {FD_REPORT, 0, 0};
	struct timespec64 now = {0, 0};

	return CALL5(ppoll, &reports, 1, &now, 0, 0) > 0;
}

static inline void wake_guard(void)
{
	uint64_t one = 1;

	CALL3(write, FD_WAKE, &one, sizeof(one));
}

static inline void ask_guard(uint32_t me, enum ask what)
{
	store(&program.asked[me], what);
	bump(&program.state->asks);
	wake_guard();
}

static inline void open_gate(uint32_t phase)
{
	store(&program.state->gate, phase);
	futex_wake_all(&program.state->gate);
}

/* Count one thing less to do in a phase; the last one opens the next phase or wakes the guard. */
static inline void drop(uint32_t phase)
{
	if (__atomic_sub_fetch(&program.state->left[phase], 1, __ATOMIC_ACQ_REL))
		return;
	if (phase == PHASE_ACTIVATE) {
		open_gate(PHASE_LEAVE);
		drop(PHASE_LEAVE);
	} else if (phase != PHASE_STOP) {
		wake_guard();
	}
}

static inline void mark_done(uint32_t at)
{
	store(&program.done[at], 1);
	bump(&program.state->progress);
	if (program.needed[at])
		futex_wake_all(&program.done[at]);
	drop(program.steps[at].phase);
}

#endif
