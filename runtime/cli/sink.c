#include "cli/sink.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/diag.h"
#include "base/file.h"
#include "base/options.h"
#include "cli/args.h"
#include "cli/cli.h"

enum { ACCEPTS_A_TURN = 64 };
#define GRACE_NS (200 * TR_NS_PER_MS) /* after --until: time for clients to read their answer and say QUIT */

const char *const tr_sink_stage_names[TR_STAGES] = {"connect", "mail", "rcpt", "data", "dot"};

double
tr_sink_percent(struct tr_sink *sink)
{
	/* splitmix64 (public domain, Vigna): one state word, so that --seed repeats a run */
	uint64_t z = (sink->random += UINT64_C(0x9e3779b97f4a7c15));

	z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
	z ^= z >> 31;
	return (double)(z >> 11) * (100.0 / 9007199254740992.0);
}

int
tr_sink_choose(struct tr_sink *sink, const struct tr_sink_shares *shares, int other)
{
	if (shares->count == 0)
		return other;
	double point = tr_sink_percent(sink);

	for (int i = 0; i < shares->count; i++) {
		if (point < shares->share[i].percent)
			return shares->share[i].code;
		point -= shares->share[i].percent;
	}
	return other;
}

void
tr_sink_touch(struct tr_sink *sink)
{
	sink->last_ns = tr_mono_ns();
	if (sink->first_ns == 0)
		sink->first_ns = sink->last_ns;
}

static void
stop(struct tr_timer *timer)
{
	struct tr_sink *sink = tr_container_of(timer, struct tr_sink, grace);

	tr_loop_stop(sink->loop);
}

void
tr_sink_check_until(struct tr_sink *sink)
{
	if (sink->until == 0 || sink->ending || sink->records + sink->smtp_messages < sink->until)
		return;
	sink->ending = true;
	tr_timer_start(sink->wheel, &sink->grace, GRACE_NS, stop);
}

void
tr_sink_write_record(struct tr_sink *sink)
{
	if (sink->lines.len == 0)
		return;
	int rc = sink->lines.failed
			 ? -ENOMEM
			 : tr_file_write_all(sink->record_fd, sink->lines.data, sink->lines.len, sink->record_at);

	if (rc == 0) {
		sink->record_at += (off_t)sink->lines.len;
	} else {
		sink->record_failures++;
		tr_log(TR_LEVEL_ERROR, "sink", "cannot write the record file: %s", strerror(-rc));
	}
	if (sink->lines.failed || sink->lines.cap > 4 * 1024 * 1024)
		tr_buf_free(&sink->lines);
	else
		tr_buf_clear(&sink->lines);
}

bool
tr_sink_send(struct tr_sink *sink, int fd, struct tr_buf *out)
{
	struct tr_buf *from = &sink->reply;

	if (out->len > 0) { /* keeps the order */
		tr_buf_add(out, sink->reply.data, sink->reply.len);
		tr_buf_clear(&sink->reply);
		from = out;
	}
	if (from->failed)
		return false;
	while (from->len > 0) {
		ssize_t sent = send(fd, from->data, from->len, MSG_NOSIGNAL);

		if (sent >= 0) {
			if ((size_t)sent == from->len)
				tr_buf_clear(from);
			else
				tr_buf_consume(from, (size_t)sent);
		} else if (errno == EAGAIN || errno == EWOULDBLOCK) {
			break;
		} else if (errno != EINTR) {
			tr_buf_clear(&sink->reply);
			return false;
		}
	}
	if (from != out && from->len > 0) {
		tr_buf_add(out, from->data, from->len);
		tr_buf_clear(from);
	}
	return !out->failed;
}

/* --- listeners ------------------------------------------------------------------------------- */

static void
resume_accept(struct tr_timer *timer)
{
	struct tr_sink_listener *listener = tr_container_of(timer, struct tr_sink_listener, pause);

	ev_io_start(listener->sink->ev, &listener->io);
}

static void
on_accept(struct ev_loop *ev, struct ev_io *io, int events)
{
	struct tr_sink_listener *listener = tr_container_of(io, struct tr_sink_listener, io);
	struct tr_sink *sink = listener->sink;

	for (int i = 0; i < ACCEPTS_A_TURN; i++) {
		int fd = tr_cli_accept(listener->fd);

		if (fd == TR_EAGAIN)
			return;
		if (fd < 0) {
			sink->accept_failures++;
			if (fd == TR_ENOSPC) { /* the listener would stay readable and spin */
				ev_io_stop(ev, io);
				tr_timer_start(sink->wheel, &listener->pause, 100 * TR_NS_PER_MS, resume_accept);
				return;
			}
			continue;
		}
		if (sink->ending) {
			close(fd);
			continue;
		}
		listener->open(sink, fd);
	}
}

