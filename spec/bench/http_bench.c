/* CPU time of one POST: `http_bench URL [COUNT [CONNECTIONS [BODY_FILE [plain|ours]]]]`, e.g. against `tailrace sink
 * --http`. Prints a line for a plain libcurl multi on libev (the yardstick) and one for our client. The body is 900
 * bytes, or the file's bytes. */
#include <curl/curl.h>
#include <ev.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "base/clock.h"
#include "transport/http.h"

enum { BODY_BYTES = 900, MAX_BODY_BYTES = 4 << 20, MAX_LANES = 64 };

static char *body;
static size_t body_len;
static const char *url;
static long count, lanes, started, finished, failed;

static double
cpu_us(void)
{
	struct rusage use;

	getrusage(RUSAGE_SELF, &use);
	return (double)(use.ru_utime.tv_sec + use.ru_stime.tv_sec) * 1e6 +
	       (double)(use.ru_utime.tv_usec + use.ru_stime.tv_usec);
}

static void
report(const char *name, double cpu, int64_t began_ns)
{
	double wall_s = (double)(tr_mono_ns() - began_ns) / 1e9;

	printf("%-6s %ld requests, %ld failed: %.2f us CPU each, %.0f/s\n", name, finished, failed,
		(cpu_us() - cpu) / (double)finished, (double)finished / wall_s);
}

/* --- the yardstick -------------------------------------------------------------------------------------- */

static CURLM *multi;
static ev_timer timer;
static struct ev_loop *ev;

static void
drain(void)
{
	CURLMsg *msg;
	int left;

	while ((msg = curl_multi_info_read(multi, &left)) != NULL) {
		CURL *easy = msg->easy_handle;
		long status = 0;

		curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &status);
		failed += msg->data.result != CURLE_OK || status != 200;
		curl_multi_remove_handle(multi, easy);
		if (++finished == count)
			ev_break(ev, EVBREAK_ALL);
		if (started < count) {
			started++;
			curl_multi_add_handle(multi, easy);
		}
	}
}

static void
raw_io(struct ev_loop *loop, ev_io *io, int revents)
{
	int running;

	curl_multi_socket_action(multi, io->fd,
		(revents & EV_READ ? CURL_CSELECT_IN : 0) | (revents & EV_WRITE ? CURL_CSELECT_OUT : 0), &running);
	drain();
}

static void
raw_timer(struct ev_loop *loop, ev_timer *watcher, int revents)
{
	int running;

	curl_multi_socket_action(multi, CURL_SOCKET_TIMEOUT, 0, &running);
	drain();
}

static int
raw_on_timer(CURLM *curl, long timeout_ms, void *arg)
{
	ev_timer_stop(ev, &timer);
	if (timeout_ms >= 0) {
		ev_timer_set(&timer, (double)timeout_ms / 1000., 0.);
		ev_timer_start(ev, &timer);
	}
	return 0;
}

static int
raw_on_socket(CURL *easy, curl_socket_t fd, int what, void *arg, void *socket_arg)
{
	ev_io *io = socket_arg;

	if (io != NULL)
		ev_io_stop(ev, io);
	if (what == CURL_POLL_REMOVE) {
		free(io);
		return 0;
	}
	if (io == NULL) {
		io = calloc(1, sizeof *io);
		if (io == NULL)
			return -1;
		curl_multi_assign(multi, fd, io);
		ev_init(io, raw_io);
	}
	ev_io_set(io, fd, (what & CURL_POLL_IN ? EV_READ : 0) | (what & CURL_POLL_OUT ? EV_WRITE : 0));
	ev_io_start(ev, io);
	return 0;
}

static size_t
raw_body(char *data, size_t one, size_t len, void *arg)
{
	return len;
}

