#include "net/dns.h"

#include <ares.h>
#include <ev.h>
#include <netdb.h>
#include <stdlib.h>
#include <sys/time.h>

#include "base/clock.h"
#include "base/diag.h"

#define TRY_MS 2000 /* one server, one try; the query's own time-out stands above it */
#define TRIES 3
#define BACKSTOP_S 1.0

struct watch { /* one socket of c-ares */
	struct watch *next;
	struct tr_dns *dns;
	ev_io io;
};

struct tr_dns {
	struct tr_loop *loop;
	ares_channel channel;
	struct watch *watches;
	ev_timer resend; /* c-ares' own clock: of real packets, so in real time */
	struct tr_dns_query *queries;
	bool freeing;
};

/* A query ends by its answer, its time-out or its cancel. c-ares cannot take back a single one: after the two latter
 * it stays until c-ares lets go of it, with then == NULL. */
struct tr_dns_query {
	struct tr_dns_query *next, **prev;
	struct tr_dns *dns;
	struct tr_timer timeout;
	struct tr_defer later; /* literals */
	struct tr_sockaddr literal;
	struct ares_addrinfo *info; /* an answer that came before tr_dns_addr() returned */
	int status;
	bool asking; /* inside ares_getaddrinfo() */
	bool asked;  /* c-ares has it */
	void (*then)(void *arg, int err, const struct tr_sockaddr *addrs, size_t count);
	void *arg;
};

static void
unlink_query(struct tr_dns_query *query)
{
	*query->prev = query->next;
	if (query->next != NULL)
		query->next->prev = query->prev;
}

static void
free_query(struct tr_dns_query *query)
{
	unlink_query(query);
	if (query->info != NULL)
		ares_freeaddrinfo(query->info);
	free(query);
}

/* Nobody waits for it any more. */
static void
settle(struct tr_dns_query *query)
{
	struct tr_loop *loop = query->dns->loop;

	query->then = NULL;
	tr_timer_stop(tr_loop_wheel(loop), &query->timeout);
	tr_loop_undefer(loop, &query->later);
	tr_hold_drop();
	if (!query->asked)
		free_query(query);
}

static void
answer(struct tr_dns_query *query, int err, const struct tr_sockaddr *addrs, size_t count)
{
	void (*then)(void *, int, const struct tr_sockaddr *, size_t) = query->then;
	void *arg = query->arg;

	settle(query);
	then(arg, err, addrs, count);
}

/* --- sockets and time of c-ares ------------------------------------------------------------------------- */

static void
rearm(struct tr_dns *dns)
{
	struct timeval most = {(time_t)BACKSTOP_S, 0}, buffer, *next;
	struct ev_loop *ev = tr_loop_ev(dns->loop);

	ev_timer_stop(ev, &dns->resend);
	if (dns->watches == NULL)
		return;
	next = ares_timeout(dns->channel, &most, &buffer);
	ev_timer_set(&dns->resend, (double)next->tv_sec + (double)next->tv_usec / 1e6, 0.);
	ev_timer_start(ev, &dns->resend);
}

static void
resend_cb(struct ev_loop *ev, ev_timer *watcher, int revents)
{
	struct tr_dns *dns = watcher->data;

	ares_process_fd(dns->channel, ARES_SOCKET_BAD, ARES_SOCKET_BAD);
	rearm(dns);
}

static void
io_cb(struct ev_loop *ev, ev_io *io, int revents)
{
	struct tr_dns *dns = ((struct watch *)io->data)->dns;
	ares_socket_t fd = io->fd; /* the watch may go inside */

	ares_process_fd(
		dns->channel, revents & EV_READ ? fd : ARES_SOCKET_BAD, revents & EV_WRITE ? fd : ARES_SOCKET_BAD);
	rearm(dns);
}

