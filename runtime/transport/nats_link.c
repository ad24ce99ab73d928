/* Which server a NATS connection is made to, and when: the servers in turn, a pause after a round in which none would
 * do. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/diag.h"
#include "message/message.h"
#include "transport/nats_internal.h"

#define PAUSE_MIN_NS (100 * TR_NS_PER_MS)
#define PAUSE_MAX_NS (4 * TR_NS_PER_S)
#define STEADY_NS TR_NS_PER_S /* a connection that lived that long is made again without a pause */

enum { FOUND_MAX = 64, INBOX_RANDOM = 22 };

static void connect_next(struct tr_nats_connection *connection);
static void begin_round(struct tr_nats_connection *connection);

static struct tr_wheel *
wheel_of(const struct tr_nats_connection *connection)
{
	return tr_loop_wheel(connection->nats->loop);
}

static void
note(struct tr_nats_connection *connection, int err, const char *fmt, va_list args)
{
	vsnprintf(connection->why, sizeof connection->why, fmt, args);
	connection->why_err = err;
}

static void
why(struct tr_nats_connection *connection, int err, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	note(connection, err, fmt, args);
	va_end(args);
}

/* --- servers ------------------------------------------------------------------------------------------------------ */

static int
hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	c = (char)(c | 0x20);
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* A part of a URL with its %XX decoded and a NUL behind it; returns where that ends. */
static char *
add_part(char *at, struct tr_str part, const char **out)
{
	*out = at;
	for (size_t i = 0; i < part.len; i++) {
		int high = i + 2 < part.len && part.data[i] == '%' ? hex_digit(part.data[i + 1]) : -1,
		    low = high >= 0 ? hex_digit(part.data[i + 2]) : -1;

		if (low > 0 || (low == 0 && high > 0)) {
			*at++ = (char)(high << 4 | low);
			i += 2;
		} else {
			*at++ = part.data[i];
		}
	}
	*at++ = '\0';
	return at;
}

static struct tr_str
before(struct tr_str text, const char *end)
{
	return (struct tr_str){text.data, (size_t)(end - text.data)};
}

static struct tr_str
behind(struct tr_str text, const char *at)
{
	return (struct tr_str){at, (size_t)(text.data + text.len - at)};
}

/* [nats://][user[:password]@]host[:port]; NULL: no memory. */
static struct tr_nats_server *
server_new(struct tr_str url)
{
	struct tr_nats_server *server = calloc(1, sizeof *server + 3 * (url.len + 1) + sizeof "nats://[]:65535");
	const char *scheme = memmem(url.data, url.len, "://", 3), *at, *colon;
	struct tr_str login = {NULL, 0}, host;
	char *text = (char *)(server + 1);
	unsigned long port = TR_NATS_PORT;

	if (server == NULL)
		return NULL;
	if (scheme != NULL)
		url = behind(url, scheme + 3);
	at = memrchr(url.data, '@', url.len);
	if (at != NULL) {
		login = before(url, at);
		url = behind(url, at + 1);
		colon = memchr(login.data, ':', login.len);
		text = add_part(text, colon != NULL ? before(login, colon) : login, &server->user);
		if (colon != NULL)
			text = add_part(text, behind(login, colon + 1), &server->password);
	}
	at = memchr(url.data, '/', url.len);
	if (at != NULL)
		url = before(url, at);
	colon = memrchr(url.data, ':', url.len);
	if (colon != NULL && memchr(colon, ']', (size_t)(url.data + url.len - colon)) == NULL &&
		(url.data[0] == '[' || memchr(url.data, ':', url.len) == colon)) {
		host = before(url, colon);
		port = 0;
		for (const char *digit = colon + 1; digit < url.data + url.len && port <= UINT16_MAX; digit++)
			port = *digit >= '0' && *digit <= '9' ? port * 10 + (unsigned long)(*digit - '0')
							      : UINT16_MAX + 1ul;
	} else {
		host = url;
	}
	server->port = port <= UINT16_MAX ? (uint16_t)port : 0; /* 0: it cannot be connected to */
	if (host.len > 2 && host.data[0] == '[' && host.data[host.len - 1] == ']')
		host = (struct tr_str){host.data + 1, host.len - 2};
	text = add_part(text, host, &server->host);
	server->shown = text;
	colon = strchr(server->host, ':');
	sprintf(text, "nats://%s%s%s:%u", colon != NULL ? "[" : "", server->host, colon != NULL ? "]" : "",
		server->port);
	return server;
}

