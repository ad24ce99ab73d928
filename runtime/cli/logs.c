/* `tailrace logs DIR`: prints the lines of local log segments (runtime/record/segment.c), also of those that still
 * grow, and remembers how far it came. A segment that cannot be written any more is finished. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zstd.h>

#include "base/buf.h"
#include "cli/args.h"
#include "cli/cli.h"

#define CHUNK 131072
#define LINE_MAX_BYTES (64u << 20) /* a longer one is damage */
#define LOOK_MS 1000               /* between two looks where the kernel does not tell */

struct segment {
	struct segment *next; /* in the order of the names */
	char *name;
	int fd;              /* -1: not open */
	ZSTD_DCtx *zstd;     /* while it is open */
	uint64_t lines;      /* read so far */
	uint64_t skip;       /* of these, printed by an earlier run */
	struct tr_buf begun; /* a line without its end */
	bool done;
};

struct logs {
	const char *dir, *pattern, *checkpoint;
	bool follow, newest, escape;
	struct segment *segments;
	int dirfd, notify; /* notify -1: not to be had */
	bool changed;      /* since the last checkpoint */
	bool damaged, closed;
	int status; /* of the process */
};

static volatile sig_atomic_t stopped;

static void
stop(int number)
{
	(void)number;
	stopped = 1;
}

/* --- segments ------------------------------------------------------------------------------------------------ */

static struct segment *
find(struct logs *logs, const char *name, bool add)
{
	struct segment **at = &logs->segments, *segment;

	while (*at != NULL && strcmp((*at)->name, name) < 0)
		at = &(*at)->next;
	if (*at != NULL && strcmp((*at)->name, name) == 0)
		return *at;
	segment = add ? calloc(1, sizeof *segment) : NULL;
	if (segment == NULL)
		return NULL;
	segment->name = strdup(name);
	if (segment->name == NULL) {
		free(segment);
		return NULL;
	}
	segment->fd = -1;
	segment->next = *at;
	*at = segment;
	return segment;
}

static void
close_segment(struct segment *segment)
{
	if (segment->fd >= 0)
		close(segment->fd);
	segment->fd = -1;
	ZSTD_freeDCtx(segment->zstd);
	segment->zstd = NULL;
	tr_buf_free(&segment->begun);
}

static bool
is_segment(const struct logs *logs, const char *name)
{
	struct stat info;

	return name[0] != '.' && strchr(name, '\n') == NULL && fnmatch(logs->pattern, name, 0) == 0 &&
	       fstatat(logs->dirfd, name, &info, 0) == 0 && S_ISREG(info.st_mode);
}

/* Adds the segments that are new in the directory. False without memory, or when it cannot be read. */
static bool
scan(struct logs *logs)
{
	DIR *dir = opendir(logs->dir);
	struct dirent *entry;
	bool ok = dir != NULL;

	while (ok && (entry = readdir(dir)) != NULL)
		if (is_segment(logs, entry->d_name))
			ok = find(logs, entry->d_name, true) != NULL;
	if (!ok) {
		fprintf(stderr, "tailrace logs: %s: %s\n", logs->dir, dir == NULL ? strerror(errno) : "out of memory");
		logs->status = dir == NULL ? TR_EXIT_NOINPUT : TR_EXIT_OSERR;
	}
	if (dir != NULL)
		closedir(dir);
	return ok;
}

/* --- lines ---------------------------------------------------------------------------------------------------- */

static void
print(struct logs *logs, const char *data, size_t len)
{
	bool ok = true;

	if (!logs->escape) {
		ok = fwrite(data, 1, len, stdout) == len;
	} else {
		for (size_t i = 0; ok && i < len; i++) {
			unsigned char c = (unsigned char)data[i];
			ok = (c < 0x20 && c != '\t') || c == 0x7f ? printf("\\x%02x", c) > 0 : putchar(c) != EOF;
		}
	}
	if (!ok || putchar('\n') == EOF)
		logs->closed = true;
}

static void
line(struct logs *logs, struct segment *segment, const char *data, size_t len)
{
	segment->lines++;
	logs->changed = true;
	if (segment->lines > segment->skip)
		print(logs, data, len);
}

static void
take(struct logs *logs, struct segment *segment, const char *data, size_t len)
{
	const char *end;

	while ((end = memchr(data, '\n', len)) != NULL) {
		size_t here = (size_t)(end - data);

		if (segment->begun.len > 0) {
			tr_buf_add(&segment->begun, data, here);
			line(logs, segment, segment->begun.data, segment->begun.len);
			tr_buf_clear(&segment->begun);
		} else {
			line(logs, segment, data, here);
		}
		data = end + 1;
		len -= here + 1;
	}
	tr_buf_add(&segment->begun, data, len);
}

