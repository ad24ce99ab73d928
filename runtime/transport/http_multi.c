#include "transport/http_multi.h"

#include <ev.h>
#include <openssl/crypto.h>
#include <openssl/rand.h>
#include <openssl/ssl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/diag.h"

/* One descriptor that curl works on. curl stops watching a connection after each answer and starts again at the next
 * request; the watcher of a connection of ours stays on, so that this costs no system calls. */
struct watch {
	ev_io io;
	struct tr_http_multi *multi;
	bool ours;   /* from tr_http_multi_open(): close_socket() will tell when it goes */
	bool wanted; /* curl wants to hear of it */
};

struct member {
	CURL *easy;
	CURLM *curl; /* where it is */
};

struct tr_http_multi {
	CURLM *curl;            /* NULL: there was no memory for a new one; nothing is in hand then */
	struct member *members; /* handles in hand */
	size_t count, cap;
	struct tr_loop *loop;
	struct ev_loop *ev;
	ev_timer timer;
	ev_tstamp timer_at;     /* libev time at which `timer` fires while it is active */
	ev_tstamp due_at;       /* when curl wants to be called; 0: never */
	struct tr_defer kick;   /* curl wants to be called in this turn */
	struct watch **watches; /* by descriptor */
	size_t watch_cap;
	long max_connections;
	void (*done)(void *arg, CURL *easy, CURLcode result);
	void *arg;
};

static struct member *
member_of(struct tr_http_multi *multi, const CURL *easy)
{
	for (size_t i = 0; i < multi->count; i++) {
		if (multi->members[i].easy == easy)
			return &multi->members[i];
	}
	return NULL;
}

static void
drain(struct tr_http_multi *multi)
{
	CURLMsg *msg;
	int left;

	while ((msg = curl_multi_info_read(multi->curl, &left)) != NULL) {
		if (msg->msg == CURLMSG_DONE)
			multi->done(multi->arg, msg->easy_handle, msg->data.result);
	}
}

static CURLM *make_curl(struct tr_http_multi *multi);

static CURL *
first_in(const struct tr_http_multi *multi, const CURLM *curl)
{
	for (size_t i = 0; i < multi->count; i++) {
		if (multi->members[i].curl == curl)
			return multi->members[i].easy;
	}
	return NULL;
}

/* After a lack of memory libcurl may wait for what will never come, and libcurl 7.88 divides by zero when it meets the
 * same descriptor again. It does not say whose that was: all that it has in hand ends, and a new one takes its place,
 * at once or when there is memory for it. */
static void
begin_anew(struct tr_http_multi *multi)
{
	CURLM *spoilt = multi->curl;
	CURL *easy;

	multi->curl = make_curl(multi);
	multi->due_at = 0;
	while ((easy = first_in(multi, spoilt)) != NULL) {
		multi->done(multi->arg, easy, CURLE_OUT_OF_MEMORY);
		if (first_in(multi, spoilt) == easy) /* whoever has it does not want to hear of it */
			tr_http_multi_remove(multi, easy);
	}
	curl_multi_cleanup(spoilt);
}

static void
act(struct tr_http_multi *multi, curl_socket_t fd, int mask)
{
	int running;
	CURLMcode code;

	if (multi->curl == NULL)
		return;
	code = curl_multi_socket_action(multi->curl, fd, mask, &running);
	if (code != CURLM_OK &&
		code != CURLM_BAD_SOCKET) /* the transfers concerned still end with a message or their deadline */
		tr_log(TR_LEVEL_ERROR, "http", "libcurl: %s", curl_multi_strerror(code));
	drain(multi);
	if (code == CURLM_OUT_OF_MEMORY)
		begin_anew(multi);
}

static void
timer_cb(struct ev_loop *ev, ev_timer *timer, int revents)
{
	struct tr_http_multi *multi = timer->data;

	if (multi->due_at == 0)
		return;
	if (ev_now(ev) < multi->due_at) { /* put off meanwhile */
		multi->timer_at = multi->due_at;
		ev_timer_set(timer, multi->due_at - ev_now(ev), 0.);
		ev_timer_start(ev, timer);
		return;
	}
	multi->due_at = 0;
	act(multi, CURL_SOCKET_TIMEOUT, 0);
}

static void
kick_cb(struct tr_defer *defer)
{
	act(tr_container_of(defer, struct tr_http_multi, kick), CURL_SOCKET_TIMEOUT, 0);
}

