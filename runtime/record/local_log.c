/* The thread of the local logs: takes finished lines off a queue that is bounded per logger and in bytes. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "base/clock.h"
#include "base/diag.h"
#include "base/file.h"
#include "base/loop.h"
#include "base/pulse.h"
#include "record/internal.h"

#define BOUND_BYTES (64u * 1024 * 1024)

struct line {
	struct tr_mail mail; /* first use: back to the worker whose outbox waits */
	struct line *next;
	struct tr_local_file *file;
	struct tr_blob *bytes;
	struct tr_outbox *outbox; /* held until this line is written; NULL: nobody waits */
	int64_t at_ns;            /* monotonic, when it was handed over */
	enum tr_event_type type;
};

struct tr_local_file {
	struct tr_local_file *next;
	struct tr_local_logs *logs;
	struct tr_segments *series[TR_EVENT_TYPES]; /* by type; several types may share one */
	char *header[TR_EVENT_TYPES];
	uint32_t bound;  /* lines */
	uint32_t queued; /* under the lock: handed over and not yet written */
	struct tr_metric *full, *latency, *lost;
};

struct tr_local_logs {
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t wake;
	struct line *first, *last;
	size_t bytes, bound_bytes; /* queued and not yet written */
	bool stop, busy, ticked;   /* busy: a hold is taken while lines are queued */
	struct tr_local_file *files;
	_Atomic int64_t next_ns; /* monotonic: when a segment wants a turn; INT64_MAX: never */
};

/* --- the thread ----------------------------------------------------------------------------------------------- */

static void
released(struct tr_mail *mail)
{
	struct line *line = tr_container_of(mail, struct line, mail);
	struct tr_outbox *outbox = line->outbox;

	tr_metric_observe_ns(line->file->latency, tr_mono_ns() - line->at_ns);
	free(line);
	tr_outbox_release(outbox);
}

static void
write_lines(struct tr_local_logs *logs, struct line *line)
{
	while (line != NULL) {
		struct line *next = line->next;
		struct tr_local_file *file = line->file;
		size_t len = line->bytes->len;

		tr_segments_write(file->series[line->type], (struct tr_str){line->bytes->data, len},
			file->header[line->type], line->at_ns);
		tr_blob_unref(line->bytes);
		pthread_mutex_lock(&logs->lock);
		file->queued--;
		logs->bytes -= len;
		pthread_mutex_unlock(&logs->lock);
		if (line->outbox != NULL) {
			line->mail.fn = released;
			tr_loop_post(line->outbox->change.loop, &line->mail);
		} else {
			free(line);
		}
		line = next;
	}
}

static struct tr_local_file *
next_file(struct tr_local_logs *logs, const struct tr_local_file *after)
{
	struct tr_local_file *file;

	pthread_mutex_lock(&logs->lock); /* loggers may still be added */
	file = after != NULL ? after->next : logs->files;
	pthread_mutex_unlock(&logs->lock);
	return file;
}

static void
turn(struct tr_local_logs *logs)
{
	int64_t now_ns = tr_mono_ns(), next_ns = INT64_MAX;

	for (struct tr_local_file *file = next_file(logs, NULL); file != NULL; file = next_file(logs, file)) {
		for (int type = 0; type < TR_EVENT_TYPES;
			type++) { /* a shared series is visited again, which does nothing */
			tr_segments_turn(file->series[type], now_ns);
			next_ns = tr_min_i64(next_ns, tr_segments_next_ns(file->series[type]));
		}
	}
	atomic_store_explicit(&logs->next_ns, next_ns, memory_order_relaxed);
}

/* With the lock held: until there is something to do. A virtual clock's time comes by tr_local_logs_tick(). */
static void
sleep_locked(struct tr_local_logs *logs)
{
	int64_t next_ns = atomic_load_explicit(&logs->next_ns, memory_order_relaxed);

	if (next_ns == INT64_MAX || tr_clock_is_virtual()) {
		pthread_cond_wait(&logs->wake, &logs->lock);
	} else {
		struct timespec until = {next_ns / TR_NS_PER_S, next_ns % TR_NS_PER_S};

		if (pthread_cond_timedwait(&logs->wake, &logs->lock, &until) == ETIMEDOUT)
			logs->ticked = true;
	}
}

