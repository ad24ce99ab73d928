#include "cli/inject.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/diag.h"
#include "base/file.h"
#include "cli/cli.h"

/* --- giving out messages ----------------------------------------------------------------------- */

bool
tr_inject_over(const struct tr_inject *inject)
{
	return inject->stopping || inject->started >= inject->count;
}

static void on_pace(struct tr_timer *timer);

static int64_t
due_ns(const struct tr_inject *inject)
{
	return inject->started_ns + (int64_t)((double)inject->started * 1e9 / inject->rate);
}

int64_t
tr_inject_take(struct tr_inject_conn *conn, int64_t count)
{
	struct tr_inject *inject = conn->inject;

	if (tr_inject_over(inject))
		return 0;
	if (inject->rate > 0 && due_ns(inject) > tr_mono_ns()) {
		if (!conn->is_waiting) {
			conn->is_waiting = true;
			conn->next_waiting = inject->waiting;
			inject->waiting = conn;
		}
		if (!tr_timer_running(&inject->pace))
			tr_timer_start_at(inject->wheel, &inject->pace, due_ns(inject), on_pace);
		return 0;
	}
	count = tr_min_i64(count, inject->count - inject->started);
	inject->started += count;
	return count;
}

/* Lets waiting connections go on: as many as the rate allows, or all when the run is over. */
static void
release(struct tr_inject *inject)
{
	while (inject->waiting != NULL && (tr_inject_over(inject) || due_ns(inject) <= tr_mono_ns())) {
		struct tr_inject_conn *conn = inject->waiting;

		inject->waiting = conn->next_waiting;
		conn->is_waiting = false;
		conn->protocol->start(conn);
	}
}

static void
on_pace(struct tr_timer *timer)
{
	struct tr_inject *inject = tr_container_of(timer, struct tr_inject, pace);

	release(inject);
	if (inject->waiting != NULL)
		tr_timer_start_at(inject->wheel, timer, due_ns(inject), on_pace);
}

void
tr_inject_give_back(struct tr_inject *inject, int64_t count)
{
	inject->started -= count;
}

void
tr_inject_conn_over(struct tr_inject_conn *conn)
{
	struct tr_inject *inject = conn->inject;

	if (--inject->open == 0) {
		if (inject->ended_ns == 0)
			inject->ended_ns = tr_mono_ns();
		tr_loop_stop(inject->loop);
	}
}

static void
stop_giving(struct tr_inject *inject)
{
	inject->stopping = true;
	release(inject);
}

bool
tr_inject_trouble(struct tr_inject *inject, const char *fmt, ...)
{
	va_list ap;

	if (inject->keep_going && !inject->stopping)
		return true;
	if (!inject->failed && !inject->keep_going) {
		tr_progress_clear(&inject->progress);
		fputs("tailrace inject: ", stderr);
		va_start(ap, fmt);
		vfprintf(stderr, fmt, ap);
		va_end(ap);
		fputs("\n(--keep-going goes on after such trouble)\n", stderr);
	}
	inject->failed = !inject->keep_going;
	stop_giving(inject);
	return false;
}

int64_t
tr_inject_backoff_ns(int attempt)
{
	int64_t delay_ns = 50 * TR_NS_PER_MS << (attempt < 6 ? attempt : 6);

	return tr_min_i64(delay_ns, 2 * TR_NS_PER_S);
}

/* --- ids --------------------------------------------------------------------------------------------- */

void
tr_inject_add_ids(struct tr_inject *inject, struct tr_str line)
{
	static const char ok[] = "250 OK ids=";

	if (inject->ids_fd < 0 || line.len < sizeof ok || memcmp(line.data, ok, sizeof ok - 1) != 0)
		return;
	for (size_t at = sizeof ok - 1; at < line.len;) {
		const char *space = memchr(line.data + at, ' ', line.len - at);
		size_t end = space != NULL ? (size_t)(space - line.data) : line.len;

		if (end > at) {
			tr_buf_add(&inject->ids, line.data + at, end - at);
			tr_buf_addc(&inject->ids, '\n');
			inject->ids_written++;
		}
		at = end + 1;
	}
}

