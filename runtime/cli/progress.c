#include "cli/progress.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <unistd.h>

enum { BAR_COLUMNS = 24 };

int
tr_terminal_columns(int fd)
{
	struct winsize size;

	if (!isatty(fd))
		return 0;
	if (ioctl(fd, TIOCGWINSZ, &size) == 0 && size.ws_col > 0)
		return size.ws_col;
	return 80;
}

const char *
tr_grouped(int64_t value)
{
	static char texts[8][32];
	static unsigned next;
	char *end = texts[next++ % 8] + 31;
	char *at = end;
	uint64_t rest = value < 0 ? 0 - (uint64_t)value : (uint64_t)value;
	int digits = 0;

	*at = '\0';
	do {
		if (digits > 0 && digits % 3 == 0)
			*--at = ',';
		*--at = (char)('0' + rest % 10);
		rest /= 10;
		digits++;
	} while (rest > 0);
	if (value < 0)
		*--at = '-';
	return at;
}

void
tr_progress_init(struct tr_progress *progress, bool enabled, const char *unit, int64_t total)
{
	*progress = (struct tr_progress){.enabled = enabled, .unit = unit, .total = total};
	progress->terminal = isatty(STDERR_FILENO);
	progress->interval_ns = progress->terminal ? 200 * TR_NS_PER_MS : 5 * TR_NS_PER_S;
}

static void
draw(struct tr_progress *progress, int64_t done, const char *detail)
{
	char line[256];
	char bar[BAR_COLUMNS + 1];
	int len = 0;

	if (progress->total > 0) {
		double part = (double)done / (double)progress->total;
		int full = (int)((part > 1 ? 1 : part) * BAR_COLUMNS);

		memset(bar, '.', BAR_COLUMNS);
		memset(bar, '#', (size_t)full);
		bar[BAR_COLUMNS] = '\0';
		len = snprintf(line, sizeof line, "[%s] %3.0f%% %s/%s %s  %s/s", bar, 100 * (part > 1 ? 1 : part),
			tr_grouped(done), tr_grouped(progress->total), progress->unit,
			tr_grouped((int64_t)progress->rate));
		if (progress->rate >= 1 && done < progress->total && len < (int)sizeof line) {
			int64_t left_s = (int64_t)((double)(progress->total - done) / progress->rate);

			len += snprintf(line + len, sizeof line - (size_t)len, "  %d:%02d left", (int)(left_s / 60),
				(int)(left_s % 60));
		}
	} else {
		len = snprintf(line, sizeof line, "%s %s  %s/s", tr_grouped(done), progress->unit,
			tr_grouped((int64_t)progress->rate));
	}
	if (detail != NULL && len < (int)sizeof line)
		snprintf(line + len, sizeof line - (size_t)len, "  %s", detail);
	if (progress->terminal) {
		int columns = tr_terminal_columns(STDERR_FILENO);

		fprintf(stderr, "\r%.*s\033[K", columns > 1 ? columns - 1 : 79, line);
	} else {
		fprintf(stderr, "%s\n", line);
	}
	fflush(stderr);
	progress->drawn = true;
}

void
tr_progress_update(struct tr_progress *progress, int64_t now_ns, int64_t done, const char *detail)
{
	if (!progress->enabled)
		return;
	if (progress->last_ns == 0) {
		progress->start_ns = progress->last_ns = now_ns;
		return;
	}
	int64_t passed_ns = now_ns - progress->last_ns;

	if (passed_ns < progress->interval_ns)
		return;
	double rate = (double)(done - progress->last_done) * 1e9 / (double)passed_ns;

	progress->rate = progress->terminal && progress->rate > 0 ? 0.7 * progress->rate + 0.3 * rate : rate;
	progress->last_ns = now_ns;
	progress->last_done = done;
	draw(progress, done, detail);
}

void
tr_progress_clear(struct tr_progress *progress)
{
	if (!progress->enabled || !progress->terminal || !progress->drawn)
		return;
	fputs("\r\033[K", stderr);
	fflush(stderr);
	progress->drawn = false;
}

void
tr_progress_finish(struct tr_progress *progress, int64_t now_ns, int64_t done, const char *detail)
{
	if (!progress->enabled)
		return;
	if (progress->start_ns != 0 && now_ns > progress->start_ns)
		progress->rate = (double)done * 1e9 / (double)(now_ns - progress->start_ns);
	draw(progress, done, detail);
	if (progress->terminal) {
		fputc('\n', stderr);
		fflush(stderr);
	}
	progress->enabled = false;
}

double
tr_cpu_s(void)
{
	struct rusage usage;

	getrusage(RUSAGE_SELF, &usage);
	return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
	       (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}