int
tr_nats_link_init(struct tr_nats_connection *connection)
{
	const struct tr_nats_settings *settings = &connection->settings;
	uint32_t order[TR_NATS_SERVERS_MAX];
	struct tr_nats_server **end = &connection->servers;
	uint8_t random[16];
	char hex[33];

	tr_uuid4(random);
	tr_uuid_hex(random, hex);
	for (uint32_t i = 0; i < settings->server_count; i++)
		order[i] = i;
	for (uint32_t i = settings->server_count; i > 1 && !settings->retain_order; i--) {
		uint32_t other = (random[i % 16] + i * random[(i + 5) % 16]) % i, kept = order[i - 1];

		order[i - 1] = order[other];
		order[other] = kept;
	}
	for (uint32_t i = 0; i < settings->server_count; i++) {
		struct tr_nats_server *server = server_new(settings->servers[order[i]]);

		if (server == NULL)
			return TR_ENOMEM;
		*end = server;
		end = &server->next;
	}
	connection->inbox_len = (size_t)snprintf(connection->inbox, sizeof connection->inbox, "%.200s.%.*s",
		settings->inbox_prefix.data != NULL ? settings->inbox_prefix.data : "_INBOX", INBOX_RANDOM, hex);
	return TR_OK;
}

static bool
is_address(const char *host)
{
	struct tr_sockaddr addr;

	return tr_sockaddr_parse(tr_str(host), TR_NATS_PORT, &addr) == TR_OK;
}

/* A cluster tells addresses, and takes the login, and has the certificate, that the server has by which we know it. All
 * texts lie with servers of the settings, as found ones come and go. */
static void
inherit(struct tr_nats_server *server, const struct tr_nats_server *from)
{
	server->user = from->user;
	server->password = from->password;
	if (!is_address(server->host))
		return;
	if (from->found)
		server->tls_name = from->tls_name;
	else if (!is_address(from->host))
		server->tls_name = from->host;
}

void
tr_nats_link_found(struct tr_nats_connection *connection, struct tr_str address)
{
	struct tr_nats_server *server = server_new(address), **end = &connection->servers;
	uint32_t count = 0;

	if (server == NULL)
		return; /* the others will do */
	for (; *end != NULL; end = &(*end)->next) {
		count += (*end)->told;
		if (strcmp((*end)->shown, server->shown) == 0)
			break;
	}
	if (*end != NULL || count >= FOUND_MAX || server->port == 0) {
		if (*end != NULL)
			(*end)->told = (*end)->found;
		free(server);
		return;
	}
	server->found = server->told = true;
	server->user = server->password = NULL;
	if (connection->server != NULL)
		inherit(server, connection->server);
	*end = server;
}

void
tr_nats_link_found_all(struct tr_nats_connection *connection)
{
	for (struct tr_nats_server **at = &connection->servers; *at != NULL;) {
		struct tr_nats_server *server = *at;

		if (server->found && !server->told && server != connection->server) {
			*at = server->next;
			free(server);
		} else {
			server->told = false;
			at = &server->next;
		}
	}
}

/* --- stages ------------------------------------------------------------------------------------------------------- */

/* Nothing of an attempt or a connection is left. */
static void
drop(struct tr_nats_connection *connection, int64_t linger_ns)
{
	tr_dns_cancel(connection->query);
	connection->query = NULL;
	tr_connect_cancel(connection->connecting);
	connection->connecting = NULL;
	tr_timer_stop(wheel_of(connection), &connection->timer);
	tr_nats_read_end(connection, linger_ns);
	connection->addr_count = connection->addr_at = 0;
}

static void
next_round(struct tr_timer *timer)
{
	begin_round(tr_container_of(timer, struct tr_nats_connection, timer));
}

