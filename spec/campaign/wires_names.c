/* Look-ups at a name server: c-ares. */
#include <arpa/inet.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "memory.h"
#include "net/dns.h"
#include "net/mx.h"
#include "wires.h"

#define ADDRESS "192.0.2.1"
#define KEPT_NS (20 * TR_NS_PER_MS) /* failures are */

/* Knows an address of each name under "test", and no other name. */
static void *
answering(void *arg)
{
	int fd = *(int *)arg;
	uint8_t data[512];
	struct sockaddr_in from;
	socklen_t room = sizeof from;
	ssize_t len;

	memory_exempt(1);
	while ((len = recvfrom(fd, data, 300, 0, (struct sockaddr *)&from, &room)) > 12) {
		static const uint8_t record[] = {0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 1};
		bool is_known = memmem(data, (size_t)len, "\4test", 6) != NULL;
		bool is_v4 = len > 16 && memmem(data + 12, (size_t)len - 12, "\0\0\1\0\1", 5) != NULL;

		data[2] = 0x81;
		data[3] = is_known ? 0x80 : 0x83;
		data[7] = is_known && is_v4;
		memset(data + 8, 0, 4); /* without EDNS: nothing stands behind the question */
		for (len = 12; data[len] != 0; len += data[len] + 1)
			;
		len += 5;
		if (data[7] != 0) {
			memcpy(data + len, record, sizeof record);
			len += (ssize_t)sizeof record;
		}
		sendto(fd, data, (size_t)len, 0, (struct sockaddr *)&from, room);
	}
	return NULL;
}

struct found {
	bool ended;
	int err;
	char first[64];
	bool has_why;
};

static void
found(void *arg, const struct tr_dns_found *result)
{
	struct found *found = arg;

	found->ended = true;
	found->err = result->err;
	found->has_why = result->why != NULL && result->why[0] != '\0';
	if (result->count > 0)
		tr_sockaddr_text(&result->addrs[0], false, found->first);
}

/* Returns whether it was found. It must not end as a name that does not exist: mail for it would bounce. */
static bool
look_up(struct tr_loop *loop, struct tr_dns *dns, const char *name, const char *address)
{
	const enum tr_ip_strategy strategy = TR_IP_V4_ONLY;
	struct found end = {.ended = false};

	if (tr_dns_addrs(dns, NULL, name, &strategy, WIRE_STEP_NS, found, &end) == NULL)
		return false;
	if (!wire_wait(loop, &end.ended))
		wire_wrong("the look-up of %s does not end", name);
	if (end.err == TR_ENOENT)
		wire_wrong("%s is said not to exist", name);
	if (end.err == TR_OK && strcmp(end.first, address) != 0)
		wire_wrong("%s has the address %s", name, end.first);
	if (end.err != TR_OK && end.err != TR_ENOMEM && !end.has_why && wire_tells())
		wire_wrong("it ended as %s, and no text tells why", tr_err_name(end.err));
	return end.err == TR_OK;
}

static void
found_mx(void *arg, struct tr_mx *mx)
{
	struct found *found = arg;

	found->ended = true;
	found->err = mx == NULL ? TR_ENOMEM : mx->err;
	found->has_why = mx != NULL && mx->why != NULL;
	if (found->err == TR_OK && mx->count > 0)
		snprintf(found->first, sizeof found->first, "%s", mx->hosts[0].name);
}

/* The same of where mail for a domain goes: it has no MX, so to itself. */
static bool
look_up_mx(struct tr_loop *loop, struct tr_dns *dns, const char *domain, const char *host)
{
	struct found end = {.ended = false};

	if (tr_mx_find(dns, NULL, domain, found_mx, &end) == NULL)
		return false;
	if (!wire_wait(loop, &end.ended))
		wire_wrong("the look-up of %s does not end", domain);
	if (end.err == TR_ENOENT)
		wire_wrong("%s is said not to exist", domain);
	if (end.err == TR_OK && strcmp(end.first, host) != 0)
		wire_wrong("mail for %s goes to %s", domain, end.first);
	return end.err == TR_OK;
}

static const struct {
	bool mx;
	const char *name, *expected;
} cases[] = {
	{false, "localhost", "127.0.0.1"}, /* of /etc/hosts: the server does not know it */
	{false, "a.test", ADDRESS},
	{false, "short", ADDRESS}, /* .search.test */
	{false, "b\u00fccher.test", ADDRESS},
	{true, "[192.0.2.7]", "192.0.2.7"},
	{true, "m.test", "m.test"},
	{true, "m\u00fcller.test", "xn--mller-kva.test"},
};

static bool
look_up_case(struct tr_loop *loop, struct tr_dns *dns, size_t i)
{
	return (cases[i].mx ? look_up_mx : look_up)(loop, dns, cases[i].name, cases[i].expected);
}

/* An own resolver in place of the system's. */
static int
use_server(struct tr_dns *dns, const char *servers)
{
	struct tr_resolver *resolver = tr_resolver_new(TR_RESOLVER_SERVERS);
	int err = TR_ENOMEM;

	if (resolver == NULL)
		return TR_ENOMEM;
	resolver->servers = strdup(servers);
	resolver->search = strdup("search.test");
	resolver->hosts_file = true;
	resolver->try_ns = TR_NS_PER_S; /* 7 s in all: its end comes before that of a look-up */
	resolver->attempts = 3;
	resolver->negative_min_ns = resolver->negative_max_ns = KEPT_NS;
	if (resolver->servers != NULL && resolver->search != NULL)
		err = tr_resolver_ready(resolver);
	if (err == TR_OK)
		return tr_resolvers_set(tr_dns_resolvers(dns), NULL, resolver);
	tr_resolver_unref(resolver);
	return err;
}

static void
run_dns(struct tr_loop *loop)
{
	struct sockaddr_in addr = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof addr;
	static int fd;
	pthread_t thread;
	struct tr_dns *dns;
	char servers[64];

	fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (bind(fd, (struct sockaddr *)&addr, sizeof addr) != 0 ||
		getsockname(fd, (struct sockaddr *)&addr, &len) != 0 ||
		pthread_create(&thread, NULL, answering, &fd) != 0)
		abort();
	pthread_detach(thread);
	snprintf(servers, sizeof servers, "127.0.0.1:%u", ntohs(addr.sin_port));
	wire_begin();
	WIRE_MAKE(tr_dns_new(loop, &dns));
	atomic_store(&tr_dns_resolvers(dns)->mx_negative_ns, KEPT_NS);
	atomic_store(&tr_dns_resolvers(dns)->mx_timeout_ns, WIRE_STEP_NS);
	WIRE_MAKE(use_server(dns, servers));
	for (size_t i = 0; i < TR_COUNT(cases); i++)
		(void)look_up_case(loop, dns, i);
	wire_calm();
	for (size_t i = 0; i < TR_COUNT(cases); i++) {
		if (look_up_case(loop, dns, i))
			continue;
		wire_pause(loop, 2 * KEPT_NS); /* c-ares says of its own memory that the server failed */
		if (!look_up_case(loop, dns, i))
			wire_wrong("%s is not found after the faults either", cases[i].name);
	}
	tr_dns_free(dns);
}

const struct wire wire_dns = {"dns", run_dns};
