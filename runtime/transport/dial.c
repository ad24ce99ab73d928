#include "transport/dial.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PROXY_ADDRS_MAX 8 /* addresses of the proxy that are tried */

enum step { RESOLVING, CONNECTING, METHOD, AUTH, BIND, CONNECT };

struct tr_dial {
	struct tr_loop *loop;
	const struct tr_dial_config *config;
	struct tr_sockaddr to;
	struct tr_sockaddr proxies[PROXY_ADDRS_MAX];
	size_t proxy_count, proxy_at;
	char proxy_host[256];
	uint16_t proxy_port;
	struct tr_dns_query *query;
	struct tr_connect *connecting;
	struct tr_stream *stream;
	struct tr_defer later; /* an end that is known before tr_dial_start() returns */
	enum tr_dial_trouble trouble;
	enum step step;
	char text[256];
	void (*then)(void *arg, const struct tr_dial_result *result);
	void *arg;
};

static void connect_now(struct tr_dial *dial);

int
tr_dial_address(const char *text, struct tr_sockaddr *out)
{
	struct sockaddr_in *v4 = (struct sockaddr_in *)&out->ss;
	struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)&out->ss;

	memset(out, 0, sizeof *out);
	if (inet_pton(AF_INET, text, &v4->sin_addr) == 1) {
		v4->sin_family = AF_INET;
		out->len = sizeof *v4;
		return TR_OK;
	}
	if (inet_pton(AF_INET6, text, &v6->sin6_addr) == 1) {
		v6->sin6_family = AF_INET6;
		out->len = sizeof *v6;
		return TR_OK;
	}
	return TR_EINVAL;
}

/* --- ends ------------------------------------------------------------------------------------------------------- */

void
tr_dial_cancel(struct tr_dial *dial)
{
	if (dial == NULL)
		return;
	tr_loop_undefer(dial->loop, &dial->later);
	tr_dns_cancel(dial->query);
	tr_connect_cancel(dial->connecting);
	if (dial->stream != NULL)
		tr_stream_abort(dial->stream);
	free(dial);
}

static void
finish(struct tr_dial *dial)
{
	struct tr_dial_result result = {dial->stream, dial->trouble, dial->text};
	void (*then)(void *, const struct tr_dial_result *) = dial->then;
	void *arg = dial->arg;
	char text[sizeof dial->text];

	memcpy(text, dial->text, sizeof text);
	result.text = text;
	dial->stream = NULL;
	tr_dial_cancel(dial);
	then(arg, &result);
}

static void
finish_later(struct tr_defer *defer)
{
	finish(tr_container_of(defer, struct tr_dial, later));
}

static void
say(struct tr_dial *dial, enum tr_dial_trouble trouble, const char *what, const char *why)
{
	dial->trouble = trouble;
	if (trouble == TR_DIAL_PROXY)
		snprintf(dial->text, sizeof dial->text, "proxy %s: %s%s", dial->config->server, what, why);
	else
		snprintf(dial->text, sizeof dial->text, "%s%s", what, why);
}

static void
fail(struct tr_dial *dial, enum tr_dial_trouble trouble, const char *what, const char *why)
{
	say(dial, trouble, what, why);
	if (dial->stream != NULL)
		tr_stream_abort(dial->stream);
	dial->stream = NULL;
	finish(dial);
}

/* This address of the proxy does not work: the next one, or the end. */
static void
proxy_failed(struct tr_dial *dial, const char *what, const char *why)
{
	if (dial->stream != NULL)
		tr_stream_abort(dial->stream);
	dial->stream = NULL;
	if (dial->proxy_at < dial->proxy_count)
		connect_now(dial);
	else
		fail(dial, TR_DIAL_PROXY, what, why);
}

/* --- SOCKS5 --------------------------------------------------------------------------------------------------------
 */

static size_t
put_address(const struct tr_sockaddr *addr, unsigned char *out)
{
	if (addr->ss.ss_family == AF_INET) {
		const struct sockaddr_in *v4 = (const struct sockaddr_in *)&addr->ss;

		out[0] = 1;
		memcpy(out + 1, &v4->sin_addr, 4);
		memcpy(out + 5, &v4->sin_port, 2);
		return 7;
	}
	const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)&addr->ss;

	out[0] = 4;
	memcpy(out + 1, &v6->sin6_addr, 16);
	memcpy(out + 17, &v6->sin6_port, 2);
	return 19;
}

static void
request(struct tr_dial *dial, enum step step, unsigned char command, const struct tr_sockaddr *addr)
{
	unsigned char bytes[32] = {5, command, 0};

	dial->step = step;
	tr_stream_write(dial->stream, bytes, 3 + put_address(addr, bytes + 3));
}

static void
authenticate(struct tr_dial *dial)
{
	size_t user_len = strlen(dial->config->username), pass_len = strlen(dial->config->password);
	unsigned char bytes[3 + 255 + 255];

	dial->step = AUTH;
	bytes[0] = 1;
	bytes[1] = (unsigned char)user_len;
	memcpy(bytes + 2, dial->config->username, user_len);
	bytes[2 + user_len] = (unsigned char)pass_len;
	memcpy(bytes + 3 + user_len, dial->config->password, pass_len);
	tr_stream_write(dial->stream, bytes, 3 + user_len + pass_len);
}

