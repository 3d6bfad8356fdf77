/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A program that takes up some state, waits for a file named `go`, and tells the state again: statekeeper MODE. It writes the state to
 * the file `before`, makes the file `ready`, and after `go` writes it to `after`. A reader compares the two.
 */
#include "statekeeper.h"

FILE *out;
pthread_barrier_t ready, told;

void tell(const char *format, ...)
{
	va_list list;

	va_start(list, format);
	vfprintf(out, format, list);
	va_end(list);
	fputc('\n', out);
}

_Noreturn void die(const char *what)
{
	perror(what);
	_exit(1);
}

long must(long answer, const char *what)
{
	if (answer < 0)
		die(what);
	return answer;
}

/* Wait until the file exists; no call that could be interrupted lasts. */
void await(const char *name)
{
	for (int n = 0; n < PATIENCE && access(name, F_OK); n++)
		usleep(10000);
}

void make(const char *name)
{
	close(must(open(name, O_CREAT | O_WRONLY, 0666), name));
}

/* Write what `facts` tells to a file, which appears when it is whole. */
void tell_to(const char *name, void (*facts)(void))
{
	char unfinished[64];

	snprintf(unfinished, sizeof(unfinished), "%s.unfinished", name);
	out = fopen(unfinished, "w");
	if (!out)
		die(unfinished);
	facts();
	fclose(out);
	must(rename(unfinished, name), name);
}

void before_and_after(void (*facts)(void))
{
	tell_to("before", facts);
	make("ready");
	await("go");
	tell_to("after", facts);
}

void lines_of(const char *path, const char *const *names)
{
	char line[512];
	FILE *file = fopen(path, "r");

	if (!file)
		die(path);
	while (fgets(line, sizeof(line), file))
		for (const char *const *name = names; *name; name++)
			if (!strncmp(line, *name, strlen(*name)))
				fputs(line, out);
	fclose(file);
}

int main(int count, char **words)
{
	static const struct {
		const char *name;
		void (*run)(void);
	} modes[] = {
#if defined(__x86_64__)
		{"registers", registers},
		{"sequence", sequence},
#endif
		{"process", process},
		{"rooted", rooted},
		{"sleeping", sleeping},
		{"capabilities", capabilities},
		{"signals", signals},
		{"handler", within_handler},
		{"disarming", within_disarming_handler},
		{"calls", calls},
		{"filters", filters},
		{"filters-apart", filters_apart},
		{"strict", strict},
		{"timers", timers},
		{"robust", robust},
		{"family", family},
	};

	for (size_t n = 0; count == 2 && n < sizeof(modes) / sizeof(*modes); n++)
		if (!strcmp(words[1], modes[n].name)) {
			modes[n].run();
			make("done");
			for (;;)
				pause();
		}
	return 2;
}