static void
socket_state(void *arg, ares_socket_t fd, int readable, int writable)
{
	struct tr_dns *dns = arg;
	struct ev_loop *ev = tr_loop_ev(dns->loop);
	struct watch **at = &dns->watches, *watch;

	while (*at != NULL && (*at)->io.fd != fd)
		at = &(*at)->next;
	watch = *at;
	if (!readable && !writable) {
		if (watch == NULL)
			return;
		ev_io_stop(ev, &watch->io);
		*at = watch->next;
		free(watch);
		return;
	}
	if (watch == NULL) {
		watch = calloc(1, sizeof *watch);
		if (watch == NULL) { /* the query runs into its time-out */
			tr_log(TR_LEVEL_ERROR, "dns", "out of memory");
			return;
		}
		watch->dns = dns;
		watch->next = dns->watches;
		dns->watches = watch;
		ev_io_init(&watch->io, io_cb, fd, 0);
		watch->io.data = watch;
	}
	ev_io_stop(ev, &watch->io);
	ev_io_set(&watch->io, fd, (readable ? EV_READ : 0) | (writable ? EV_WRITE : 0));
	ev_io_start(ev, &watch->io);
}

/* --- queries ------------------------------------------------------------------------------------------------ */

static int
err_of(int status)
{
	switch (status) {
	case ARES_SUCCESS:
		return TR_OK;
	case ARES_ENOTFOUND:
	case ARES_ENODATA:
	case ARES_EBADNAME:
		return TR_ENOENT;
	case ARES_ETIMEOUT:
		return TR_ETIMEDOUT;
	case ARES_ENOMEM:
		return TR_ENOMEM;
	default:
		return TR_EPROTO;
	}
}

static void
answer_addrs(struct tr_dns_query *query, int status, const struct ares_addrinfo *info)
{
	struct tr_sockaddr *addrs = NULL;
	size_t count = 0;
	int err = err_of(status);

	if (err == TR_OK) {
		for (struct ares_addrinfo_node *node = info->nodes; node != NULL; node = node->ai_next)
			count++;
		addrs = calloc(count > 0 ? count : 1, sizeof *addrs);
		if (addrs == NULL)
			err = TR_ENOMEM;
		else if (count == 0)
			err = TR_ENOENT;
		count = 0;
		for (struct ares_addrinfo_node *node = info->nodes; err == TR_OK && node != NULL;
			node = node->ai_next) {
			if (node->ai_addrlen > sizeof addrs->ss)
				continue;
			memcpy(&addrs[count].ss, node->ai_addr, node->ai_addrlen);
			addrs[count++].len = (socklen_t)node->ai_addrlen;
		}
	}
	answer(query, err, addrs, err == TR_OK ? count : 0);
	free(addrs);
}

static void
answered(void *arg, int status, int timeouts, struct ares_addrinfo *info)
{
	struct tr_dns_query *query = arg;

	query->asked = false;
	if (query->asking) {
		query->status = status;
		query->info = info;
		return;
	}
	if (query->then == NULL)
		free_query(query);
	else if (query->dns->freeing)
		settle(query);
	else
		answer_addrs(query, status, info);
	if (info != NULL)
		ares_freeaddrinfo(info);
}

static void
answer_held(struct tr_defer *later)
{
	struct tr_dns_query *query = tr_container_of(later, struct tr_dns_query, later);
	struct ares_addrinfo *info = query->info;

	query->info = NULL;
	answer_addrs(query, query->status, info);
	if (info != NULL)
		ares_freeaddrinfo(info);
}

static void
answer_literal(struct tr_defer *later)
{
	struct tr_dns_query *query = tr_container_of(later, struct tr_dns_query, later);
	struct tr_sockaddr literal = query->literal; /* answer() frees the query */

	answer(query, TR_OK, &literal, 1);
}

static void
timed_out(struct tr_timer *timer)
{
	answer(tr_container_of(timer, struct tr_dns_query, timeout), TR_ETIMEDOUT, NULL, 0);
}

