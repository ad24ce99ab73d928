/* A name server of the tests: UDP and TCP of one port of loopback, in the test's own loop; a script writes its replies.
 * And replies as bytes, for whoever reads them. */
#ifndef TR_TEST_DNS_PEER_H
#define TR_TEST_DNS_PEER_H

#include <arpa/inet.h>
#include <ev.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/loop.h"
#include "net/dns_answer.h"

/* --- bytes ----------------------------------------------------------------------------------------------- */

static inline void
put16(struct tr_buf *out, uint32_t value)
{
	tr_buf_addc(out, (char)(value >> 8));
	tr_buf_addc(out, (char)value);
}

static inline void
put32(struct tr_buf *out, uint32_t value)
{
	put16(out, value >> 16);
	put16(out, value);
}

static inline void
put_name(struct tr_buf *out, const char *name)
{
	while (*name != '\0') {
		size_t len = strcspn(name, ".");

		tr_buf_addc(out, (char)len);
		tr_buf_add(out, name, len);
		name += len + (name[len] == '.');
	}
	tr_buf_addc(out, '\0');
}

/* flags: 0x8180 of an ordinary reply, its rcode in the lowest bits. */
static inline void
put_head(struct tr_buf *out, uint16_t id, uint16_t flags, uint16_t answers, uint16_t authorities, const char *name,
	uint16_t type)
{
	put16(out, id);
	put16(out, flags);
	put16(out, 1);
	put16(out, answers);
	put16(out, authorities);
	put16(out, 0);
	put_name(out, name);
	put16(out, type);
	put16(out, 1);
}

static inline void
put_rr(struct tr_buf *out, const char *owner, uint16_t type, uint32_t ttl_s, const void *data, size_t len)
{
	put_name(out, owner);
	put16(out, type);
	put16(out, 1);
	put32(out, ttl_s);
	put16(out, (uint32_t)len);
	tr_buf_add(out, data, len);
}

static inline void
put_a(struct tr_buf *out, const char *owner, uint32_t ttl_s, const char *addr)
{
	struct in_addr in;

	inet_pton(AF_INET, addr, &in);
	put_rr(out, owner, TR_DNS_A, ttl_s, &in, 4);
}

static inline void
put_named(struct tr_buf *out, const char *owner, uint16_t type, uint32_t ttl_s, int preference, const char *name)
{
	struct tr_buf data = {0};

	if (preference >= 0)
		put16(&data, (uint32_t)preference);
	put_name(&data, name);
	put_rr(out, owner, type, ttl_s, data.data, data.len);
	tr_buf_free(&data);
}

static inline void
put_soa(struct tr_buf *out, const char *owner, uint32_t ttl_s, uint32_t minimum_s)
{
	struct tr_buf data = {0};

	put_name(&data, "ns.test");
	put_name(&data, "admin.test");
	for (int i = 0; i < 4; i++)
		put32(&data, 3600);
	put32(&data, minimum_s);
	put_rr(out, owner, TR_DNS_SOA, ttl_s, data.data, data.len);
	tr_buf_free(&data);
}

/* --- the server -------------------------------------------------------------------------------------------- */

struct dns_question {
	uint16_t id, type;
	bool tcp;
	char name[256]; /* lower case */
};

struct dns_peer {
	struct tr_loop *loop;
	uint16_t port;
	ev_io udp, tcp, stream; /* one TCP connection at a time */
	int questions, tcp_questions;
	/* Writes a reply; none: the question is left unanswered. */
	void (*script)(struct dns_peer *peer, const struct dns_question *question, struct tr_buf *reply);
	void *arg;
};

static inline bool
peer_reads(const uint8_t *data, size_t len, struct dns_question *out)
{
	size_t at = 12, used = 0;

	if (len < 17)
		return false;
	out->id = (uint16_t)(data[0] << 8 | data[1]);
	while (at < len && data[at] != 0) {
		size_t label = data[at++];

		if (at + label >= len || used + label + 2 > sizeof out->name)
			return false;
		if (used > 0)
			out->name[used++] = '.';
		for (size_t i = 0; i < label; i++) {
			char c = (char)data[at++];

			out->name[used++] = c >= 'A' && c <= 'Z' ? (char)(c | 0x20) : c;
		}
	}
	out->name[used] = '\0';
	if (at + 3 > len)
		return false;
	out->type = (uint16_t)(data[at + 1] << 8 | data[at + 2]);
	return true;
}