static int
on_timer(CURLM *curl, long timeout_ms, void *arg)
{
	struct tr_http_multi *multi = arg;

	if (curl != multi->curl)
		return 0;  /* one that begin_anew() ends */
	multi->due_at = 0; /* the timer itself is left alone: it finds that there is nothing to do */
	if (timeout_ms == 0) {
		tr_loop_defer(multi->loop, &multi->kick, kick_cb);
	} else if (timeout_ms > 0) {
		multi->due_at = ev_now(multi->ev) + (double)timeout_ms / 1000.;
		if (!ev_is_active(&multi->timer) || multi->timer_at > multi->due_at) {
			ev_timer_stop(multi->ev, &multi->timer);
			ev_timer_set(&multi->timer, (double)timeout_ms / 1000., 0.);
			multi->timer_at = multi->due_at;
			ev_timer_start(multi->ev, &multi->timer);
		}
	}
	return 0;
}

static void
io_cb(struct ev_loop *ev, ev_io *io, int revents)
{
	struct watch *watch = tr_container_of(io, struct watch, io);

	if (!watch->wanted) { /* an idle connection was closed, or talks: curl finds out when it wants to use it */
		ev_io_stop(ev, io);
		return;
	}
	act(watch->multi, io->fd,
		(revents & EV_READ ? CURL_CSELECT_IN : 0) | (revents & EV_WRITE ? CURL_CSELECT_OUT : 0) |
			(revents & EV_ERROR ? CURL_CSELECT_ERR : 0));
}

static struct watch *
watch_get(struct tr_http_multi *multi, int fd)
{
	struct watch *watch;

	if ((size_t)fd >= multi->watch_cap) {
		size_t cap = (size_t)fd + 64;
		struct watch **watches = realloc(multi->watches, cap * sizeof(struct watch *));

		if (watches == NULL)
			return NULL;
		memset(watches + multi->watch_cap, 0, (cap - multi->watch_cap) * sizeof(struct watch *));
		multi->watches = watches;
		multi->watch_cap = cap;
	}
	if (multi->watches[fd] != NULL)
		return multi->watches[fd];
	watch = calloc(1, sizeof *watch);
	if (watch == NULL)
		return NULL;
	watch->multi = multi;
	ev_io_init(&watch->io, io_cb, fd, EV_READ);
	multi->watches[fd] = watch;
	return watch;
}

static void
watch_drop(struct tr_http_multi *multi, int fd)
{
	if ((size_t)fd >= multi->watch_cap || multi->watches[fd] == NULL)
		return;
	ev_io_stop(multi->ev, &multi->watches[fd]->io);
	free(multi->watches[fd]);
	multi->watches[fd] = NULL;
}

static int
on_socket(CURL *easy, curl_socket_t fd, int what, void *arg, void *socket_arg)
{
	struct tr_http_multi *multi = arg;
	struct watch *watch;
	int events;

	if (what == CURL_POLL_REMOVE) {
		watch = (size_t)fd < multi->watch_cap ? multi->watches[fd] : NULL;
		if (watch == NULL)
			return 0;
		watch->wanted = false;
		if (!watch->ours) /* curl's own, of its resolver: may be closed without a word */
			watch_drop(multi, fd);
		return 0;
	}
	watch = watch_get(multi, fd);
	if (watch == NULL)
		return -1; /* the transfer fails */
	events = (what & CURL_POLL_IN ? EV_READ : 0) | (what & CURL_POLL_OUT ? EV_WRITE : 0);
	watch->wanted = true;
	if (!ev_is_active(&watch->io) || (watch->io.events & (EV_READ | EV_WRITE)) != events) {
		ev_io_stop(multi->ev, &watch->io);
		ev_io_set(&watch->io, fd, events);
		ev_io_start(multi->ev, &watch->io);
	}
	return 0;
}

curl_socket_t
tr_http_multi_open(struct tr_http_multi *multi, const struct curl_sockaddr *address)
{
	int fd = socket(address->family, address->socktype | SOCK_CLOEXEC, address->protocol);
	struct watch *watch;

	if (fd < 0)
		return CURL_SOCKET_BAD;
	watch = watch_get(multi, fd);
	if (watch == NULL) {
		close(fd);
		return CURL_SOCKET_BAD;
	}
	ev_io_stop(multi->ev, &watch->io); /* of a former one that was closed without a word, while it connected */
	watch->ours = true;
	return fd;
}

static curl_socket_t
open_socket(void *arg, curlsocktype purpose, struct curl_sockaddr *address)
{
	return tr_http_multi_open(arg, address);
}

static int
close_socket(void *arg, curl_socket_t fd)
{
	watch_drop(arg, fd);
	return close(fd) == 0 ? 0 : 1;
}