/* Bytes of the answer that a request has got; 0: more must come; -1: nonsense. */
static int
answer_len(const unsigned char *in, size_t len)
{
	size_t need;

	if (len < 5)
		return 0;
	if (in[0] != 5)
		return -1;
	switch (in[3]) {
	case 1:
		need = 4 + 4 + 2;
		break;
	case 3:
		need = 4 + 1 + (size_t)in[4] + 2;
		break;
	case 4:
		need = 4 + 16 + 2;
		break;
	default:
		return -1;
	}
	return len >= need ? (int)need : 0;
}

static const char *
refusal(unsigned char code)
{
	static const char *const texts[] = {"", "general failure", "not allowed by its rules", "network unreachable",
		"host unreachable", "connection refused", "time to live expired", "command not supported",
		"address type not supported"};

	return code < TR_COUNT(texts) ? texts[code] : "unknown refusal";
}

/* False: not enough has come, or the dial has ended. */
static bool
socks_step(struct tr_dial *dial)
{
	struct tr_buf *in = tr_stream_input(dial->stream);
	const unsigned char *bytes = (const unsigned char *)in->data;
	int len;

	if (dial->step == METHOD || dial->step == AUTH) {
		bool method = dial->step == METHOD, fine;
		unsigned char first, second;

		if (in->len < 2)
			return false;
		first = bytes[0];
		second = bytes[1];
		tr_buf_consume(in, 2);
		fine = method ? first == 5 : first == 1;
		if (fine && method && second == 2 && dial->config->username != NULL) {
			authenticate(dial);
		} else if (fine && second == 0) {
			request(dial, BIND, 2, &dial->config->proxy_source);
		} else {
			proxy_failed(
				dial, method ? "it takes no method of ours" : "it does not take user and password", "");
			return false;
		}
		return true;
	}
	len = answer_len(bytes, in->len);
	if (len == 0)
		return false;
	if (len < 0) {
		proxy_failed(dial, "its answer makes no sense", "");
		return false;
	}
	unsigned char code = bytes[1];

	tr_buf_consume(in, (size_t)len);
	if (code != 0 && dial->step == CONNECT && code >= 3 && code <= 6) {
		fail(dial, TR_DIAL_TARGET, refusal(code), ", says the proxy");
		return false;
	}
	if (code != 0) {
		proxy_failed(dial, dial->step == BIND ? "binding the source address: " : "connecting: ", refusal(code));
		return false;
	}
	if (dial->step == BIND) {
		request(dial, CONNECT, 1, &dial->to);
		return true;
	}
	tr_stream_deadline(dial->stream, 0);
	finish(dial); /* what came behind the answer is the peer's */
	return false;
}

static void
socks_data(struct tr_stream *stream, void *arg)
{
	while (socks_step(arg))
		;
}

static void
socks_closed(struct tr_stream *stream, int err, void *arg)
{
	proxy_failed(arg, err == TR_ETIMEDOUT ? "no answer in time" : "it closed the connection", "");
}

static const struct tr_stream_handlers socks_handlers = {socks_data, NULL, socks_closed};

static void
socks_begin(struct tr_dial *dial)
{
	bool auth = dial->config->username != NULL;

	dial->step = METHOD;
	tr_stream_set_handlers(dial->stream, &socks_handlers, dial);
	tr_stream_deadline(dial->stream, dial->config->timeout_ns);
	tr_stream_write(dial->stream, auth ? "\x05\x02\x00\x02" : "\x05\x01\x00", auth ? 4 : 3);
}

/* --- HAProxy --------------------------------------------------------------------------------------------------------
 */

static void
haproxy_header(struct tr_dial *dial)
{
	static const unsigned char signature[12] = "\r\n\r\n\0\r\nQUIT\n";
	const struct tr_sockaddr *from = &dial->config->proxy_source, *to = &dial->to;
	unsigned char bytes[16 + 36];
	size_t size = to->ss.ss_family == AF_INET ? 4 : 16, at = 16;
	unsigned char address[32];

	memcpy(bytes, signature, sizeof signature);
	bytes[12] = 0x21;                    /* version 2, PROXY */
	bytes[13] = size == 4 ? 0x11 : 0x21; /* TCP over IPv4, IPv6 */
	bytes[14] = 0;
	bytes[15] = (unsigned char)(size * 2 + 4);
	put_address(from, address);
	memcpy(bytes + at, address + 1, size);
	memcpy(bytes + at + 2 * size, address + 1 + size, 2);
	put_address(to, address);
	memcpy(bytes + at + size, address + 1, size);
	memcpy(bytes + at + 2 * size + 2, address + 1 + size, 2);
	tr_stream_write(dial->stream, bytes, at + 2 * size + 4);
}

