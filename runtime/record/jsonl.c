#include "record/jsonl.h"

#include <pthread.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/work.h"

struct tr_jsonl_writer {
	int refs; /* in the loop's thread */
	struct tr_loop *loop;
	pthread_mutex_t mutex; /* guards segments: one line at a time */
	struct tr_segments *segments;
	struct tr_metric *errors;
	struct tr_timer timer; /* makes written lines visible, ends segments by age */
	bool turning;
};

struct turn_job {
	struct tr_work work;
	struct tr_jsonl_writer *writer;
	int64_t next_ns;
};

struct finish_job {
	struct tr_work work;
	struct tr_segments *segments;
};

static void
finish_run(struct tr_work *work)
{
	struct finish_job *job = tr_container_of(work, struct finish_job, work);

	tr_segments_free(job->segments);
	job->segments = NULL;
}

static void
finish_done(struct tr_work *work)
{
	struct finish_job *job = tr_container_of(work, struct finish_job, work);

	tr_segments_free(job->segments); /* NULL: done */
	free(job);
}

void
tr_jsonl_writer_unref(struct tr_jsonl_writer *writer)
{
	struct finish_job *job;

	if (writer == NULL || --writer->refs > 0)
		return;
	tr_timer_stop(tr_loop_wheel(writer->loop), &writer->timer);
	job = writer->segments != NULL ? malloc(sizeof *job) : NULL;
	if (job != NULL)
		job->segments = writer->segments;
	if (job == NULL || tr_work_start(writer->loop, &job->work, finish_run, finish_done) != TR_OK) {
		tr_segments_free(writer->segments);
		free(job);
	}
	pthread_mutex_destroy(&writer->mutex);
	free(writer);
}

static void turn_due(struct tr_timer *timer);

static void
arm(struct tr_jsonl_writer *writer, int64_t next_ns)
{
	int64_t now_ns = tr_mono_ns();

	if (next_ns == INT64_MAX || writer->turning)
		return;
	if (tr_timer_running(&writer->timer) && writer->timer.due_ns <= next_ns)
		return; /* lines that keep coming must not put it off */
	tr_timer_start(
		tr_loop_wheel(writer->loop), &writer->timer, tr_max_i64(next_ns - now_ns, TR_NS_PER_MS), turn_due);
}

static void
turn_run(struct tr_work *work)
{
	struct turn_job *job = tr_container_of(work, struct turn_job, work);

	pthread_mutex_lock(&job->writer->mutex);
	if (job->writer->segments != NULL) {
		tr_segments_turn(job->writer->segments, tr_mono_ns());
		job->next_ns = tr_segments_next_ns(job->writer->segments);
	}
	pthread_mutex_unlock(&job->writer->mutex);
}

static void
turn_done(struct tr_work *work)
{
	struct turn_job *job = tr_container_of(work, struct turn_job, work);

	job->writer->turning = false;
	if (!work->skipped)
		arm(job->writer, job->next_ns);
	tr_jsonl_writer_unref(job->writer);
	free(job);
}

static void
turn_due(struct tr_timer *timer)
{
	struct tr_jsonl_writer *writer = tr_container_of(timer, struct tr_jsonl_writer, timer);
	struct turn_job *job = calloc(1, sizeof *job);

	if (job == NULL)
		return; /* with the next line */
	job->writer = writer;
	job->next_ns = INT64_MAX;
	if (tr_work_start(writer->loop, &job->work, turn_run, turn_done) == TR_OK) {
		writer->refs++;
		writer->turning = true;
	} else {
		free(job);
	}
}

int
tr_jsonl_writer_new(struct tr_loop *loop, const struct tr_segments_config *config, struct tr_jsonl_writer **out)
{
	struct tr_segments_config series = *config;
	struct tr_jsonl_writer *writer = calloc(1, sizeof *writer);

	*out = NULL;
	if (writer == NULL)
		return TR_ENOMEM;
	writer->refs = 1;
	writer->loop = loop;
	writer->errors = tr_metric_get(TR_COUNTER, "tailrace_jsonl_lost_lines", "lines of kumo.jsonl that were lost",
		"log_dir", config->dir, NULL);
	series.errors = writer->errors;
	if (tr_segments_new(&series, &writer->segments) != TR_OK) {
		free(writer);
		return TR_ENOMEM;
	}
	pthread_mutex_init(&writer->mutex, NULL);
	*out = writer;
	return TR_OK;
}

struct tr_jsonl_writer *
tr_jsonl_writer_ref(struct tr_jsonl_writer *writer)
{
	writer->refs++;
	return writer;
}

/* line NULL: the end. */
static bool
add(struct tr_jsonl_writer *writer, const struct tr_str *line)
{
	int64_t before;
	bool lost;

	pthread_mutex_lock(&writer->mutex);
	before = atomic_load(&writer->errors->value);
	if (line == NULL) {
		tr_segments_free(writer->segments);
		writer->segments = NULL;
	} else if (writer->segments != NULL) {
		tr_segments_write(writer->segments, *line, NULL, tr_mono_ns());
	}
	lost = atomic_load(&writer->errors->value) != before;
	pthread_mutex_unlock(&writer->mutex);
	return !lost;
}

bool
tr_jsonl_writer_write(struct tr_jsonl_writer *writer, struct tr_str line)
{
	return add(writer, &line);
}

bool
tr_jsonl_writer_finish(struct tr_jsonl_writer *writer)
{
	return add(writer, NULL);
}

void
tr_jsonl_writer_show(struct tr_jsonl_writer *writer)
{
	arm(writer, tr_mono_ns() + TR_NS_PER_S);
}