static void
damage(struct logs *logs, struct segment *segment, const char *what)
{
	fprintf(stderr, "tailrace logs: %s/%s: damaged behind line %llu: %s\n", logs->dir, segment->name,
		(unsigned long long)segment->lines, what);
	logs->damaged = true;
	segment->done = true;
	tr_buf_clear(&segment->begun);
}

static void
decode(struct logs *logs, struct segment *segment, const char *data, size_t len)
{
	static char out[CHUNK]; /* one thread */
	ZSTD_inBuffer in = {data, len, 0};
	ZSTD_outBuffer to = {out, sizeof out, 0};

	do { /* a full output may mean that there is more inside */
		size_t left;

		to.pos = 0;
		left = ZSTD_decompressStream(segment->zstd, &to, &in);
		if (ZSTD_isError(left)) {
			damage(logs, segment, ZSTD_getErrorName(left));
			return;
		}
		take(logs, segment, out, to.pos);
		if (segment->begun.failed || segment->begun.len > LINE_MAX_BYTES) {
			damage(logs, segment, segment->begun.failed ? "out of memory" : "a line without an end");
			return;
		}
	} while ((in.pos < in.size || to.pos == to.size) && !logs->closed);
}

static bool
open_segment(struct logs *logs, struct segment *segment)
{
	if (segment->fd >= 0)
		return true;
	segment->fd = openat(logs->dirfd, segment->name, O_RDONLY | O_CLOEXEC);
	segment->zstd = segment->fd >= 0 ? ZSTD_createDCtx() : NULL;
	if (segment->zstd != NULL)
		return true;
	if (segment->fd >= 0 || errno != ENOENT) { /* one that was cleared away is no mistake */
		fprintf(stderr, "tailrace logs: %s/%s: %s\n", logs->dir, segment->name,
			segment->fd >= 0 ? "out of memory" : strerror(errno));
		logs->damaged = true;
	}
	close_segment(segment);
	segment->done = true;
	return false;
}

/* Prints what there is of a segment. */
static void
pump(struct logs *logs, struct segment *segment)
{
	static char in[CHUNK];
	struct stat info = {0};
	ssize_t got = 1;

	if (!open_segment(logs, segment))
		return;
	/* Asked before the last read: what was written before it was finished is read. */
	bool finished = fstat(segment->fd, &info) == 0 && (info.st_mode & 0222) == 0;

	while (got > 0 && !segment->done && !logs->closed && !stopped) {
		got = read(segment->fd, in, sizeof in);
		if (got > 0)
			decode(logs, segment, in, (size_t)got);
		else if (got < 0 && errno != EINTR)
			damage(logs, segment, strerror(errno));
	}
	if (got == 0 && finished) {
		if (segment->begun.len > 0)
			line(logs, segment, segment->begun.data, segment->begun.len);
		segment->done = true;
	}
	if (segment->done) {
		logs->changed = true;
		close_segment(segment);
	}
}

/* --- checkpoint ----------------------------------------------------------------------------------------------- */

/* Lines "done NAME" and "LINES NAME"; NULL: out of memory. */
static char *
checkpoint_path(const struct logs *logs, const char *suffix)
{
	char *path = NULL;

	return asprintf(&path, "%s/.%s%s", logs->dir, logs->checkpoint, suffix) < 0 ? NULL : path;
}

static void
load_checkpoint(struct logs *logs)
{
	char *path = checkpoint_path(logs, ""), *text = NULL;
	FILE *file = path != NULL ? fopen(path, "re") : NULL;
	size_t cap = 0;
	ssize_t len;

	while (file != NULL && (len = getline(&text, &cap, file)) > 0) {
		char *name = strchr(text, ' ');
		struct segment *segment;

		if (text[len - 1] != '\n' || name == NULL)
			continue; /* not whole */
		text[len - 1] = '\0';
		*name++ = '\0';
		segment = is_segment(logs, name) ? find(logs, name, true) : NULL;
		if (segment == NULL)
			continue;
		segment->done = strcmp(text, "done") == 0;
		segment->skip = segment->done ? 0 : strtoull(text, NULL, 10);
	}
	free(text);
	if (file != NULL)
		fclose(file);
	free(path);
}

static void
save_checkpoint(struct logs *logs)
{
	char *path = checkpoint_path(logs, ""), *fresh = checkpoint_path(logs, ".new");
	FILE *file = path != NULL && fresh != NULL ? fopen(fresh, "we") : NULL;
	bool ok = file != NULL;

	for (struct segment *segment = logs->segments; ok && segment != NULL; segment = segment->next) {
		uint64_t lines = segment->lines > segment->skip ? segment->lines : segment->skip;
		if (segment->done && faccessat(logs->dirfd, segment->name, F_OK, 0) != 0)
			continue; /* cleared away */
		ok = segment->done ? fprintf(file, "done %s\n", segment->name) > 0
				   : fprintf(file, "%llu %s\n", (unsigned long long)lines, segment->name) > 0;
	}
	if (file != NULL)
		ok = fclose(file) == 0 && ok;
	if (!ok || rename(fresh, path) != 0) {
		fprintf(stderr, "tailrace logs: the checkpoint %s cannot be written: %s\n", path ? path : "",
			strerror(errno));
		logs->status = TR_EXIT_IOERR;
	}
	free(path);
	free(fresh);
	logs->changed = false;
}

