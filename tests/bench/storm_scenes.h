// SPDX-License-Identifier: Apache-2.0
/* The scenes of the storm: short-lived trees, each of a kind of which a scan may see only a part. */
#ifndef STORM_SCENES_H
#define STORM_SCENES_H

#include "storm_tasks.h"

#define ZOMBIES 24 /* that one worker does not reap */

static void scene_fork(void)
{
	uint32_t i;
	pid_t pid = spawn(KIND_PROCESS, &i);

	if (!pid)
		leave();
	if (pid > 0)
		reap(i, pid);
}

static void scene_vfork(void)
{
	uint32_t i = expect(KIND_VFORK), mine = me.life;
	int exec = !roll(6);
	pid_t pid = vfork();

	if (!pid) {
		begin(i);
		if (exec)
			become_new(i, i);
		leave();
	}
	me.life = mine; /* the child wrote into our memory */
	if (born(i, pid) > 0)
		reap(i, pid);
}

static void scene_threads(void)
{
	struct thread t[4] = {0};
	int n = 1 + roll(4), k;

	for (k = 0; k < n; k++) {
		t[k].sleep_ns = roll(3) ? 0 : roll(1000) * 1000ull;
		if (spawn_thread(t + k))
			break;
	}
	for (n = k, k = 0; k < n; k++) {
		pthread_join(t[k].handle, NULL);
		watch_go(t[k].life, lives[t[k].life].tgid, lives[t[k].life].tid);
	}
}

static int spawn_noted_thread(struct thread *t)
{
	if (spawn_thread(t))
		return -1;
	wait_until_noted(t->life);
	return 0;
}

/* Threads and a leader that ends before, after or with them, by exit or by exec. */
static void scene_group(void)
{
	static struct thread t[2];
	uint32_t i, how = roll(4);
	pid_t pid = spawn(KIND_PROCESS, &i);

	if (!pid) {
		memset(t, 0, sizeof(t));
		t[0].sleep_ns = how == 0 ? 5000 * MS : roll(2000) * 1000ull;
		t[0].last = how == 1 ? exec_from_thread : NULL;
		t[1].sleep_ns = 5000 * MS;
		if (spawn_noted_thread(t) || (how == 3 && spawn_noted_thread(t + 1)))
			leave();
		if (how == 1)
			for (;;)
				pause();
		if (how == 3) {
			pthread_join(t[0].handle, NULL); /* the other one ends by our exec */
			become_new(me.life, t[1].life);
		}
		if (how == 2) { /* a dead leader for a while */
			lives[me.life].death_lo = now();
			syscall(SYS_exit, 0);
		}
		leave();
	}
	if (pid > 0)
		reap(i, pid);
}

static void scene_exec(void)
{
	uint32_t i;
	pid_t pid = spawn(KIND_PROCESS, &i);

	if (!pid)
		become_new(i, i);
	if (pid > 0)
		reap(i, pid);
}

static void scene_session(void)
{
	uint32_t i;
	pid_t pid = spawn(KIND_PROCESS, &i);

	if (!pid) {
		own_session();
		if (roll(2))
			scene_fork();
		leave();
	}
	if (pid > 0)
		reap(i, pid);
}

/* A shell's pipeline: parent and first child both make the group, the parent moves the second into it. */
static void scene_pipeline(void)
{
	uint32_t i, k;
	pid_t first, second;

	first = spawn(KIND_PROCESS, &i);
	if (!first) {
		join_group(getpid());
		doze(roll(1500) * 1000ull);
		leave();
	}
	if (first < 0)
		return;
	move_to_group(i, first, first);
	second = spawn(KIND_PROCESS, &k);
	if (!second) {
		doze(roll(2000) * 1000ull);
		leave();
	}
	if (second > 0) {
		move_to_group(k, second, first);
		reap(k, second);
	}
	reap(i, first);
}

static void scene_orphans(void)
{
	uint32_t i, k, n;
	pid_t pid = spawn(KIND_PROCESS, &i);

	if (!pid) {
		for (n = 1 + roll(3); n; n--) {
			if (spawn(KIND_ORPHAN, &k))
				continue;
			if (!roll(4))
				own_session();
			if (roll(3))
				doze(roll(4000) * 1000ull);
			leave();
		}
		leave();
	}
	if (pid > 0)
		reap(i, pid);
}

/* Orphans with a subreaper nearer than the root; they lose it too if it exits first. */
static void scene_subreaper(void)
{
	uint32_t i, middle, k;
	pid_t child, pid = spawn(KIND_PROCESS, &i);
	int n;

	if (!pid) {
		prctl(PR_SET_CHILD_SUBREAPER, 1);
		me.heir = me.life;
		count(&book->subreapers);
		child = spawn(KIND_PROCESS, &middle);
		if (!child) {
			for (n = 1 + roll(3); n; n--) {
				if (spawn(KIND_ORPHAN, &k))
					continue;
				doze(roll(3000) * 1000ull);
				leave();
			}
			leave();
		}
		if (child > 0)
			reap(middle, child);
		if (roll(2))
			while (reap_any(&k) >= 0)
				;
		leave();
	}
	if (pid > 0)
		reap(i, pid);
}