static void
run_raw(void)
{
	struct curl_slist *headers = curl_slist_append(NULL, "Content-Type: application/json");
	CURL *easy[MAX_LANES];
	int64_t began_ns;
	double cpu;

	ev = ev_loop_new(EVFLAG_AUTO);
	multi = curl_multi_init();
	ev_timer_init(&timer, raw_timer, 0., 0.);
	curl_multi_setopt(multi, CURLMOPT_SOCKETFUNCTION, raw_on_socket);
	curl_multi_setopt(multi, CURLMOPT_TIMERFUNCTION, raw_on_timer);
	began_ns = tr_mono_ns();
	cpu = cpu_us();
	for (long i = 0; i < lanes; i++) {
		easy[i] = curl_easy_init();
		curl_easy_setopt(easy[i], CURLOPT_URL, url);
		curl_easy_setopt(easy[i], CURLOPT_NOSIGNAL, 1L); /* else three rt_sigaction a request */
		curl_easy_setopt(easy[i], CURLOPT_POSTFIELDS, body);
		curl_easy_setopt(easy[i], CURLOPT_POSTFIELDSIZE, (long)body_len);
		curl_easy_setopt(easy[i], CURLOPT_HTTPHEADER, headers);
		curl_easy_setopt(easy[i], CURLOPT_WRITEFUNCTION, raw_body);
		started++;
		curl_multi_add_handle(multi, easy[i]);
	}
	ev_run(ev, 0);
	report("plain", cpu, began_ns);
	for (long i = 0; i < lanes; i++) {
		curl_multi_remove_handle(multi, easy[i]);
		curl_easy_cleanup(easy[i]);
	}
	curl_multi_cleanup(multi);
	curl_slist_free_all(headers);
	ev_loop_destroy(ev);
}

/* --- ours ----------------------------------------------------------------------------------------------- */

static struct tr_http *http;
static struct tr_loop *loop;

static void
ours_done(struct tr_http_call *call)
{
	failed += call->err != TR_OK || call->status != 200;
	if (++finished == count)
		tr_loop_stop(loop);
	if (started < count) {
		started++;
		if (tr_http_start(http, call) != TR_OK)
			exit(1);
	}
}

static int
run_ours(void)
{
	static const struct tr_http_settings settings = {
		.timeout_ns = 60 * TR_NS_PER_S, .idle_ns = 90 * TR_NS_PER_S, .max_response_bytes = 8 << 20};
	static const struct tr_str headers[] = {{"Content-Type", 12}, {"application/json", 16}};
	static struct tr_http_call calls[MAX_LANES];
	struct tr_http_client *client;
	int64_t began_ns;
	double cpu;

	if (tr_loop_new(&loop) != TR_OK || tr_http_new(loop, &http) != TR_OK ||
		tr_http_client_new(http, &settings, &client) != TR_OK)
		return 1;
	tr_loop_enter(loop);
	began_ns = tr_mono_ns();
	cpu = cpu_us();
	for (long i = 0; i < lanes; i++) {
		calls[i] = (struct tr_http_call){.client = client,
			.method = TR_HTTP_POST,
			.url = url,
			.headers = headers,
			.header_count = 1,
			.body = {body, body_len},
			.done = ours_done};
		started++;
		if (tr_http_start(http, &calls[i]) != TR_OK)
			return 1;
	}
	tr_loop_run(loop);
	report("ours", cpu, began_ns);
	for (long i = 0; i < lanes; i++)
		tr_http_call_fini(&calls[i]);
	tr_http_client_unref(client);
	tr_http_free(http);
	tr_loop_free(loop);
	return 0;
}

static bool
read_body(const char *path)
{
	FILE *file = fopen(path, "r");

	if (file == NULL)
		return false;
	body_len = fread(body, 1, MAX_BODY_BYTES, file);
	fclose(file);
	return body_len > 0;
}

int
main(int argc, char **argv)
{
	const char *only = argc > 5 ? argv[5] : "";
	int status = 0;

	if (argc < 2) {
		fprintf(stderr, "usage: http_bench URL [COUNT [CONNECTIONS [BODY_FILE [plain|ours]]]]\n");
		return 2;
	}
	url = argv[1];
	count = argc > 2 ? atol(argv[2]) : 50000;
	lanes = argc > 3 ? atol(argv[3]) : 10;
	if (count < 1 || lanes < 1 || lanes > MAX_LANES || lanes > count)
		return 2;
	body = malloc(MAX_BODY_BYTES);
	if (body == NULL)
		return 2;
	memset(body, 'x', BODY_BYTES);
	body_len = BODY_BYTES;
	if (argc > 4 && !read_body(argv[4])) {
		perror(argv[4]);
		free(body);
		return 2;
	}
	signal(SIGPIPE, SIG_IGN);
	curl_global_init(CURL_GLOBAL_DEFAULT);
	if (strcmp(only, "ours") != 0)
		run_raw();
	started = finished = failed = 0;
	if (strcmp(only, "plain") != 0)
		status = run_ours();
	free(body);
	return status;
}