/* --- the loop --------------------------------------------------------------------------------------------------- */

/* What was printed has left this process; only then it counts. */
static void
settle(struct logs *logs)
{
	if (fflush(stdout) != 0)
		logs->closed = true;
	if (!logs->closed && logs->changed && logs->checkpoint != NULL)
		save_checkpoint(logs);
}

static void
wait_for_more(struct logs *logs)
{
	char events[4096];
	struct pollfd poll_fd = {logs->notify, POLLIN, 0};

	if (poll(&poll_fd, 1, LOOK_MS) > 0)
		while (read(logs->notify, events, sizeof events) > 0)
			;
}

static void
only_newest(struct logs *logs)
{
	for (struct segment *segment = logs->segments; segment != NULL; segment = segment->next)
		segment->done = segment->next != NULL;
}

static void
run(struct logs *logs)
{
	if (logs->checkpoint != NULL && !logs->newest)
		load_checkpoint(logs);
	for (bool first = true; scan(logs); first = false) {
		if (first && logs->newest)
			only_newest(logs);
		for (struct segment *segment = logs->segments; segment != NULL && !logs->closed && !stopped;
			segment = segment->next) {
			if (segment->done)
				continue;
			pump(logs, segment);
			if (segment->done)
				settle(logs);
		}
		settle(logs);
		if (!logs->follow || logs->closed || stopped || logs->status != TR_EXIT_OK)
			break;
		wait_for_more(logs);
	}
	if (logs->status == TR_EXIT_OK && logs->damaged)
		logs->status = TR_EXIT_DATAERR;
}

int
tr_cmd_logs(int argc, char **argv)
{
	struct logs logs = {.pattern = "*", .notify = -1};
	struct tr_arg_list rest = {0};
	const struct tr_arg options[] = {
		{"follow", NULL, TR_ARG_FLAG, &logs.follow, 0, 0, "go on with what is written from now on"},
		{"tail", NULL, TR_ARG_FLAG, &logs.newest, 0, 0,
			"begin with the newest segment, whatever the checkpoint says"},
		{"pattern", "GLOB", TR_ARG_TEXT, &logs.pattern, 0, 0, "names of segments; default *"},
		{"checkpoint", "NAME", TR_ARG_TEXT, &logs.checkpoint, 0, 0,
			"remember in DIR/.NAME what has been printed, and go on there the next time"},
		{NULL, NULL, 0, NULL, 0, 0, NULL},
	};
	const struct tr_args args = {
		"logs",
		"DIR [--follow] [OPTIONS]",
		"Prints the lines of the local log segments in a directory, in the order of their names, without "
		"compression.",
		options,
		"Exit status: 0, 65 a segment is damaged (the others were printed), 66 the directory cannot be read, "
		"74 the "
		"checkpoint\ncannot be written.",
		&rest,
	};
	struct sigaction action = {.sa_handler = stop};
	int status = tr_args_parse(&args, argc, argv);

	if (status == TR_ARGS_RUN && rest.count != 1)
		status = tr_args_error(&args, "one DIR is required");
	if (status == TR_ARGS_RUN && logs.checkpoint != NULL && strchr(logs.checkpoint, '/') != NULL)
		status = tr_args_error(
			&args, "--checkpoint %s: a name is expected, the file is in DIR", logs.checkpoint);
	if (status == TR_ARGS_RUN)
		logs.dir = rest.items[0];
	tr_arg_list_free(&rest);
	if (status != TR_ARGS_RUN)
		return status;
	sigemptyset(&action.sa_mask);
	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
	signal(SIGPIPE, SIG_IGN);
	logs.escape = isatty(STDOUT_FILENO);
	logs.dirfd = open(logs.dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (logs.follow) {
		logs.notify = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
		if (logs.notify >= 0)
			inotify_add_watch(logs.notify, logs.dir, IN_MODIFY | IN_CREATE | IN_ATTRIB | IN_MOVED_TO);
	}
	run(&logs);
	while (logs.segments != NULL) {
		struct segment *segment = logs.segments;
		logs.segments = segment->next;
		close_segment(segment);
		free(segment->name);
		free(segment);
	}
	if (logs.notify >= 0)
		close(logs.notify);
	if (logs.dirfd >= 0)
		close(logs.dirfd);
	return logs.status;
}