static int
start_listener(struct tr_sink *sink, struct tr_sink_listener *listener, const char *kind, const char *text)
{
	if (text == NULL)
		return TR_OK;
	if (tr_cli_addr_parse(text, &listener->addr) != TR_OK)
		return TR_EINVAL;
	listener->fd = tr_cli_listen(&listener->addr);
	if (listener->fd < 0)
		return TR_EIO;
	listener->sink = sink;
	ev_io_init(&listener->io, on_accept, listener->fd, EV_READ);
	ev_io_start(sink->ev, &listener->io);
	printf("listening %s %s\n", kind, listener->addr.text);
	fflush(stdout);
	return TR_OK;
}

static void
stop_listener(struct tr_sink *sink, struct tr_sink_listener *listener)
{
	if (listener->fd < 0)
		return;
	ev_io_stop(sink->ev, &listener->io);
	tr_timer_stop(sink->wheel, &listener->pause);
	close(listener->fd);
	listener->fd = -1;
}

/* --- the run ----------------------------------------------------------------------------------- */

static void
on_signal(struct ev_loop *ev, struct ev_signal *watcher, int events)
{
	struct tr_sink *sink = watcher->data;

	tr_loop_stop(sink->loop);
}

static void
on_tick(struct tr_timer *timer)
{
	struct tr_sink *sink = tr_container_of(timer, struct tr_sink, tick);
	int64_t now_ns = tr_mono_ns();
	char detail[128];

	tr_sink_detail(sink, detail, sizeof detail);
	tr_progress_update(&sink->progress, now_ns, sink->records + sink->smtp_messages, detail);
	int64_t since_ns = sink->last_ns != 0 ? sink->last_ns : sink->started_ns;

	if (sink->idle_exit_ns > 0 && now_ns - since_ns >= sink->idle_exit_ns) {
		tr_loop_stop(sink->loop);
		return;
	}
	int64_t next_ns = 200 * TR_NS_PER_MS;

	if (sink->idle_exit_ns > 0)
		next_ns = tr_min_i64(next_ns, tr_max_i64(TR_NS_PER_MS, since_ns + sink->idle_exit_ns - now_ns));
	tr_timer_start(sink->wheel, &sink->tick, next_ns, on_tick);
}

static int
open_record(struct tr_sink *sink, const char *path)
{
	struct stat info;

	if (path == NULL)
		return TR_EXIT_OK;
	sink->record_fd = tr_file->open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
	int rc = sink->record_fd < 0 ? sink->record_fd : tr_file->stat(path, &info);

	if (rc < 0) {
		fprintf(stderr, "tailrace sink: cannot open %s: %s\n", path, strerror(-rc));
		return TR_EXIT_IOERR;
	}
	sink->record_at = info.st_size;
	return TR_EXIT_OK;
}

static int
run(struct tr_sink *sink, const char *http, const char *smtp, const char *record)
{
	int status = open_record(sink, record);

	if (status != TR_EXIT_OK)
		return status;
	sink->scratch = malloc(TR_SINK_READ_BYTES);
	if (sink->scratch == NULL || tr_loop_new(&sink->loop) != TR_OK) {
		fputs("tailrace sink: cannot set up its loop\n", stderr);
		return TR_EXIT_OSERR;
	}
	sink->ev = tr_loop_ev(sink->loop);
	sink->wheel = tr_loop_wheel(sink->loop);
	tr_loop_enter(sink->loop);
	sink->http.open = tr_sink_http_open;
	sink->smtp.open = tr_sink_smtp_open;
	/* before anybody is told that it listens */
	signal(SIGPIPE, SIG_IGN);
	ev_signal_init(&sink->sigint, on_signal, SIGINT);
	ev_signal_init(&sink->sigterm, on_signal, SIGTERM);
	sink->sigint.data = sink->sigterm.data = sink;
	ev_signal_start(sink->ev, &sink->sigint);
	ev_signal_start(sink->ev, &sink->sigterm);
	int rc = start_listener(sink, &sink->http, "http", http);

	if (rc == TR_OK)
		rc = start_listener(sink, &sink->smtp, "smtp", smtp);
	if (rc != TR_OK)
		return rc == TR_EINVAL ? TR_EXIT_USAGE : TR_EXIT_UNAVAILABLE;
	sink->started_ns = tr_mono_ns();
	if (sink->progress.enabled || sink->idle_exit_ns > 0)
		tr_timer_start(sink->wheel, &sink->tick, TR_NS_PER_MS, on_tick);

	tr_loop_run(sink->loop);

	tr_sink_write_record(sink);
	tr_progress_clear(&sink->progress);
	tr_sink_report(sink);
	if (sink->record_failures > 0)
		return TR_EXIT_IOERR;
	if (sink->until > 0 && sink->records + sink->smtp_messages < sink->until)
		return TR_EXIT_FAILED;
	return TR_EXIT_OK;
}

