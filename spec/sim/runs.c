#include "runs.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define OUTPUT_MAX (1 << 20) /* of a run that is not traced */

static const char *const names[] = {"days", "steps", "starts", "kills", "cuts", "faults", "memory", "messages",
	"attempts", "crash", "answer", "wrong"};
enum { DAYS, STEPS, STARTS, KILLS, CUTS, FAULTS, MEMORY, MESSAGES, ATTEMPTS, CRASH, ANSWER, WRONG, NUMBERS };

struct result {
	double numbers[NUMBERS];
	char digest[17]; /* "": the run did not come to its end */
	int status;      /* of waitpid() */
	bool late;       /* it was killed */
	char *output;    /* malloc'ed */
};

static double
now_s(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

/* The last line: "result NAME=NUMBER ... digest=HEX". */
static void
read_result(struct result *result)
{
	const char *at = result->output, *line = NULL;

	for (at = strstr(at, "result days="); at != NULL; at = strstr(at + 1, "result days="))
		line = at;
	if (line == NULL)
		return;
	for (int i = 0; i < NUMBERS; i++) {
		char key[24];

		snprintf(key, sizeof key, "%s=", names[i]);
		at = strstr(line, key);
		if (at != NULL)
			result->numbers[i] = strtod(at + strlen(key), NULL);
	}
	at = strstr(line, "digest=");
	if (at != NULL)
		sscanf(at, "digest=%16s", result->digest);
}

/* Takes what the child writes until it ends or the time is over. */
static void
listen_to(int fd, pid_t child, double until_s, bool pass_on, struct result *result)
{
	size_t len = 0;

	for (;;) {
		struct pollfd poll_fd = {.fd = fd, .events = POLLIN};
		double left_s = until_s - now_s();
		char chunk[65536];
		ssize_t got;

		if (left_s <= 0 || poll(&poll_fd, 1, left_s > 3600 ? 3600000 : (int)(left_s * 1000) + 1) == 0) {
			if (left_s > 0)
				continue;
			result->late = true;
			kill(child, SIGABRT);
			break;
		}
		got = read(fd, chunk, sizeof chunk);
		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			break;
		if (pass_on)
			fwrite(chunk, 1, (size_t)got, stdout);
		if (len + (size_t)got > OUTPUT_MAX) { /* the end counts */
			memmove(result->output, result->output + OUTPUT_MAX / 2, len - OUTPUT_MAX / 2);
			len -= OUTPUT_MAX / 2;
		}
		memcpy(result->output + len, chunk, (size_t)got);
		len += (size_t)got;
		result->output[len] = '\0';
	}
}

static int
one_run(const struct sim_options *options, uint64_t seed, int (*run)(void *, uint64_t, double, bool), void *arg,
	struct result *result)
{
	int fds[2];
	pid_t child;

	*result = (struct result){.output = calloc(1, OUTPUT_MAX + 1)};
	fflush(NULL);
	if (result->output == NULL || pipe(fds) != 0)
		return -1;
	child = fork();
	if (child < 0) {
		close(fds[0]);
		close(fds[1]);
		return -1;
	}
	if (child == 0) {
		int status;

		close(fds[0]);
		dup2(fds[1], STDOUT_FILENO);
		dup2(fds[1], STDERR_FILENO);
		close(fds[1]);
		status = run(arg, seed, options->days, options->trace);
		fflush(NULL);
		exit(status);
	}
	close(fds[1]);
	listen_to(fds[0], child, now_s() + options->patience_s, options->trace, result);
	close(fds[0]);
	while (waitpid(child, &result->status, 0) < 0 && errno == EINTR)
		;
	read_result(result);
	return 0;
}

static bool
is_fine(const struct result *result)
{
	return WIFEXITED(result->status) && WEXITSTATUS(result->status) == 0 && result->digest[0] != '\0' &&
	       !result->late;
}

static void
tell(const struct sim_options *options, uint64_t seed, const struct result *result, const char *why)
{
	printf("FAILED seed %llu", (unsigned long long)seed);
	if (why != NULL)
		printf(": %s", why);
	else if (result->late)
		printf(": it did not end within %.0f s", options->patience_s);
	else if (WIFSIGNALED(result->status))
		printf(": died of signal %d", WTERMSIG(result->status));
	printf("\n");
	if (!options->trace) {
		size_t len = strlen(result->output);

		printf("%s", result->output + (len > 8000 ? len - 8000 : 0));
	}
	printf("again: %s --seed %llu --days %g --trace\n", options->program, (unsigned long long)seed, options->days);
	fflush(stdout);
}

int
sim_runs(const struct sim_options *options, int (*run)(void *, uint64_t, double, bool), void *arg)
{
	double sums[NUMBERS] = {0}, began_s = now_s(), took_s;
	char rate[48] = "";
	uint64_t done = 0, failures = 0;

	for (; done < options->runs; done++) {
		uint64_t seed = options->seed + done;
		struct result result, again = {.digest = ""};
		bool fine;

		if (options->real_s > 0 && now_s() - began_s >= options->real_s)
			break;
		if (one_run(options, seed, run, arg, &result) != 0) {
			perror("tailrace-sim");
			return 71;
		}
		fine = is_fine(&result);
		if (!fine)
			tell(options, seed, &result, NULL);
		if (fine && options->twice) {
			if (one_run(options, seed, run, arg, &again) != 0 || strcmp(result.digest, again.digest) != 0) {
				fine = false;
				tell(options, seed, &again, "the second time it is another run");
			}
			free(again.output);
		}
		failures += fine ? 0 : 1;
		for (int i = 0; i < NUMBERS; i++)
			sums[i] += result.numbers[i];
		if (options->verbose)
			printf("seed %llu: %.1f days, %.0f messages, %.0f kills, %.0f cuts, digest %s\n",
				(unsigned long long)seed, result.numbers[DAYS], result.numbers[MESSAGES],
				result.numbers[KILLS], result.numbers[CUTS], result.digest);
		free(result.output);
		fflush(stdout);
	}
	took_s = now_s() - began_s;
	if (!options->trace && took_s > 0) /* the real clock has no place in a trace that can be compared */
		snprintf(rate, sizeof rate, ", %.0f days a minute", sums[DAYS] / took_s * 60);
	printf("%llu runs from seed %llu, %.1f simulated days%s, %.0f starts, %.0f kills, %.0f power cuts, %.0f "
	       "faults, %.0f allocations failed, "
	       "%.0f messages, %.0f attempts, %.0f duplicates explained by a crash and %.0f by a lost answer, %llu "
	       "failures\n",
		(unsigned long long)done, (unsigned long long)options->seed, sums[DAYS], rate, sums[STARTS],
		sums[KILLS], sums[CUTS], sums[FAULTS], sums[MEMORY], sums[MESSAGES], sums[ATTEMPTS], sums[CRASH],
		sums[ANSWER], (unsigned long long)failures);
	return failures > 0 ? 1 : 0;
}