struct tr_dns_query *
tr_dns_addr(struct tr_dns *dns, const char *name, int64_t timeout_ns,
	void (*then)(void *arg, int err, const struct tr_sockaddr *addrs, size_t count), void *arg)
{
	/* NOSORT: sorting opens a socket per address; the caller orders them by its own rules. */
	static const struct ares_addrinfo_hints hints = {
		.ai_flags = ARES_AI_NOSORT, .ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
	struct tr_dns_query *query = calloc(1, sizeof *query);
	struct tr_str text = tr_str(name);

	if (query == NULL)
		return NULL;
	query->dns = dns;
	query->then = then;
	query->arg = arg;
	query->next = dns->queries;
	query->prev = &dns->queries;
	if (query->next != NULL)
		query->next->prev = &query->next;
	dns->queries = query;
	tr_hold_take();
	if (text.len > 2 && text.data[0] == '[' && text.data[text.len - 1] == ']') /* [192.0.2.1], [2001:db8::1] */
		text = (struct tr_str){text.data + 1, text.len - 2};
	if (text.len > 5 && tr_str_ieq((struct tr_str){text.data, 5}, TR_STR("IPv6:")))
		text = (struct tr_str){text.data + 5, text.len - 5};
	if (text.len > 0 && text.data[0] != '/' && tr_sockaddr_parse(text, 1, &query->literal) == TR_OK &&
		tr_sockaddr_port(&query->literal) == 1) {
		tr_sockaddr_set_port(&query->literal, 0);
		tr_loop_defer(dns->loop, &query->later, answer_literal);
		return query;
	}
	tr_timer_start(tr_loop_wheel(dns->loop), &query->timeout, timeout_ns, timed_out);
	query->asking = query->asked = true;
	ares_getaddrinfo(dns->channel, name, NULL, &hints, answered, query);
	query->asking = false;
	if (!query->asked) /* from /etc/hosts, or a bad name: the caller must have the query's address first */
		tr_loop_defer(dns->loop, &query->later, answer_held);
	rearm(dns);
	return query;
}

void
tr_dns_cancel(struct tr_dns_query *query)
{
	if (query != NULL && query->then != NULL)
		settle(query);
}

int
tr_dns_new(struct tr_loop *loop, struct tr_dns **out)
{
	struct ares_options options = {.timeout = TRY_MS, .tries = TRIES, .sock_state_cb = socket_state};
	struct tr_dns *dns = calloc(1, sizeof *dns);
	int status;

	*out = NULL;
	if (dns == NULL)
		return TR_ENOMEM;
	status = ares_library_init(ARES_LIB_INIT_ALL);
	if (status != ARES_SUCCESS) {
		free(dns);
		return err_of(status);
	}
	dns->loop = loop;
	options.sock_state_cb_data = dns;
	status = ares_init_options(
		&dns->channel, &options, ARES_OPT_TIMEOUTMS | ARES_OPT_TRIES | ARES_OPT_SOCK_STATE_CB);
	if (status != ARES_SUCCESS) {
		tr_log(TR_LEVEL_ERROR, "dns", "the resolver cannot be set up: %s", ares_strerror(status));
		ares_library_cleanup();
		free(dns);
		return status == ARES_ENOMEM ? TR_ENOMEM : TR_EIO;
	}
	ev_timer_init(&dns->resend, resend_cb, 0., 0.);
	dns->resend.data = dns;
	*out = dns;
	return TR_OK;
}

void
tr_dns_free(struct tr_dns *dns)
{
	if (dns == NULL)
		return;
	dns->freeing = true;
	ares_destroy(dns->channel); /* gives back all queries and sockets */
	while (dns->queries != NULL)
		/* literals that were not yet told. NOLINTNEXTLINE(clang-analyzer-unix.Malloc): they leave the list */
		settle(dns->queries);
	ev_timer_stop(tr_loop_ev(dns->loop), &dns->resend);
	ares_library_cleanup();
	free(dns);
}