static void *
run(void *arg)
{
	struct tr_local_logs *logs = arg;
	struct tr_pulse pulse;

	pthread_setname_np(pthread_self(), "local-logs");
	tr_pulse_enter(&pulse, "the local logs' thread", "has been at one operation on the disk");
	pthread_mutex_lock(&logs->lock);
	for (;;) {
		struct line *lines = logs->first;

		tr_pulse_work();
		if (lines != NULL || logs->ticked) {
			logs->first = logs->last = NULL;
			logs->ticked = false;
			pthread_mutex_unlock(&logs->lock);
			write_lines(logs, lines);
			turn(logs);
			pthread_mutex_lock(&logs->lock);
			continue;
		}
		if (logs->busy) {
			logs->busy = false;
			tr_hold_drop();
		}
		if (logs->stop)
			break;
		tr_pulse_rest();
		sleep_locked(logs);
	}
	pthread_mutex_unlock(&logs->lock);
	tr_pulse_leave(&pulse);
	return NULL;
}

/* --- set-up ---------------------------------------------------------------------------------------------------------
 */

int
tr_local_logs_new(struct tr_local_logs **out)
{
	struct tr_local_logs *logs = calloc(1, sizeof *logs);
	pthread_condattr_t attr;

	*out = NULL;
	if (logs == NULL)
		return TR_ENOMEM;
	logs->bound_bytes = BOUND_BYTES;
	atomic_init(&logs->next_ns, INT64_MAX);
	pthread_mutex_init(&logs->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&logs->wake, &attr);
	pthread_condattr_destroy(&attr);
	if (pthread_create(&logs->thread, NULL, run, logs) != 0) {
		pthread_cond_destroy(&logs->wake);
		pthread_mutex_destroy(&logs->lock);
		free(logs);
		return TR_ENOMEM;
	}
	*out = logs;
	return TR_OK;
}

static void
file_free(struct tr_local_file *file)
{
	for (int type = 0; type < TR_EVENT_TYPES; type++) {
		struct tr_segments *series = file->series[type];

		free(file->header[type]);
		for (int other = type; other < TR_EVENT_TYPES; other++)
			if (file->series[other] == series)
				file->series[other] = NULL;
		tr_segments_free(series);
	}
	tr_metric_unref(file->full);
	tr_metric_unref(file->latency);
	tr_metric_unref(file->lost);
	free(file);
}

void
tr_local_logs_free(struct tr_local_logs *logs)
{
	if (logs == NULL)
		return;
	pthread_mutex_lock(&logs->lock);
	logs->stop = true;
	pthread_cond_signal(&logs->wake);
	pthread_mutex_unlock(&logs->lock);
	tr_pulse_join(logs->thread);
	while (logs->files != NULL) {
		struct tr_local_file *file = logs->files;

		logs->files = file->next;
		file_free(file);
	}
	pthread_cond_destroy(&logs->wake);
	pthread_mutex_destroy(&logs->lock);
	free(logs);
}

static int
make_series(struct tr_local_file *file, const struct tr_logger_config *config, const char *label,
	enum tr_event_type type, char **error)
{
	const struct tr_per_record *rule = &config->per_record[type];
	const char *dir = rule->log_dir != NULL ? rule->log_dir : config->log_dir;
	struct tr_segments_config segments = {dir, rule->suffix, config->max_file_size, config->max_segment_duration_ns,
		config->compression_level, label, file->lost};
	int err;

	for (int other = 0; other < (int)type; other++) {
		if (tr_segments_are(file->series[other], dir, rule->suffix)) {
			file->series[type] = file->series[other];
			return TR_OK;
		}
	}
	err = tr_file_mkdirs(dir, 0755);
	if (err != 0) {
		if (error != NULL && *error == NULL && asprintf(error, "log_dir %s: %s", dir, strerror(-err)) < 0)
			*error = NULL;
		return TR_EIO;
	}
	tr_segments_mark_old(dir); /* of earlier runs: nobody writes to them any more */
	return tr_segments_new(&segments, &file->series[type]);
}