static void
tear_down(struct tr_sink *sink)
{
	if (sink->loop != NULL) {
		stop_listener(sink, &sink->http);
		stop_listener(sink, &sink->smtp);
		tr_sink_close_all(sink);
		tr_timer_stop(sink->wheel, &sink->tick);
		tr_timer_stop(sink->wheel, &sink->grace);
		ev_signal_stop(sink->ev, &sink->sigint);
		ev_signal_stop(sink->ev, &sink->sigterm);
		tr_loop_free(sink->loop);
	}
	if (sink->record_fd >= 0)
		tr_file->close(sink->record_fd);
	free(sink->scratch);
	tr_buf_free(&sink->reply);
	tr_buf_free(&sink->text);
	tr_buf_free(&sink->plain);
	tr_buf_free(&sink->lines);
	tr_id_set_free(&sink->ids);
	free(sink);
}

/* --- the command line ---------------------------------------------------------------------------- */

/* "503=10" */
static int
add_share(const struct tr_args *args, struct tr_sink_shares *shares, const char *option, const char *text,
	const char *pair, int lowest)
{
	char *end;
	long code = strtol(pair, &end, 10);
	double percent = 0, sum = 0;
	bool good = end != pair && *end == '=' && code >= lowest && code < TR_SINK_CODES;

	if (good) {
		const char *number = end + 1;

		percent = strtod(number, &end);
		if (end != number && *end == '%')
			end++;
		good = end != number && *end == '\0' && percent > 0 && percent <= 100;
	}
	if (!good)
		return tr_args_error(
			args, "option '--%s': CODE=PERCENT expected (code %d to 599), got '%s'", option, lowest, text);
	if (shares->count == TR_SINK_MAX_SHARES)
		return tr_args_error(args, "option '--%s': more than %d shares", option, TR_SINK_MAX_SHARES);
	shares->share[shares->count++] = (struct tr_sink_share){.code = (int)code, .percent = percent};
	for (int i = 0; i < shares->count; i++)
		sum += shares->share[i].percent;
	if (sum > 100.0001)
		return tr_args_error(args, "option '--%s': the shares sum up to %g percent", option, sum);
	return TR_ARGS_RUN;
}

/* "rcpt=550=10" */
static int
add_stage(const struct tr_args *args, struct tr_sink *sink, const char *text)
{
	char name[16];
	const char *names[TR_STAGES + 1] = {NULL};
	const char *equals = strchr(text, '=');
	size_t len = equals != NULL ? (size_t)(equals - text) : strlen(text);

	snprintf(name, sizeof name, "%.*s", (int)(len < 15 ? len : 15), text);
	for (int i = 0; i < TR_STAGES; i++) {
		names[i] = tr_sink_stage_names[i];
		if (equals != NULL && strcmp(name, names[i]) == 0)
			return add_share(args, &sink->stage[i], "smtp-code", text, equals + 1, 400);
	}
	const char *near = tr_nearest(name, names);

	if (equals != NULL && near != NULL)
		return tr_args_error(args, "option '--smtp-code': unknown stage '%s', did you mean '%s'?", name, near);
	return tr_args_error(args,
		"option '--smtp-code': STAGE=CODE=PERCENT expected (stages connect, mail, rcpt, data, dot), got '%s'",
		text);
}