static void
flush_ids(struct tr_turn_hook *hook)
{
	struct tr_inject *inject = tr_container_of(hook, struct tr_inject, flush);

	if (inject->ids.len == 0)
		return;
	int rc = inject->ids.failed
			 ? -ENOMEM
			 : tr_file_write_all(inject->ids_fd, inject->ids.data, inject->ids.len, inject->ids_at);

	if (rc < 0) {
		inject->ids_failures++;
		tr_log(TR_LEVEL_ERROR, "inject", "cannot write the ids file: %s", strerror(-rc));
	} else {
		inject->ids_at += (off_t)inject->ids.len;
	}
	tr_buf_clear(&inject->ids);
}

static int
open_ids(struct tr_inject *inject, const char *file)
{
	struct stat info;

	if (file == NULL)
		return TR_ARGS_RUN;
	inject->ids_fd = tr_file->open(file, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
	int rc = inject->ids_fd < 0 ? inject->ids_fd : tr_file->stat(file, &info);

	if (rc < 0) {
		fprintf(stderr, "tailrace inject: cannot open %s: %s\n", file, strerror(-rc));
		return TR_EXIT_IOERR;
	}
	inject->ids_at = info.st_size;
	return TR_ARGS_RUN;
}

/* --- the run --------------------------------------------------------------------------------------------- */

static void
on_signal(struct ev_loop *ev, struct ev_signal *watcher, int events)
{
	struct tr_inject *inject = watcher->data;

	if (inject->stopping) { /* the second time: at once */
		tr_loop_stop(inject->loop);
		return;
	}
	stop_giving(inject);
}

static void
on_end(struct tr_timer *timer)
{
	stop_giving(tr_container_of(timer, struct tr_inject, end));
}

static void
detail(struct tr_inject *inject, char *out, size_t size)
{
	int len = 0;

	out[0] = '\0';
	if (inject->refused > 0)
		len = snprintf(out, size, "%s refused  ", tr_grouped(inject->refused));
	if (inject->unknown > 0 && len < (int)size)
		snprintf(out + len, size - (size_t)len, "%s unknown", tr_grouped(inject->unknown));
}

static void
on_tick(struct tr_timer *timer)
{
	struct tr_inject *inject = tr_container_of(timer, struct tr_inject, tick);
	char text[96];

	detail(inject, text, sizeof text);
	tr_progress_update(&inject->progress, tr_mono_ns(), inject->accepted + inject->refused + inject->unknown, text);
	tr_timer_start(inject->wheel, timer, 100 * TR_NS_PER_MS, on_tick);
}

static int
run(struct tr_inject *inject)
{
	char text[96];

	if (tr_loop_new(&inject->loop) != TR_OK) {
		fputs("tailrace inject: cannot set up its loop\n", stderr);
		return TR_EXIT_OSERR;
	}
	inject->ev = tr_loop_ev(inject->loop);
	inject->wheel = tr_loop_wheel(inject->loop);
	tr_loop_enter(inject->loop);
	signal(SIGPIPE, SIG_IGN);
	ev_signal_init(&inject->sigint, on_signal, SIGINT);
	ev_signal_init(&inject->sigterm, on_signal, SIGTERM);
	inject->sigint.data = inject->sigterm.data = inject;
	ev_signal_start(inject->ev, &inject->sigint);
	ev_signal_start(inject->ev, &inject->sigterm);
	inject->flush.fn = flush_ids;
	tr_loop_add_turn_hook(inject->loop, &inject->flush);
	inject->started_ns = tr_mono_ns();
	inject->open = inject->connections;
	if (inject->duration_ns > 0)
		tr_timer_start(inject->wheel, &inject->end, inject->duration_ns, on_end);
	if (inject->progress.enabled)
		tr_timer_start(inject->wheel, &inject->tick, TR_NS_PER_MS, on_tick);
	if (!(inject->http ? tr_inject_http_start(inject) : tr_inject_smtp_start(inject))) {
		fputs("tailrace inject: out of memory\n", stderr);
		return TR_EXIT_OSERR;
	}
	if (inject->open > 0)
		tr_loop_run(inject->loop);
	if (inject->ended_ns == 0)
		inject->ended_ns = tr_mono_ns();
	flush_ids(&inject->flush);
	detail(inject, text, sizeof text);
	tr_progress_finish(
		&inject->progress, inject->ended_ns, inject->accepted + inject->refused + inject->unknown, text);
	tr_inject_report(inject);
	if (inject->ids_failures > 0)
		return TR_EXIT_IOERR;
	if (inject->failed && inject->connects == 0)
		return TR_EXIT_UNAVAILABLE;
	if (inject->failed || (!inject->keep_going && (inject->refused > 0 || inject->unknown > 0)))
		return TR_EXIT_FAILED;
	return TR_EXIT_OK;
}

static void
tear_down(struct tr_inject *inject)
{
	if (inject->loop != NULL) {
		if (inject->http)
			tr_inject_http_free(inject);
		else
			tr_inject_smtp_free(inject);
		tr_timer_stop(inject->wheel, &inject->pace);
		tr_timer_stop(inject->wheel, &inject->tick);
		tr_timer_stop(inject->wheel, &inject->end);
		tr_loop_remove_turn_hook(inject->loop, &inject->flush);
		ev_signal_stop(inject->ev, &inject->sigint);
		ev_signal_stop(inject->ev, &inject->sigterm);
		tr_loop_free(inject->loop);
	}
	if (inject->ids_fd >= 0)
		tr_file->close(inject->ids_fd);
	for (size_t i = 0; i < inject->body_count; i++)
		tr_buf_free(&inject->bodies[i].bytes);
	free(inject->bodies);
	free(inject->domains);
	tr_buf_free(&inject->headers);
	tr_buf_free(&inject->ids);
	free(inject);
}

/* --- the command line -------------------------------------------------------------------------------------- */

/* "example.com" or "example.com:3" */
static int
add_domains(const struct tr_args *args, struct tr_inject *inject, const struct tr_arg_list *list)
{
	if (list->count == 0)
		return TR_ARGS_RUN;
	inject->domains = calloc(list->count, sizeof *inject->domains);
	if (inject->domains == NULL) {
		fputs("tailrace inject: out of memory\n", stderr);
		return TR_EXIT_OSERR;
	}
	for (size_t i = 0; i < list->count; i++) {
		struct tr_inject_domain *domain = &inject->domains[i];
		const char *colon = strrchr(list->items[i], ':');

		domain->name = list->items[i];
		domain->len = colon != NULL ? (size_t)(colon - domain->name) : strlen(domain->name);
		domain->weight = 1;
		if (colon != NULL) {
			char *end;

			domain->weight = strtod(colon + 1, &end);
			if (end == colon + 1 || *end != '\0' || !(domain->weight > 0 && domain->weight < 1e9))
				domain->len = 0;
		}
		if (domain->len == 0)
			return tr_args_error(
				args, "option '--domain': DOMAIN or DOMAIN:WEIGHT expected, got '%s'", domain->name);
		inject->weights += domain->weight;
	}
	inject->domain_count = list->count;
	return TR_ARGS_RUN;
}

static int
add_headers(const struct tr_args *args, struct tr_inject *inject, const struct tr_arg_list *list)
{
	for (size_t i = 0; i < list->count; i++) {
		const char *colon = strchr(list->items[i], ':');

		if (colon == NULL || colon == list->items[i] || strpbrk(list->items[i], "\r\n") != NULL)
			return tr_args_error(
				args, "option '--header': 'NAME: VALUE' expected, got '%s'", list->items[i]);
		tr_buf_addz(&inject->headers, list->items[i]);
		tr_buf_addz(&inject->headers, "\r\n");
	}
	return TR_ARGS_RUN;
}

/* "100", "100/s", "6000/m", "360000/h" */
static int
set_rate(const struct tr_args *args, struct tr_inject *inject, const char *text)
{
	char *end;

	if (text == NULL)
		return TR_ARGS_RUN;
	inject->rate = strtod(text, &end);
	bool good = end != text && inject->rate > 0 && inject->rate < 1e9;

	if (strcmp(end, "/m") == 0 || strcmp(end, "/min") == 0)
		inject->rate /= 60;
	else if (strcmp(end, "/h") == 0 || strcmp(end, "/hour") == 0)
		inject->rate /= 3600;
	else if (*end != '\0' && strcmp(end, "/s") != 0 && strcmp(end, "/sec") != 0)
		good = false;
	if (!good)
		return tr_args_error(
			args, "option '--rate': a number per second (or N/s, N/m, N/h) expected, got '%s'", text);
	return TR_ARGS_RUN;
}

static int
set_url(const struct tr_args *args, struct tr_inject *inject, const char *url)
{
	static const char scheme[] = "http://";
	const char *host = url + sizeof scheme - 1;

	if (strncmp(url, scheme, sizeof scheme - 1) != 0 || *host == '\0' || *host == '/')
		return tr_args_error(args, "option '--http': http://HOST:PORT[/PATH] expected, got '%s'", url);
	size_t len = strcspn(host, "/");
	const char *path = host[len] == '\0' || host[len + 1] == '\0' ? "/api/inject/v1" : host + len;
	char target[160];

	if (len >= sizeof inject->host || strlen(path) >= sizeof inject->path || strpbrk(path, " \r\n") != NULL)
		return tr_args_error(args, "option '--http': the URL is too long or has spaces");
	snprintf(inject->host, sizeof inject->host, "%.*s", (int)len, host);
	snprintf(inject->path, sizeof inject->path, "%s", path);
	const char *last = strrchr(inject->host, ':');
	bool has_port = last != NULL && strchr(last, ']') == NULL;

	snprintf(target, sizeof target, "%s%s", inject->host, has_port ? "" : ":80");
	return tr_cli_addr_parse(target, &inject->target) == TR_OK ? TR_ARGS_RUN : TR_EXIT_USAGE;
}

static bool
bad_address(const char *address)
{
	return strpbrk(address, "<> \t\r\n") != NULL;
}

int
tr_cmd_inject(int argc, char **argv)
{
	struct tr_inject *inject = calloc(1, sizeof *inject);
	const char *smtp = NULL, *http = NULL, *rate = NULL, *ids = NULL;
	struct tr_arg_list domains = {0}, headers = {0}, files = {0};
	int64_t count = 0, size_bytes = -1, seed = 1;
	double duration_s = 0, timeout_s = 60;
	bool progress = false;

	if (inject == NULL) {
		fputs("tailrace inject: out of memory\n", stderr);
		return TR_EXIT_OSERR;
	}
	inject->ids_fd = -1;
	snprintf(inject->run_id, sizeof inject->run_id, "%llx", (unsigned long long)tr_wall_ns());
	inject->connections = 10;
	inject->rcpts_per_message = inject->batch = 1;
	inject->from = "sender@example.com";
	inject->to = "user%d@example.net";
	const struct tr_arg options[] = {
		{"smtp", "ADDR:PORT", TR_ARG_TEXT, &smtp, 0, 0, "send by SMTP, pipelined where that is offered"},
		{"http", "URL", TR_ARG_TEXT, &http, 0, 0, "send by POST /api/inject/v1 of http://HOST:PORT"},
		{"count", "N", TR_ARG_INT, &count, 1, 9e15,
			"messages (default 1; each FILE once; with --duration no limit)"},
		{"connections", "C", TR_ARG_INT, &inject->connections, 1, 20000, "at the same time (10)"},
		{"size", "BYTES", TR_ARG_SIZE, &size_bytes, 0, 1e9, "of generated messages, headers included (1024)"},
		{"from", "ADDRESS", TR_ARG_TEXT, &inject->from, 0, 0, "envelope sender (sender@example.com)"},
		{"to", "PATTERN", TR_ARG_TEXT, &inject->to, 0, 0,
			"recipient; %d becomes a running number (user%d@example.net)"},
		{"domain", "D[:WEIGHT]", TR_ARG_LIST, &domains, 0, 0,
			"recipient domains, chosen by weight, in place of that of --to; repeat"},
		{"header", "'NAME: VALUE'", TR_ARG_LIST, &headers, 0, 0, "a header to add; repeat"},
		{"rate", "N/s", TR_ARG_TEXT, &rate, 0, 0, "messages a second (or N/m, N/h) over all connections"},
		{"recipients-per-message", "N", TR_ARG_INT, &inject->rcpts_per_message, 1, 10000, "(1)"},
		{"messages-per-connection", "N", TR_ARG_INT, &inject->messages_per_connection, 1, 9e15,
			"then reconnect (no limit)"},
		{"http-batch", "N", TR_ARG_INT, &inject->batch, 1, 10000, "recipients in one HTTP request (1)"},
		{"duration", "SECONDS", TR_ARG_REAL, &duration_s, 0, 1e7, "start nothing more after so long"},
		{"timeout", "SECONDS", TR_ARG_REAL, &timeout_s, 0.001, 86400, "for each answer (60)"},
		{"ids", "FILE", TR_ARG_TEXT, &ids, 0, 0, "append the ids of the messages answered 250 OK, one a line"},
		{"keep-going", NULL, TR_ARG_FLAG, &inject->keep_going, 0, 0, "reconnect after trouble, whatever it is"},
		{"seed", "N", TR_ARG_INT, &seed, 0, 0, "repeat or vary the choice of domains (1)"},
		{"progress", NULL, TR_ARG_FLAG, &progress, 0, 0, "show it, also when standard error is no terminal"},
		{"json", NULL, TR_ARG_FLAG, &inject->json, 0, 0, "print the counts as one JSON object"},
		{"quiet", NULL, TR_ARG_FLAG, &inject->quiet, 0, 0, "print neither progress nor counts"},
		{NULL, NULL, TR_ARG_FLAG, NULL, 0, 0, NULL},
	};
	const struct tr_args args = {
		.command = "inject",
		.synopsis = "--smtp ADDR:PORT | --http URL [OPTIONS] [FILE.eml ...]",
		.about = "Sends messages: the given files in turn, or generated ones.",
		.options = options,
		.notes = "A message whose data was sent and not answered counts as unknown and is not sent again.\n"
			 "Exit status: 0 when all were accepted (with --keep-going: when the run went through);\n"
			 "1 when some were not; 64 usage; 66 a FILE cannot be read; 69 no connection at all.",
		.rest = &files,
	};
	int rc = tr_args_parse(&args, argc, argv);

	if (rc == TR_ARGS_RUN && (smtp == NULL) == (http == NULL))
		rc = tr_args_error(&args, "one of --smtp and --http must be given");
	if (rc == TR_ARGS_RUN && files.count > 0 && size_bytes >= 0)
		rc = tr_args_error(&args, "--size is for generated messages, and there are files");
	if (rc == TR_ARGS_RUN && (bad_address(inject->from) || bad_address(inject->to)))
		rc = tr_args_error(&args, "--from and --to are plain addresses, without <> and spaces");
	if (rc == TR_ARGS_RUN && smtp != NULL && tr_cli_addr_parse(smtp, &inject->target) != TR_OK)
		rc = TR_EXIT_USAGE;
	if (rc == TR_ARGS_RUN && http != NULL) {
		inject->http = true;
		inject->rcpts_per_message = 1;
		rc = set_url(&args, inject, http);
	}
	if (rc == TR_ARGS_RUN && ids != NULL && http != NULL)
		rc = tr_args_error(&args, "--ids needs --smtp: the inject API answers no ids");
	if (rc == TR_ARGS_RUN)
		rc = add_domains(&args, inject, &domains);
	if (rc == TR_ARGS_RUN)
		rc = add_headers(&args, inject, &headers);
	if (rc == TR_ARGS_RUN)
		rc = set_rate(&args, inject, rate);
	if (rc == TR_ARGS_RUN)
		rc = files.count > 0 ? tr_inject_load_files(inject, &files)
				     : tr_inject_generate(inject, size_bytes < 0 ? 1024 : size_bytes);
	if (rc == TR_ARGS_RUN)
		rc = open_ids(inject, ids);
	if (rc == TR_ARGS_RUN) {
		inject->duration_ns = (int64_t)(duration_s * 1e9);
		inject->timeout_ns = (int64_t)(timeout_s * 1e9);
		inject->random = (uint64_t)seed;
		inject->count = count > 0         ? count
				: duration_s > 0  ? INT64_MAX
				: files.count > 0 ? (int64_t)files.count
						  : 1;
		inject->connections = tr_min_i64(inject->connections, inject->count);
		tr_cli_raise_files();
		tr_progress_init(
			&inject->progress, false, "messages", count > 0 || duration_s == 0 ? inject->count : 0);
		inject->progress.enabled = !inject->quiet && (progress || inject->progress.terminal);
		rc = run(inject);
	}
	tr_arg_list_free(&domains);
	tr_arg_list_free(&headers);
	tr_arg_list_free(&files);
	tear_down(inject);
	return rc;
}