static void
pause_round(struct tr_nats_connection *connection)
{
	int64_t ns = PAUSE_MIN_NS;

	for (uint32_t i = 0; i < connection->pauses && ns < PAUSE_MAX_NS; i++)
		ns *= 2;
	connection->pauses++;
	connection->state = TR_NATS_PAUSING;
	tr_timer_start(wheel_of(connection), &connection->timer, tr_min_i64(ns, PAUSE_MAX_NS), next_round);
}

/* No server would do. */
static void
round_failed(struct tr_nats_connection *connection)
{
	const struct tr_nats_settings *settings = &connection->settings;
	char text[sizeof connection->why];

	connection->failures++;
	if (!settings->retry_connect && !connection->was_connected) {
		connection->state = TR_NATS_DOWN;
		tr_nats_fail_line(connection, connection->why_err, connection->why);
		return;
	}
	if (settings->max_reconnects == 0 || connection->failures <= settings->max_reconnects) {
		pause_round(connection);
		return;
	}
	connection->state = TR_NATS_DEAD;
	memcpy(text, connection->why, sizeof text);
	why(connection, connection->why_err, "the connection was closed: %.250s", text);
	tr_log(TR_LEVEL_WARN, "nats", "%s; that was the last attempt", connection->why);
	tr_nats_fail_line(connection, connection->why_err, connection->why);
}

void
tr_nats_link_failed(struct tr_nats_connection *connection, int err, const char *fmt, ...)
{
	char text[256];
	va_list args;

	va_start(args, fmt);
	vsnprintf(text, sizeof text, fmt, args);
	va_end(args);
	why(connection, err, "cannot connect to %.120s: %.160s", connection->server->shown, text);
	drop(connection, 0);
	connection->server = connection->server->next;
	if (connection->server != NULL)
		connect_next(connection);
	else
		round_failed(connection);
}

static void
too_long(struct tr_timer *timer)
{
	struct tr_nats_connection *connection = tr_container_of(timer, struct tr_nats_connection, timer);

	tr_nats_link_failed(connection, TR_ETIMEDOUT, "no answer within %g s",
		(double)connection->settings.connect_timeout_ns / (double)TR_NS_PER_S);
}

static void
no_memory(struct tr_timer *timer)
{
	tr_nats_link_failed(tr_container_of(timer, struct tr_nats_connection, timer), TR_ENOMEM, "out of memory");
}

/* --- connecting --------------------------------------------------------------------------------------------------- */

static void connect_addr(struct tr_nats_connection *connection);

static void
connected(void *arg, struct tr_stream *stream, int err, int errnum)
{
	struct tr_nats_connection *connection = arg;

	connection->connecting = NULL;
	if (stream != NULL)
		tr_nats_read_start(connection, stream);
	else if (connection->addr_at < connection->addr_count)
		connect_addr(connection);
	else
		tr_nats_link_failed(connection, err, "%s", errnum != 0 ? strerror(errnum) : tr_err_text(err));
}

/* One that does not answer leaves time for the others: a name may have an address that leads nowhere. */
static void
connect_addr(struct tr_nats_connection *connection)
{
	int64_t limit_ns = connection->settings.connect_timeout_ns / (int64_t)connection->addr_count;

	connection->state = TR_NATS_CONNECTING;
	connection->connecting = tr_stream_connect(connection->nats->loop, &connection->addrs[connection->addr_at++],
		NULL, limit_ns, connected, connection);
	if (connection->connecting == NULL)
		tr_nats_link_failed(connection, TR_ENOMEM, "out of memory");
}

static void
found(void *arg, int err, const struct tr_sockaddr *addrs, size_t count)
{
	struct tr_nats_connection *connection = arg;

	connection->query = NULL;
	if (err != TR_OK || count == 0) {
		tr_nats_link_failed(connection, err == TR_ETIMEDOUT ? err : TR_EREFUSED, "its name is not found");
		return;
	}
	for (size_t i = 0; i < count && i < TR_COUNT(connection->addrs); i++) {
		connection->addrs[i] = addrs[i];
		tr_sockaddr_set_port(&connection->addrs[i], connection->server->port);
		connection->addr_count = i + 1;
	}
	connect_addr(connection);
}