int
tr_cmd_sink(int argc, char **argv)
{
	struct tr_sink *sink = calloc(1, sizeof *sink);
	const char *http = NULL, *smtp = NULL, *record = NULL;
	struct tr_arg_list status_shares = {0}, smtp_codes = {0};
	int64_t slow_ms = 0, seed = 1;
	double idle_exit_s = 0, slow_percent = -1;
	bool progress = false;

	if (sink == NULL) {
		fputs("tailrace sink: out of memory\n", stderr);
		return TR_EXIT_OSERR;
	}
	sink->record_fd = sink->http.fd = sink->smtp.fd = -1;
	const struct tr_arg options[] = {
		{"http", "ADDR:PORT", TR_ARG_TEXT, &http, 0, 0, "take webhooks here; port 0 chooses a free one"},
		{"smtp", "ADDR:PORT", TR_ARG_TEXT, &smtp, 0, 0, "take mail here; port 0 chooses a free one"},
		{"status-share", "CODE=PERCENT", TR_ARG_LIST, &status_shares, 0, 0,
			"answer this share of HTTP requests with CODE, the rest with 200; repeat"},
		{"retry-after", "SECONDS", TR_ARG_INT, &sink->retry_after_s, 0, 86400,
			"send Retry-After with 429 and 503"},
		{"slow-ms", "N", TR_ARG_INT, &slow_ms, 0, 3600000, "wait so long before an answer ..."},
		{"slow-share", "PERCENT", TR_ARG_REAL, &slow_percent, 0, 100, "... in this share of the answers (100)"},
		{"reset-share", "PERCENT", TR_ARG_REAL, &sink->reset_percent, 0, 100,
			"reset the connection after the body, without an answer"},
		{"garbage-share", "PERCENT", TR_ARG_REAL, &sink->garbage_percent, 0, 100,
			"answer bytes that are no protocol"},
		{"hang", NULL, TR_ARG_FLAG, &sink->hang, 0, 0, "take everything, never answer"},
		{"smtp-code", "STAGE=CODE=PERCENT", TR_ARG_LIST, &smtp_codes, 0, 0,
			"answer a share of connect, mail, rcpt, data or dot with CODE; repeat"},
		{"seed", "N", TR_ARG_INT, &seed, 0, 0, "repeat or vary the choices of the shares (1)"},
		{"record", "FILE", TR_ARG_TEXT, &record, 0, 0, "append a JSON line for each request and message"},
		{"record-data", NULL, TR_ARG_FLAG, &sink->record_data, 0, 0, "put the bytes of messages in it, too"},
		{"count-ids", "FIELD", TR_ARG_TEXT, &sink->count_ids, 0, 0,
			"count distinct values of this string field of accepted records"},
		{"until", "N", TR_ARG_INT, &sink->until, 1, 9e15, "exit after N accepted records and messages"},
		{"idle-exit", "SECONDS", TR_ARG_REAL, &idle_exit_s, 0, 86400, "exit when nothing came for so long"},
		{"show", NULL, TR_ARG_FLAG, &sink->show, 0, 0, "print a line for each record and message"},
		{"progress", NULL, TR_ARG_FLAG, &progress, 0, 0, "show counts and rate on standard error"},
		{"json", NULL, TR_ARG_FLAG, &sink->json, 0, 0, "print the counts as one JSON object"},
		{"quiet", NULL, TR_ARG_FLAG, &sink->quiet, 0, 0, "print no counts at the end"},
		{NULL, NULL, TR_ARG_FLAG, NULL, 0, 0, NULL},
	};
	const struct tr_args args = {
		.command = "sink",
		.synopsis = "[--http ADDR:PORT] [--smtp ADDR:PORT] [OPTIONS]",
		.about = "An endpoint for webhooks and mail: accepts, refuses, stalls and records as told, and prints "
			 "counts\n"
			 "at SIGINT, SIGTERM, --until or --idle-exit. The first lines on standard output are\n"
			 "'listening http ADDR:PORT' and 'listening smtp ADDR:PORT'.",
		.options = options,
		.notes = "Exit status: 0; 1 if it ended before --until was reached; 64 usage; 69 address in use;\n"
			 "74 the record file cannot be written.",
	};
	int rc = tr_args_parse(&args, argc, argv);

	if (rc == TR_ARGS_RUN && http == NULL && smtp == NULL)
		rc = tr_args_error(&args, "--http or --smtp (or both) must be given");
	if (rc == TR_ARGS_RUN && slow_percent >= 0 && slow_ms == 0)
		rc = tr_args_error(&args, "--slow-share needs --slow-ms");
	for (size_t i = 0; i < status_shares.count && rc == TR_ARGS_RUN; i++)
		rc = add_share(
			&args, &sink->status, "status-share", status_shares.items[i], status_shares.items[i], 200);
	for (size_t i = 0; i < smtp_codes.count && rc == TR_ARGS_RUN; i++)
		rc = add_stage(&args, sink, smtp_codes.items[i]);
	if (rc == TR_ARGS_RUN) {
		tr_cli_raise_files();
		sink->slow_ns = slow_ms * TR_NS_PER_MS;
		sink->slow_percent = slow_ms == 0 ? 0 : slow_percent < 0 ? 100 : slow_percent;
		sink->idle_exit_ns = (int64_t)(idle_exit_s * 1e9);
		sink->random = (uint64_t)seed;
		tr_progress_init(&sink->progress, progress, http == NULL ? "messages" : "records", sink->until);
		rc = run(sink, http, smtp, record);
	}
	tr_arg_list_free(&status_shares);
	tr_arg_list_free(&smtp_codes);
	tear_down(sink);
	return rc;
}