/* OpenSSL that could not begin ends the process when it is used. */
static bool
curl_started(void)
{
	static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
	static bool started;
	bool result;

	pthread_mutex_lock(&lock);
	started = started || (OPENSSL_init_ssl(0, NULL) == 1 && OSSL_LIB_CTX_get0_global_default() != NULL &&
				     RAND_status() == 1 && curl_global_init(CURL_GLOBAL_DEFAULT) == CURLE_OK);
	result = started;
	pthread_mutex_unlock(&lock);
	return result;
}

static CURLM *
make_curl(struct tr_http_multi *multi)
{
	CURLM *curl = curl_multi_init();

	if (curl == NULL)
		return NULL;
	curl_multi_setopt(curl, CURLMOPT_SOCKETFUNCTION, on_socket);
	curl_multi_setopt(curl, CURLMOPT_SOCKETDATA, multi);
	curl_multi_setopt(curl, CURLMOPT_TIMERFUNCTION, on_timer);
	curl_multi_setopt(curl, CURLMOPT_TIMERDATA, multi);
	curl_multi_setopt(curl, CURLMOPT_MAXCONNECTS, multi->max_connections);
	curl_multi_setopt(curl, CURLMOPT_PIPELINING, CURLPIPE_NOTHING);
	return curl;
}

int
tr_http_multi_new(struct tr_loop *loop, long max_connections, void (*done)(void *arg, CURL *easy, CURLcode result),
	void *arg, struct tr_http_multi **out)
{
	struct tr_http_multi *multi;

	*out = NULL;
	if (!curl_started()) {
		tr_log(TR_LEVEL_ERROR, "http", "libcurl and OpenSSL cannot begin: there is no memory");
		return TR_ENOMEM;
	}
	multi = calloc(1, sizeof *multi);
	if (multi == NULL)
		return TR_ENOMEM;
	multi->loop = loop;
	multi->ev = tr_loop_ev(loop);
	multi->done = done;
	multi->arg = arg;
	ev_timer_init(&multi->timer, timer_cb, 0., 0.);
	multi->timer.data = multi;
	multi->max_connections = max_connections;
	multi->curl = make_curl(multi);
	if (multi->curl == NULL) {
		free(multi);
		return TR_ENOMEM;
	}
	*out = multi;
	return TR_OK;
}

void
tr_http_multi_free(struct tr_http_multi *multi)
{
	if (multi == NULL)
		return;
	if (multi->curl != NULL)
		curl_multi_cleanup(multi->curl); /* calls close_socket() and on_socket() */
	ev_timer_stop(multi->ev, &multi->timer);
	tr_loop_undefer(multi->loop, &multi->kick);
	for (size_t fd = 0; fd < multi->watch_cap; fd++)
		watch_drop(multi, (int)fd);
	free(multi->watches);
	free(multi->members);
	free(multi);
}

int
tr_http_multi_prepare(struct tr_http_multi *multi, CURL *easy)
{
	const char *file = getenv("SSL_CERT_FILE"), *dir = getenv("SSL_CERT_DIR");

	curl_easy_setopt(easy, CURLOPT_OPENSOCKETFUNCTION, open_socket);
	curl_easy_setopt(easy, CURLOPT_OPENSOCKETDATA, multi);
	curl_easy_setopt(easy, CURLOPT_CLOSESOCKETFUNCTION, close_socket);
	curl_easy_setopt(easy, CURLOPT_CLOSESOCKETDATA, multi);
	/* OpenSSL's own names, which its programs obey and libcurl does not. */
	return (file == NULL || tr_http_multi_set_text(easy, CURLOPT_CAINFO, file)) &&
			       (dir == NULL || tr_http_multi_set_text(easy, CURLOPT_CAPATH, dir))
		       ? TR_OK
		       : TR_ENOMEM;
}

int
tr_http_multi_add(struct tr_http_multi *multi, CURL *easy)
{
	if (multi->count == multi->cap) {
		size_t cap = 2 * multi->cap + 16;
		struct member *members = realloc(multi->members, cap * sizeof *members);

		if (members == NULL)
			return TR_ENOMEM;
		multi->members = members;
		multi->cap = cap;
	}
	if (multi->curl == NULL)
		multi->curl = make_curl(multi);
	if (multi->curl == NULL || curl_multi_add_handle(multi->curl, easy) != CURLM_OK)
		return TR_ENOMEM;
	multi->members[multi->count++] = (struct member){easy, multi->curl};
	return TR_OK;
}

void
tr_http_multi_remove(struct tr_http_multi *multi, CURL *easy)
{
	struct member *member = member_of(multi, easy);
	CURLMcode code = curl_multi_remove_handle(member != NULL ? member->curl : multi->curl, easy);

	if (code != CURLM_OK)
		tr_log(TR_LEVEL_ERROR, "http", "libcurl: cannot take a request out: %s", curl_multi_strerror(code));
	if (member != NULL)
		*member = multi->members[--multi->count];
}