static struct tr_dns *
dns_of(struct tr_nats *nats)
{
	if (nats->dns == NULL && tr_dns_new(nats->loop, &nats->dns) == TR_OK)
		nats->own_dns = true;
	return nats->dns;
}

static void
connect_next(struct tr_nats_connection *connection)
{
	const struct tr_nats_server *server = connection->server;
	struct tr_dns *dns = dns_of(connection->nats);

	connection->state = TR_NATS_RESOLVING;
	tr_timer_start(wheel_of(connection), &connection->timer, connection->settings.connect_timeout_ns, too_long);
	if (dns != NULL)
		connection->query =
			tr_dns_addr(dns, server->host, connection->settings.connect_timeout_ns, found, connection);
	if (connection->query == NULL)
		tr_timer_start(wheel_of(connection), &connection->timer, 0, no_memory);
}

static void
begin_round(struct tr_nats_connection *connection)
{
	connection->server = connection->servers;
	connect_next(connection);
}

void
tr_nats_link_want(struct tr_nats_connection *connection)
{
	if (connection->state == TR_NATS_DOWN)
		begin_round(connection);
}

/* --- connected ---------------------------------------------------------------------------------------------------- */

static void
ping(struct tr_timer *timer)
{
	struct tr_nats_connection *connection = tr_container_of(timer, struct tr_nats_connection, timer);

	tr_timer_start(wheel_of(connection), timer, connection->settings.ping_interval_ns, ping);
	tr_nats_wire_ping(connection);
}

void
tr_nats_link_up(struct tr_nats_connection *connection)
{
	connection->state = TR_NATS_UP;
	connection->up_at_ns = tr_mono_ns();
	connection->failures = 0;
	connection->why[0] = '\0';
	tr_timer_start(wheel_of(connection), &connection->timer, connection->settings.ping_interval_ns, ping);
	tr_metric_add(connection->nats->connects, 1);
	if (connection->was_connected)
		tr_log(TR_LEVEL_INFO, "nats", "%s: connected again", connection->server->shown);
	connection->was_connected = true;
	tr_nats_wire_pump(connection);
}

/* The others first, unless they are in an order of preference: the one that was lost may be gone without a word. */
static void
put_last(struct tr_nats_connection *connection)
{
	struct tr_nats_server **at = &connection->servers, *server = connection->server;

	if (connection->settings.retain_order)
		return;
	while (*at != server)
		at = &(*at)->next;
	*at = server->next;
	while (*at != NULL)
		at = &(*at)->next;
	*at = server;
	server->next = NULL;
}

void
tr_nats_link_lost(struct tr_nats_connection *connection, int err, const char *fmt, ...)
{
	bool steady = connection->state == TR_NATS_UP && tr_mono_ns() - connection->up_at_ns >= STEADY_NS;
	char text[sizeof connection->why + 40];
	va_list args;

	va_start(args, fmt);
	note(connection, err, fmt, args);
	va_end(args);
	tr_log(TR_LEVEL_WARN, "nats", "%s: %s", connection->server->shown, connection->why);
	drop(connection, 0);
	put_last(connection);
	if (steady)
		connection->pauses = 0;
	snprintf(text, sizeof text, "%s; it may have arrived", connection->why);
	if (steady)
		begin_round(connection);
	else
		pause_round(connection);
	tr_nats_fail_sent(connection, (struct tr_str){NULL, 0}, err, text);
}

void
tr_nats_link_forget(struct tr_nats_connection *connection)
{
	if (connection->state == TR_NATS_UP || connection->state == TR_NATS_DEAD)
		return;
	drop(connection, 0);
	connection->state = TR_NATS_DOWN;
}

void
tr_nats_link_fini(struct tr_nats_connection *connection)
{
	struct tr_nats_server *server, *next;

	drop(connection, connection->nats->ending ? 0 : TR_NS_PER_S);
	connection->state = TR_NATS_DEAD;
	for (server = connection->servers; server != NULL; server = next) {
		next = server->next;
		free(server);
	}
	connection->servers = connection->server = NULL;
}
