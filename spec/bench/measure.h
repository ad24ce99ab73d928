/* What a bench program measures of its own process. CPU time counts worked time, not moments, so it does not come from
 * the runtime's clock. */
#ifndef TR_BENCH_MEASURE_H
#define TR_BENCH_MEASURE_H

#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

/* User and system time of all threads, microseconds. */
static inline double
measure_cpu_us(void)
{
	struct rusage use;

	getrusage(RUSAGE_SELF, &use);
	return (double)(use.ru_utime.tv_sec + use.ru_stime.tv_sec) * 1e6 +
	       (double)(use.ru_utime.tv_usec + use.ru_stime.tv_usec);
}

/* Resident bytes of the process. */
static inline double
measure_rss(void)
{
	long pages = 0, resident = 0;
	FILE *file = fopen("/proc/self/statm", "r");

	if (file == NULL)
		return 0;
	if (fscanf(file, "%ld %ld", &pages, &resident) != 2)
		resident = 0;
	fclose(file);
	return (double)resident * (double)sysconf(_SC_PAGESIZE);
}

enum { MEASURE_THREADS = 64 };
struct measure_threads {
	int count;
	struct {
		int tid;
		char name[16]; /* as the kernel has it; threads that have none of their own bear the program's */
		double us;     /* run time since the thread began */
	} thread[MEASURE_THREADS];
};

/* Run time of each thread that is alive, from its schedstat (exact, not by ticks). */
static inline void
measure_threads(struct measure_threads *out)
{
	DIR *dir = opendir("/proc/self/task");
	struct dirent *entry;

	out->count = 0;
	while (dir != NULL && (entry = readdir(dir)) != NULL && out->count < MEASURE_THREADS) {
		char path[64];
		unsigned long long ns = 0;
		int tid = atoi(entry->d_name);
		FILE *file;

		if (tid == 0)
			continue;
		snprintf(path, sizeof path, "/proc/self/task/%d/schedstat", tid);
		file = fopen(path, "r");
		if (file == NULL)
			continue;
		if (fscanf(file, "%llu", &ns) != 1)
			ns = 0;
		fclose(file);
		out->thread[out->count].tid = tid;
		out->thread[out->count].us = (double)ns / 1e3;
		out->thread[out->count].name[0] = '\0';
		snprintf(path, sizeof path, "/proc/self/task/%d/comm", tid);
		file = fopen(path, "r");
		if (file != NULL) {
			if (fscanf(file, "%15[^\n]", out->thread[out->count].name) != 1)
				out->thread[out->count].name[0] = '\0';
			fclose(file);
		}
		out->count++;
	}
	if (dir != NULL)
		closedir(dir);
}

/* Run time of the thread `tid` at an earlier moment; 0 if it was not there. */
static inline double
measure_thread_us(const struct measure_threads *threads, int tid)
{
	for (int i = 0; i < threads->count; i++)
		if (threads->thread[i].tid == tid)
			return threads->thread[i].us;
	return 0;
}

#endif