/* --- connecting -----------------------------------------------------------------------------------------------------
 */

static void
connected(void *arg, struct tr_stream *stream, int err, int errnum)
{
	struct tr_dial *dial = arg;
	const char *why = errnum != 0 ? strerrordesc_np(errnum) : tr_err_text(err);

	dial->connecting = NULL;
	dial->stream = stream;
	if (stream == NULL && errnum == EADDRNOTAVAIL && dial->config->source.len > 0) {
		char address[64];

		tr_sockaddr_text(&dial->config->source, false, address);
		fail(dial, TR_DIAL_UNPLUMBED, "the source address cannot be used: ", address);
	} else if (stream == NULL) {
		if (err == TR_EREFUSED)
			why = "connection refused";
		else if (err == TR_ETIMEDOUT)
			why = "timed out connecting";
		if (dial->config->kind != TR_PROXY_NONE)
			proxy_failed(dial, why, "");
		else if (err == TR_EREFUSED || err == TR_ETIMEDOUT)
			fail(dial, TR_DIAL_TARGET, why, "");
		else
			fail(dial, TR_DIAL_TARGET, "cannot connect: ", why);
	} else if (dial->config->kind == TR_PROXY_SOCKS5) {
		socks_begin(dial);
	} else {
		if (dial->config->kind == TR_PROXY_HAPROXY)
			haproxy_header(dial);
		finish(dial);
	}
}

static void
end_later(struct tr_dial *dial)
{
	tr_loop_defer(dial->loop, &dial->later, finish_later);
}

static void
connect_now(struct tr_dial *dial)
{
	const struct tr_sockaddr *source = dial->config->source.len > 0 ? &dial->config->source : NULL, *to = &dial->to;

	if (dial->config->kind != TR_PROXY_NONE)
		to = &dial->proxies[dial->proxy_at++];
	dial->step = CONNECTING;
	if (source != NULL && source->ss.ss_family != to->ss.ss_family) {
		if (dial->config->kind != TR_PROXY_NONE && dial->proxy_at < dial->proxy_count) {
			connect_now(dial);
			return;
		}
		say(dial, dial->config->kind != TR_PROXY_NONE ? TR_DIAL_PROXY : TR_DIAL_TARGET,
			"the source address is of the other address family", "");
		end_later(dial);
		return;
	}
	dial->connecting = tr_stream_connect(dial->loop, to, source, dial->config->timeout_ns, connected, dial);
	if (dial->connecting == NULL) {
		say(dial, TR_DIAL_TARGET, "out of memory", "");
		end_later(dial);
	}
}

static void
resolved(void *arg, int err, const struct tr_sockaddr *addrs, size_t count)
{
	struct tr_dial *dial = arg;

	dial->query = NULL;
	if (err != TR_OK || count == 0) {
		fail(dial, TR_DIAL_PROXY, "its name has no address", "");
		return;
	}
	dial->proxy_count = count < PROXY_ADDRS_MAX ? count : PROXY_ADDRS_MAX;
	for (size_t i = 0; i < dial->proxy_count; i++) {
		dial->proxies[i] = addrs[i];
		tr_sockaddr_set_port(&dial->proxies[i], dial->proxy_port);
	}
	connect_now(dial);
}

static void
find_proxy(struct tr_dial *dial, struct tr_dns *dns)
{
	struct tr_str server = tr_str(dial->config->server);
	const char *colon = strrchr(dial->config->server, ':');

	if (dial->config->proxy_source.ss.ss_family != dial->to.ss.ss_family) {
		say(dial, TR_DIAL_TARGET, "the proxy's source address is of the other address family", "");
		end_later(dial);
		return;
	}
	if (tr_sockaddr_parse(server, 0, &dial->proxies[0]) == TR_OK) {
		dial->proxy_count = 1;
		connect_now(dial);
		return;
	}
	if (colon != NULL)
		snprintf(dial->proxy_host, sizeof dial->proxy_host, "%.*s", (int)(colon - dial->config->server),
			dial->config->server);
	dial->proxy_port = colon != NULL ? (uint16_t)strtoul(colon + 1, NULL, 10) : 0;
	dial->step = RESOLVING;
	dial->query = tr_dns_addr(dns, dial->proxy_host, dial->config->timeout_ns, resolved, dial);
	if (dial->query == NULL) {
		say(dial, TR_DIAL_PROXY, "out of memory", "");
		end_later(dial);
	}
}

struct tr_dial *
tr_dial_start(struct tr_loop *loop, struct tr_dns *dns, const struct tr_dial_config *config,
	const struct tr_sockaddr *to, void (*then)(void *arg, const struct tr_dial_result *result), void *arg)
{
	struct tr_dial *dial = calloc(1, sizeof *dial);

	if (dial == NULL)
		return NULL;
	dial->loop = loop;
	dial->config = config;
	dial->to = *to;
	dial->then = then;
	dial->arg = arg;
	if (config->kind == TR_PROXY_NONE)
		connect_now(dial);
	else
		find_proxy(dial, dns);
	return dial;
}