static inline void
peer_udp(struct ev_loop *ev, ev_io *io, int revents)
{
	struct dns_peer *peer = io->data;
	uint8_t data[2048];
	struct sockaddr_in from;
	socklen_t from_len = sizeof from;
	ssize_t len = recvfrom(io->fd, data, sizeof data, 0, (struct sockaddr *)&from, &from_len);
	struct dns_question question = {0};
	struct tr_buf reply = {0};

	if (len <= 0 || !peer_reads(data, (size_t)len, &question))
		return;
	peer->questions++;
	peer->script(peer, &question, &reply);
	if (reply.len > 0)
		sendto(io->fd, reply.data, reply.len, 0, (struct sockaddr *)&from, from_len);
	tr_buf_free(&reply);
}

static inline void
peer_stream(struct ev_loop *ev, ev_io *io, int revents)
{
	struct dns_peer *peer = io->data;
	uint8_t data[2048];
	ssize_t len = read(io->fd, data, sizeof data);
	struct dns_question question = {.tcp = true};
	struct tr_buf reply = {0}, framed = {0};

	if (len <= 0) {
		ev_io_stop(ev, io);
		close(io->fd);
		return;
	}
	if (len <= 2 || !peer_reads(data + 2, (size_t)len - 2, &question))
		return;
	peer->questions++;
	peer->tcp_questions++;
	peer->script(peer, &question, &reply);
	if (reply.len > 0) {
		size_t sent = 0;

		put16(&framed, (uint32_t)reply.len);
		tr_buf_add(&framed, reply.data, reply.len);
		while (sent < framed.len) {
			ssize_t n = write(io->fd, framed.data + sent, framed.len - sent);

			if (n <= 0)
				break;
			sent += (size_t)n;
		}
	}
	tr_buf_free(&framed);
	tr_buf_free(&reply);
}

static inline void
peer_accept(struct ev_loop *ev, ev_io *io, int revents)
{
	struct dns_peer *peer = io->data;
	int fd = accept(io->fd, NULL, NULL);

	if (fd < 0)
		return;
	if (ev_is_active(&peer->stream)) {
		ev_io_stop(ev, &peer->stream);
		close(peer->stream.fd);
	}
	ev_io_init(&peer->stream, peer_stream, fd, EV_READ);
	peer->stream.data = peer;
	ev_io_start(ev, &peer->stream);
}

static inline bool
peer_start(struct dns_peer *peer, struct tr_loop *loop,
	void (*script)(struct dns_peer *peer, const struct dns_question *question, struct tr_buf *reply))
{
	*peer = (struct dns_peer){.loop = loop, .script = script};
	for (int tries = 0; tries < 50; tries++) { /* until a port is free for both */
		struct sockaddr_in addr = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
		socklen_t len = sizeof addr;
		int udp = socket(AF_INET, SOCK_DGRAM, 0), tcp = socket(AF_INET, SOCK_STREAM, 0);

		if (bind(udp, (struct sockaddr *)&addr, sizeof addr) == 0 &&
			getsockname(udp, (struct sockaddr *)&addr, &len) == 0 &&
			bind(tcp, (struct sockaddr *)&addr, sizeof addr) == 0 && listen(tcp, 8) == 0) {
			peer->port = ntohs(addr.sin_port);
			ev_io_init(&peer->udp, peer_udp, udp, EV_READ);
			ev_io_init(&peer->tcp, peer_accept, tcp, EV_READ);
			peer->udp.data = peer->tcp.data = peer;
			ev_io_start(tr_loop_ev(loop), &peer->udp);
			ev_io_start(tr_loop_ev(loop), &peer->tcp);
			return true;
		}
		close(udp);
		close(tcp);
	}
	return false;
}

static inline void
peer_stop(struct dns_peer *peer)
{
	ev_io *watchers[] = {&peer->udp, &peer->tcp, &peer->stream};

	for (size_t i = 0; i < TR_COUNT(watchers); i++) {
		if (!ev_is_active(watchers[i]))
			continue;
		ev_io_stop(tr_loop_ev(peer->loop), watchers[i]);
		close(watchers[i]->fd);
	}
}

#endif
