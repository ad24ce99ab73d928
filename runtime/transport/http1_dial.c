/* Getting a connection: the name's addresses, tried one after the other, the next one also while the one before hangs
 * (RFC 8305, "happy eyeballs"). The first that connects is taken. */
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"
#include "net/scripted.h"
#include "transport/http1.h"
#include "transport/http_internal.h"

#define PACE_S 0.25 /* RFC 8305 section 8 */

struct tr_http1_dial {
	struct tr_http1 *http1;
	struct tr_http_flight *flight;
	struct tr_dns_query *query;
	struct tr_http1_conn *attempts;
	/* Of real packets, so in real time: it must run while the request's hold stops the virtual clock. */
	ev_timer pace;
	int64_t began_ns;
	int errnum;                       /* of the last failed attempt; 0: none was made */
	const struct tr_sockaddr *denied; /* the last that the client's guard does not allow */
	bool kept;                        /* the one address is that of other connections: there may be others */
	size_t next, count;
	struct tr_sockaddr addrs[];
};

static void look_up(struct tr_http1 *http1, struct tr_http_flight *flight);

static void
drop_attempt(struct tr_http1_conn *conn)
{
	*conn->prev = conn->next;
	if (conn->next != NULL)
		conn->next->prev = conn->prev;
	conn->next = NULL;
	conn->prev = NULL;
}

void
tr_http1_dial_stop(struct tr_http_flight *flight)
{
	struct tr_http1_dial *dial = flight->own.dial;

	if (dial == NULL)
		return;
	flight->own.dial = NULL;
	tr_dns_cancel(dial->query);
	ev_timer_stop(tr_loop_ev(dial->http1->loop), &dial->pace);
	while (dial->attempts != NULL) {
		struct tr_http1_conn *conn = dial->attempts;

		drop_attempt(conn);
		tr_http1_conn_free(conn);
	}
	free(dial);
}

/* All addresses have failed. */
static void
give_up(struct tr_http1_dial *dial)
{
	struct tr_http_flight *flight = dial->flight;
	struct tr_http1_place *place = flight->own.place;
	long long ms = (tr_mono_ns() - dial->began_ns) / TR_NS_PER_MS;
	int errnum = dial->errnum, err = tr_err_from_errno(errnum);

	if (errnum == 0 && dial->denied != NULL) {
		char text[160];

		tr_http_denial(dial->denied, text);
		tr_http1_dial_stop(flight);
		tr_http1_fail(flight, TR_EACCES, "%s", text);
		return;
	}
	tr_http1_dial_stop(flight);
	tr_http1_fail(flight, err == TR_EINVAL || err == TR_OK ? TR_EIO : err,
		"Couldn't connect to server: Failed to connect to %s port %u after %lld ms: Couldn't connect to "
		"server: %s",
		place->name, place->port, ms, strerror(errnum));
}

/* Begins to connect; errno is kept if that is not possible. The guard sees the very address that is connected to. */
static bool
attempt(struct tr_http1_dial *dial, const struct tr_sockaddr *addr)
{
	struct tr_http1_conn *conn;
	enum tr_scripted_kind kind;
	int on = 1, fd;

	if (!tr_guard_allows(&dial->flight->client->settings.guard, addr)) {
		dial->denied = addr;
		return false;
	}
	conn = calloc(1, sizeof *conn);
	if (conn == NULL) {
		dial->errnum = ENOMEM;
		return false;
	}
	kind = tr_scripted_connect(addr, NULL, &fd, NULL);
	if (kind == TR_SCRIPTED_REAL)
		fd = socket(addr->ss.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0 || (kind == TR_SCRIPTED_REAL && connect(fd, (const struct sockaddr *)&addr->ss, addr->len) != 0 &&
			      errno != EINPROGRESS && errno != EINTR)) {
		dial->errnum = kind == TR_SCRIPTED_REFUSED ? ECONNREFUSED : errno;
		if (fd >= 0)
			close(fd);
		free(conn);
		return false;
	}
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
	conn->http1 = dial->http1;
	conn->addr = *addr;
	conn->flight = dial->flight;
	conn->place = dial->flight->own.place;
	conn->place->refs++;
	conn->next = dial->attempts;
	conn->prev = &dial->attempts;
	if (conn->next != NULL)
		conn->next->prev = &conn->next;
	dial->attempts = conn;
	conn->io.fd = fd;
	tr_http1_conn_watch(conn, EV_WRITE);
	return true;
}

