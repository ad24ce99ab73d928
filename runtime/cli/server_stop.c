/* The stop: refuse intake; let transactions that have their data end; take nothing new; let sends end, then cancel,
 * naming each; shutdown_logging; the rest is tr_server_free(). One deadline for all of it. */
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/diag.h"
#include "cli/server_internal.h"

#define POLL_NS (5 * TR_NS_PER_MS)
#define TASKS_MAX 20 /* of a worker in a report */

static void
log_lines(struct tr_buf *text)
{
	for (char *line = text->data, *end; line != NULL && line < text->data + text->len; line = end + 1) {
		end = memchr(line, '\n', (size_t)(text->data + text->len - line));
		if (end == NULL)
			end = text->data + text->len;
		if (end > line)
			tr_log(TR_LEVEL_WARN, "report", "still busy: %.*s", (int)(end - line), line);
	}
}

/* As "%s", which the bound of lines a second counts by their text: TASKS_MAX is the bound here. */
static void
report_task(void *arg, struct tr_str text)
{
	struct tr_buf line = {0};

	while (text.len > 0 && text.data[text.len - 1] == '\n')
		text.len--;
	tr_buf_addf(&line, "worker %u: ", *(uint32_t *)arg);
	tr_buf_add_str(&line, text);
	tr_buf_addc(&line, '\0');
	tr_log(TR_LEVEL_WARN, "report", "%s", line.failed ? "out of memory" : line.data);
	tr_buf_free(&line);
}

/* On the worker's thread. Sessions that wait for work are not busy. */
static void
report_tasks(uint32_t index, struct tr_worker_parts *parts)
{
	uint32_t count = tr_host_hang_report(parts->host, TASKS_MAX, report_task, &index);

	if (count > TASKS_MAX)
		tr_log(TR_LEVEL_WARN, "report", "worker %u: and %u more", index, count - TASKS_MAX);
	else if (count == 0)
		tr_log(TR_LEVEL_INFO, "report", "worker %u: nothing is under way", index);
}

static void
report_arrived(struct tr_mail *mail)
{
	struct tr_worker_parts *parts = tr_container_of(mail, struct tr_worker_parts, report_mail);

	atomic_store(&parts->report_posted, false);
	report_tasks(parts->index, parts);
}

void
tr_server_report(struct tr_server *server)
{
	struct tr_buf text = {0};

	if (server->engine != NULL)
		tr_engine_report(server->engine, &text);
	log_lines(&text);
	tr_buf_free(&text);
	for (uint32_t i = 1; i < server->workers; i++) {
		struct tr_worker_parts *parts = &server->worker[i];

		/* the mail may wait for one that is stuck: the watchdog tells about that */
		if (!parts->running || atomic_exchange(&parts->report_posted, true))
			continue;
		parts->report_mail.fn = report_arrived;
		tr_loop_post(parts->loop, &parts->report_mail);
	}
	report_tasks(0, &server->worker[0]);
}

static void
finish(struct tr_server *server)
{
	server->stopped = true;
	if (!server->borrowed)
		tr_loop_stop(server->worker[0].loop);
	if (server->on_stopped != NULL)
		server->on_stopped(server->on_stopped_arg);
}

static void
logging_ended(void *arg, const struct tr_task_result *result)
{
	if (result->status != TR_OK)
		tr_log(TR_LEVEL_ERROR, "stop", "shutdown_logging: %s", result->text);
	finish(arg);
}

static void
engine_stopped(void *arg)
{
	struct tr_server *server = arg;
	int64_t left_ns = tr_max_i64(server->stop_at_ns - tr_mono_ns(), TR_NS_PER_S);
	struct tr_task_call call = {.end = logging_ended, .end_arg = server, .deadline_ns = left_ns};

	if (server->stopped)
		return;
	if (tr_event_fire(server->worker[0].host, "shutdown_logging", &call, NULL) != TR_OK) {
		tr_log(TR_LEVEL_ERROR, "stop", "shutdown_logging: out of memory, the handler was not asked");
		finish(server);
	}
}

static bool
any_busy(struct tr_server *server)
{
	for (struct tr_run_part *part = server->run.parts; part != NULL; part = part->next) {
		if (part->busy(part))
			return true;
	}
	return false;
}

static void
wait_transactions(struct tr_timer *timer)
{
	struct tr_server *server = tr_container_of(timer, struct tr_server, poll);
	int64_t now_ns = tr_mono_ns();

	if (any_busy(server)) {
		if (now_ns < server->stop_at_ns && !server->skipped) {
			tr_timer_start(tr_loop_wheel(server->worker[0].loop), timer, POLL_NS, wait_transactions);
			return;
		}
		if (!server->skipped)
			tr_server_report(server);
		for (struct tr_run_part *part = server->run.parts; part != NULL; part = part->next) {
			if (!part->busy(part))
				continue;
			tr_log(TR_LEVEL_WARN, "stop", "still busy: %s; its transactions are ended without an answer",
				part->name);
			part->abort(part);
		}
	}
	tr_engine_stop(server->engine, server->skipped ? now_ns : server->stop_at_ns, engine_stopped, server);
}

void
tr_server_stop(struct tr_server *server, int64_t deadline_ns)
{
	if (server->stopping) {
		if (!server->skipped) {
			tr_log(TR_LEVEL_WARN, "stop", "asked again: what still runs is cut off, then the last commit");
			server->skipped = true;
			tr_server_report(server);
			if (!tr_timer_running(&server->poll)) /* else the engine is told in a moment */
				tr_engine_stop(server->engine, tr_mono_ns(), engine_stopped, server);
		}
		return;
	}
	server->stopping = true;
	tr_shaping_close(server->shaping);
	server->stop_at_ns = tr_mono_ns() + deadline_ns;
	tr_log(TR_LEVEL_INFO, "stop", "stopping, at most %.1f s", (double)deadline_ns / 1e9);
	for (struct tr_run_part *part = server->run.parts; part != NULL; part = part->next)
		part->stop(part);
	tr_timer_start(tr_loop_wheel(server->worker[0].loop), &server->poll, 0, wait_transactions);
}

void
tr_server_on_stopped(struct tr_server *server, void (*fn)(void *arg), void *arg)
{
	server->on_stopped = fn;
	server->on_stopped_arg = arg;
}

bool
tr_server_stopped(const struct tr_server *server)
{
	return server->stopped;
}

void
tr_server_run(struct tr_server *server)
{
	tr_loop_enter(server->worker[0].loop);
	tr_loop_run(server->worker[0].loop);
}

static void
stop_worker(struct tr_mail *mail)
{
	tr_loop_stop(tr_container_of(mail, struct tr_worker_parts, stop_mail)->loop);
}

void
tr_server_stop_workers(struct tr_server *server)
{
	for (uint32_t i = 1; i < server->workers; i++) {
		struct tr_worker_parts *parts = &server->worker[i];
		if (!parts->running)
			continue;
		parts->stop_mail.fn = stop_worker;
		tr_loop_post(parts->loop, &parts->stop_mail);
		tr_pulse_join(parts->thread);
		parts->running = false;
	}
}