/* A pid namespace whose init has children at its end, dead or alive: they end with it. `deep`: one more within. */
static void scene_namespace(int deep)
{
	uint32_t i, k[3];
	pid_t child[3], pid = spawn_with(KIND_INIT, &i, CLONE_NEWPID);
	int n;

	if (!pid) {
		for (n = 0; n < 3; n++) {
			child[n] = spawn(KIND_INNER, &k[n]);
			if (!child[n]) {
				if (!roll(3))
					own_session();
				doze(roll(2000) * 1000ull);
				leave();
			}
		}
		if (deep)
			scene_namespace(deep - 1);
		if (child[0] > 0)
			reap(k[0], child[0]);
		for (n = 1; n < 3; n++)
			if (child[n] > 0)
				wait_until_noted(k[n]);
		leave();
	}
	if (pid > 0)
		reap(i, pid);
}

static void scene_autoreap(void)
{
	uint32_t i, k[3];
	pid_t child[3], pid = spawn(KIND_PROCESS, &i);
	int n;

	if (!pid) {
		signal(SIGCHLD, SIG_IGN);
		for (n = 0; n < 3; n++) {
			child[n] = spawn(KIND_AUTOREAP, &k[n]);
			if (!child[n]) {
				doze(roll(300) * 1000ull);
				leave();
			}
		}
		for (n = 0; n < 3; n++)
			if (child[n] > 0) /* wait() would return ECHILD a moment before they are gone */
				watch_go(k[n], child[n], child[n]);
		leave();
	}
	if (pid > 0)
		reap(i, pid);
}

static void scene_kill(void)
{
	uint32_t i;
	pid_t pid = spawn(KIND_KILLED, &i);

	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		for (;;)
			pause();
	}
	if (pid < 0)
		return;
	if (roll(2))
		doze(roll(500) * 1000ull);
	lives[i].death_lo = now();
	kill(pid, SIGKILL);
	reap(i, pid);
}

static void scene_batch(void)
{
	uint32_t i[8];
	pid_t pid[8];
	int n;

	for (n = 0; n < 8; n++) {
		pid[n] = spawn(KIND_PROCESS, &i[n]);
		if (!pid[n]) {
			if (!roll(3)) /* a chain rather than a leaf */
				scene_fork();
			doze(roll(3000) * 1000ull);
			leave();
		}
	}
	for (n = 0; n < 8; n++)
		if (pid[n] > 0)
			reap(i[n], pid[n]);
}

static void scene_zombie(int clear)
{
	static struct {
		uint32_t life;
		pid_t pid;
		uint64_t due;
	} lying[ZOMBIES];
	siginfo_t info;
	int n = roll(ZOMBIES), all = clear ? ZOMBIES : 1;

	for (; all; all--, n = (n + 1) % ZOMBIES) {
		if (lying[n].pid > 0 && (clear || now() > lying[n].due)) {
			reap(lying[n].life, lying[n].pid);
			lying[n].pid = 0;
		}
		if (clear || lying[n].pid > 0)
			continue;
		lying[n].pid = spawn(KIND_PROCESS, &lying[n].life);
		if (!lying[n].pid)
			leave();
		if (lying[n].pid < 0)
			continue;
		waitid(P_PID, lying[n].pid, &info, WEXITED | WNOWAIT);
		lives[lying[n].life].zombie_hi = now();
		lying[n].due = now() + roll(40) * MS;
	}
}

static void scene(void)
{
	/* out of 32; cheap ones often, because the rate tears a scan */
	static void (*const rest[])(void) = {scene_group,    scene_exec, scene_session, scene_pipeline, scene_orphans,
					     scene_autoreap, scene_kill, scene_batch,	scene_orphans,	scene_batch};
	uint32_t r = roll(32);

	if (!roll(40)) /* slow: the kernel takes its time to end a namespace */
		scene_namespace(roll(2));
	else if (!roll(20))
		scene_subreaper();
	else if (r < 7)
		scene_fork();
	else if (r < 15)
		scene_vfork();
	else if (r < 19)
		scene_threads();
	else if (r < 22)
		scene_zombie(0);
	else
		rest[r - 22]();
}

static uint32_t taken(void)
{
	return atomic_load((_Atomic uint32_t *)&book->taken);
}

/* rate: lives per second of the whole storm, 0 for as many as possible. */
static void work(uint32_t rate)
{
	uint64_t begun = now();
	uint32_t base = taken();

	while (!*(volatile uint64_t *)&book->stop_ns && taken() + 4096 < book->capacity) {
		if (rate && taken() - base > rate * ((now() - begun) / 1000000000.0))
			doze(MS);
		else
			scene();
	}
	scene_zombie(1);
	atomic_fetch_sub((_Atomic uint32_t *)&book->workers, 1);
	leave();
}

#endif