int
tr_local_logs_add(struct tr_local_logs *logs, const struct tr_logger_config *config, const char *label,
	struct tr_local_file **out, char **error)
{
	struct tr_local_file *file = calloc(1, sizeof *file), **end = &logs->files;
	int err = TR_OK;

	*out = NULL;
	if (file == NULL)
		return TR_ENOMEM;
	file->logs = logs;
	file->bound = config->back_pressure > 0 ? config->back_pressure : 1;
	file->full = tr_metric_get(TR_COUNTER, "log_submit_full",
		"submissions of a record that found the logger's queue full", "logger", label, NULL);
	file->latency = tr_metric_get(TR_HISTOGRAM, "log_submit_latency",
		"seconds that full queues held up submissions", "logger", label, NULL);
	file->lost = tr_metric_get(TR_COUNTER, "tailrace_log_records_lost_total",
		"records that a logger could not write or store", "logger", label, NULL);
	for (int type = 0; err == TR_OK && type < TR_EVENT_TYPES; type++) {
		const char *header = config->per_record[type].segment_header;

		err = make_series(file, config, label, (enum tr_event_type)type, error);
		if (err == TR_OK && header != NULL) {
			file->header[type] = strdup(header);
			err = file->header[type] != NULL ? TR_OK : TR_ENOMEM;
		}
	}
	if (err != TR_OK) {
		file_free(file);
		return err;
	}
	pthread_mutex_lock(&logs->lock); /* the thread may be in a turn over an earlier logger's files */
	while (*end != NULL)
		end = &(*end)->next;
	*end = file;
	pthread_mutex_unlock(&logs->lock);
	*out = file;
	return TR_OK;
}

void
tr_local_logs_set_bound(struct tr_local_logs *logs, size_t bytes)
{
	pthread_mutex_lock(&logs->lock);
	logs->bound_bytes = bytes;
	pthread_mutex_unlock(&logs->lock);
}

/* --- any thread
 * --------------------------------------------------------------------------------------------------------- */

void
tr_local_file_write(
	struct tr_local_file *file, enum tr_event_type type, struct tr_blob *bytes, struct tr_outbox *outbox)
{
	struct tr_local_logs *logs = file->logs;
	struct line *line = calloc(1, sizeof *line);

	if (line == NULL) {
		tr_metric_add(file->lost, 1);
		tr_log(TR_LEVEL_ERROR, "record", "local log: out of memory, a record is lost");
		return;
	}
	line->file = file;
	line->type = type;
	line->bytes = tr_blob_ref(bytes);
	line->at_ns = tr_mono_ns();
	pthread_mutex_lock(&logs->lock);
	if (file->queued >= file->bound || logs->bytes >= logs->bound_bytes) {
		/* The line is in the queue all the same, so that order is kept; whoever made it waits until it is
		 * written. */
		line->outbox = outbox;
		tr_outbox_hold(outbox);
		tr_metric_add(file->full, 1);
	}
	file->queued++;
	logs->bytes += bytes->len;
	if (logs->last != NULL)
		logs->last->next = line;
	else
		logs->first = line;
	logs->last = line;
	if (!logs->busy) { /* virtual time must not jump over the writing */
		logs->busy = true;
		tr_hold_take();
		pthread_cond_signal(&logs->wake);
	}
	pthread_mutex_unlock(&logs->lock);
}

void
tr_local_logs_tick(struct tr_local_logs *logs)
{
	if (tr_mono_ns() < atomic_load_explicit(&logs->next_ns, memory_order_relaxed))
		return;
	pthread_mutex_lock(&logs->lock);
	logs->ticked = true;
	if (!logs->busy) {
		logs->busy = true;
		tr_hold_take();
		pthread_cond_signal(&logs->wake);
	}
	pthread_mutex_unlock(&logs->lock);
}