static void
try_next(struct tr_http1_dial *dial)
{
	struct ev_loop *ev = tr_loop_ev(dial->http1->loop);

	ev_timer_stop(ev, &dial->pace);
	while (dial->next < dial->count) {
		if (!attempt(dial, &dial->addrs[dial->next++]))
			continue;
		if (dial->next < dial->count) {
			ev_timer_set(&dial->pace, PACE_S, 0.);
			ev_timer_start(ev, &dial->pace);
		}
		return;
	}
	if (dial->attempts != NULL)
		return;
	if (dial->kept) {
		struct tr_http1 *http1 = dial->http1;
		struct tr_http_flight *flight = dial->flight;

		tr_http1_dial_stop(flight);
		look_up(http1, flight);
	} else {
		give_up(dial);
	}
}

static void
pace_cb(struct ev_loop *ev, ev_timer *timer, int revents)
{
	try_next(tr_container_of(timer, struct tr_http1_dial, pace));
}

/* The attempt can be written to, or has failed: called by the connection's watcher. */
void
tr_http1_dial_ready(struct tr_http1_conn *conn)
{
	struct tr_http1_dial *dial = conn->flight->own.dial;
	int errnum = 0;
	socklen_t len = sizeof errnum;

	if (getsockopt(conn->io.fd, SOL_SOCKET, SO_ERROR, &errnum, &len) != 0)
		errnum = errno;
	drop_attempt(conn);
	if (errnum != 0) {
		dial->errnum = errnum;
		tr_http1_conn_free(conn);
		try_next(dial);
		return;
	}
	tr_http1_dial_stop(conn->flight);
	tr_http1_connected(conn);
}

/* NULL: no memory. */
static struct tr_http1_dial *
dial_new(struct tr_http1 *http1, struct tr_http_flight *flight, size_t count)
{
	struct tr_http1_dial *dial = calloc(1, sizeof *dial + count * sizeof dial->addrs[0]);

	if (dial == NULL)
		return NULL;
	dial->http1 = http1;
	dial->flight = flight;
	dial->began_ns = tr_mono_ns();
	dial->count = count;
	ev_timer_init(&dial->pace, pace_cb, 0., 0.);
	flight->own.dial = dial;
	return dial;
}

/* Families in turn, IPv6 first. */
static void
sort_addrs(struct tr_http1_dial *dial, const struct tr_sockaddr *addrs, size_t count, uint16_t port)
{
	size_t at[2] = {0, 0};

	for (size_t i = 0, turn = 0; i < count; turn ^= 1) {
		size_t *pos = &at[turn];

		while (*pos < count && (addrs[*pos].ss.ss_family == AF_INET6) != (turn == 0))
			++*pos;
		if (*pos == count)
			continue;
		dial->addrs[i] = addrs[(*pos)++];
		tr_sockaddr_set_port(&dial->addrs[i++], port);
	}
}

static void
resolved(void *arg, int err, const struct tr_sockaddr *addrs, size_t count)
{
	struct tr_http1_dial *asking = arg, *dial;
	struct tr_http_flight *flight = asking->flight;
	struct tr_http1 *http1 = asking->http1;

	asking->query = NULL;
	tr_http1_dial_stop(flight);
	/* What c-ares does not know the system may: libcurl asks it, and says what it answers. */
	if (err != TR_OK || count == 0) {
		tr_http_flight_to_curl(flight);
		return;
	}
	dial = dial_new(http1, flight, count);
	if (dial == NULL) {
		tr_http1_fail(flight, TR_ENOMEM, "out of memory");
		return;
	}
	sort_addrs(dial, addrs, count, flight->own.place->port);
	try_next(dial);
}

static void
look_up(struct tr_http1 *http1, struct tr_http_flight *flight)
{
	struct tr_http1_dial *dial = dial_new(http1, flight, 0);
	int err = TR_OK;

	if (http1->dns == NULL)
		err = tr_dns_new(http1->loop, &http1->dns);
	if (dial != NULL && err == TR_OK) /* the call's own deadline ends it */
		dial->query =
			tr_dns_addr(http1->dns, flight->own.place->name, INT32_MAX * TR_NS_PER_MS, resolved, dial);
	if (dial == NULL || dial->query == NULL) {
		tr_http1_dial_stop(flight);
		tr_http1_fail(
			flight, err != TR_OK ? err : TR_ENOMEM, "%s", tr_err_text(err != TR_OK ? err : TR_ENOMEM));
	}
}

int
tr_http1_dial(struct tr_http1 *http1, struct tr_http_flight *flight)
{
	struct tr_http1_place *place = flight->own.place;
	struct tr_http1_dial *dial;

	if (!place->literal && place->conns == 0) {
		look_up(http1, flight);
		return TR_OK;
	}
	dial = dial_new(http1, flight, 1);
	if (dial == NULL)
		return TR_ENOMEM;
	dial->kept = !place->literal;
	dial->addrs[0] = place->addr;
	try_next(dial);
	return TR_OK;
}
