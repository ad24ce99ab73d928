#include "net/dns_channel.h"

#include <ares.h>
#include <ev.h>
#include <netdb.h>
#include <stdlib.h>
#include <sys/time.h>

#include "base/diag.h"

#define BACKSTOP_S 1.0
#define HOSTS_TTL_S 60 /* how soon a change of the hosts file is seen */

struct watch { /* one socket of c-ares */
	struct watch *next;
	struct tr_dns_channel *channel;
	ev_io io;
};

struct tr_dns_channel {
	struct tr_loop *loop;
	struct tr_resolver *resolver;
	ares_channel ares;
	struct watch *watches;
	bool starved;    /* there was no memory for a socket; until somebody was told */
	ev_timer resend; /* c-ares' own clock: of real packets, so in real time */
};

struct question {
	struct tr_dns_channel *channel;
	enum tr_dns_type type;
	bool search;
	void (*then)(void *arg, struct tr_dns_answer *answer);
	void *arg;
	char name[];
};

/* --- sockets and time of c-ares ------------------------------------------------------------------------- */

static void
rearm(struct tr_dns_channel *channel)
{
	struct timeval most = {(time_t)BACKSTOP_S, 0}, buffer, *next;
	struct ev_loop *ev = tr_loop_ev(channel->loop);

	ev_timer_stop(ev, &channel->resend);
	if (channel->watches == NULL)
		return;
	next = ares_timeout(channel->ares, &most, &buffer);
	ev_timer_set(&channel->resend, (double)next->tv_sec + (double)next->tv_usec / 1e6, 0.);
	ev_timer_start(ev, &channel->resend);
}

static void
resend_cb(struct ev_loop *ev, ev_timer *watcher, int revents)
{
	struct tr_dns_channel *channel = watcher->data;

	ares_process_fd(channel->ares, ARES_SOCKET_BAD, ARES_SOCKET_BAD);
	rearm(channel);
}

static void
io_cb(struct ev_loop *ev, ev_io *io, int revents)
{
	struct tr_dns_channel *channel = ((struct watch *)io->data)->channel;
	ares_socket_t fd = io->fd; /* the watch may go inside */

	ares_process_fd(
		channel->ares, revents & EV_READ ? fd : ARES_SOCKET_BAD, revents & EV_WRITE ? fd : ARES_SOCKET_BAD);
	rearm(channel);
}

/* A socket without a watch would never be heard, nor closed: then there is none. */
static int
socket_made(ares_socket_t fd, int type, void *arg)
{
	struct tr_dns_channel *channel = arg;
	struct watch *watch = calloc(1, sizeof *watch);

	if (watch == NULL) {
		channel->starved = true;
		return -1;
	}
	watch->channel = channel;
	watch->next = channel->watches;
	channel->watches = watch;
	ev_io_init(&watch->io, io_cb, fd, 0);
	watch->io.data = watch;
	return 0;
}

static void
socket_state(void *arg, ares_socket_t fd, int readable, int writable)
{
	struct tr_dns_channel *channel = arg;
	struct ev_loop *ev = tr_loop_ev(channel->loop);
	struct watch **at = &channel->watches, *watch;

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
	if (watch == NULL) /* it would be no socket of socket_made() */
		return;
	ev_io_stop(ev, &watch->io);
	ev_io_set(&watch->io, fd, (readable ? EV_READ : 0) | (writable ? EV_WRITE : 0));
	ev_io_start(ev, &watch->io);
}

/* --- questions ---------------------------------------------------------------------------------------------- */

static struct tr_dns_answer *
failure(int status)
{
	switch (status) {
	case ARES_ENOTFOUND: /* without a reply: a name of a kind that is never asked for */
	case ARES_EBADNAME:
		return tr_dns_answer_new(TR_DNS_NXDOMAIN, TR_ENOENT, "not a domain name");
	case ARES_ENODATA:
		return tr_dns_answer_new(TR_DNS_NODATA, TR_ENOENT, "no such record");
	case ARES_ETIMEOUT:
		return tr_dns_answer_new(TR_DNS_FAILED, TR_ETIMEDOUT, "no server answered in time");
	case ARES_ECONNREFUSED: /* c-ares says so of servers that answer SERVFAIL, too */
		return tr_dns_answer_new(TR_DNS_FAILED, TR_EPROTO, "SERVFAIL, or no server can be reached");
	case ARES_ESERVFAIL:
		return tr_dns_answer_new(TR_DNS_FAILED, TR_EPROTO, "SERVFAIL");
	case ARES_EREFUSED:
		return tr_dns_answer_new(TR_DNS_FAILED, TR_EPROTO, "REFUSED");
	case ARES_ENOMEM:
		return NULL;
	case ARES_EDESTRUCTION:
	case ARES_ECANCELLED:
		return tr_dns_answer_new(TR_DNS_FAILED, TR_ECANCELED, "cancelled");
	default:
		return tr_dns_answer_new(TR_DNS_FAILED, TR_EPROTO, "a reply that makes no sense");
	}
}

static void
replied(void *arg, int status, int timeouts, unsigned char *data, int len)
{
	struct question *question = arg;
	struct tr_dns_answer *answer = NULL;

	if (data != NULL && len > 0 && (status == ARES_SUCCESS || status == ARES_ENODATA || status == ARES_ENOTFOUND))
		answer = tr_dns_message_parse(
			data, (size_t)len, question->search ? NULL : question->name, question->type);
	else if (!question->channel->starved)
		answer = failure(status);
	question->channel->starved = false;
	question->then(question->arg, answer);
	free(question);
}

void
tr_dns_channel_ask(struct tr_dns_channel *channel, const char *name, enum tr_dns_type type, bool search,
	void (*then)(void *arg, struct tr_dns_answer *answer), void *arg)
{
	struct question *question = malloc(sizeof *question + strlen(name) + 1);

	if (question == NULL) {
		then(arg, NULL);
		return;
	}
	*question = (struct question){.channel = channel, .type = type, .search = search, .then = then, .arg = arg};
	memcpy(question->name, name, strlen(name) + 1);
	if (search)
		ares_search(channel->ares, name, 1 /* IN */, type, replied, question);
	else
		ares_query(channel->ares, *name != '\0' ? name : ".", 1, type, replied, question);
	rearm(channel);
}

int
tr_dns_channel_hosts(
	struct tr_dns_channel *channel, const char *name, enum tr_dns_type type, struct tr_dns_answer **out)
{
	int family = type == TR_DNS_A ? AF_INET : AF_INET6;
	int status;
	struct hostent *host = NULL;
	struct tr_dns_builder *builder;
	struct tr_dns_answer *answer = NULL;

	*out = NULL;
	status = ares_gethostbyname_file(channel->ares, name, family, &host);
	if (status == ARES_SUCCESS) {
		builder = calloc(1, sizeof *builder);
		for (char **addr = host->h_addr_list; builder != NULL && *addr != NULL; addr++)
			tr_dns_builder_add_addr(builder, *addr, (size_t)host->h_length);
		if (builder != NULL)
			answer = tr_dns_builder_end(builder, type);
		free(builder);
		ares_free_hostent(host);
	} else if (status != ARES_ENOMEM) {
		status = ares_gethostbyname_file(channel->ares, name, family == AF_INET ? AF_INET6 : AF_INET, &host);
		if (status != ARES_SUCCESS)
			return status == ARES_ENOMEM ? TR_ENOMEM : TR_OK;
		ares_free_hostent(host);
		answer = tr_dns_answer_new(TR_DNS_NODATA, TR_ENOENT, "no such record");
	}
	if (answer == NULL)
		return TR_ENOMEM;
	answer->ttl_s = HOSTS_TTL_S;
	*out = answer;
	return TR_OK;
}

/* --- life --------------------------------------------------------------------------------------------------- */

/* "a.test b.test" as the array that c-ares wants; it copies. */
static int
split_search(char *text, char **out, int most)
{
	int count = 0;

	for (char *save = NULL, *word = strtok_r(text, " ", &save); word != NULL && count < most;
		word = strtok_r(NULL, " ", &save))
		out[count++] = word;
	return count;
}

static int
set_up(struct tr_dns_channel *channel)
{
	const struct tr_resolver *resolver = channel->resolver;
	char *suffixes[8], *search = NULL;
	struct ares_options options = {
		.timeout = (int)(resolver->try_ns / TR_NS_PER_MS),
		.tries = (int)resolver->attempts,
		.ndots = (int)resolver->ndots,
		.flags = ARES_FLAG_NOALIASES,
		.sock_state_cb = socket_state,
		.sock_state_cb_data = channel,
	};
	int mask = ARES_OPT_TIMEOUTMS | ARES_OPT_TRIES | ARES_OPT_SOCK_STATE_CB | ARES_OPT_FLAGS | ARES_OPT_NDOTS;
	int status;

	options.flags |= (resolver->edns ? ARES_FLAG_EDNS : 0) | (resolver->tcp_only ? ARES_FLAG_USEVC : 0) |
			 (resolver->udp_only ? ARES_FLAG_IGNTC : 0) | (resolver->recursion ? 0 : ARES_FLAG_NORECURSE);
	if (resolver->search != NULL) {
		search = strdup(resolver->search);
		if (search == NULL)
			return ARES_ENOMEM;
		options.domains = suffixes;
		options.ndomains = split_search(search, suffixes, (int)TR_COUNT(suffixes));
		mask |= ARES_OPT_DOMAINS;
	}
	if (resolver->rotate)
		mask |= ARES_OPT_ROTATE;
	status = ares_init_options(&channel->ares, &options, mask);
	free(search);
	if (status == ARES_SUCCESS && resolver->servers != NULL) {
		status = ares_set_servers_ports_csv(channel->ares, resolver->servers);
		if (status != ARES_SUCCESS)
			ares_destroy(channel->ares);
	}
	if (status != ARES_SUCCESS)
		return status;
	ares_set_socket_callback(channel->ares, socket_made, channel);
	if (resolver->bind_v4.s_addr != 0)
		ares_set_local_ip4(channel->ares, ntohl(resolver->bind_v4.s_addr));
	if (resolver->has_bind_v6)
		ares_set_local_ip6(channel->ares, resolver->bind_v6.s6_addr);
	return ARES_SUCCESS;
}

int
tr_dns_channel_new(struct tr_loop *loop, struct tr_resolver *resolver, struct tr_dns_channel **out)
{
	struct tr_dns_channel *channel = calloc(1, sizeof *channel);
	int status;

	*out = NULL;
	if (channel == NULL)
		return TR_ENOMEM;
	channel->loop = loop;
	channel->resolver = tr_resolver_ref(resolver);
	ev_timer_init(&channel->resend, resend_cb, 0., 0.);
	channel->resend.data = channel;
	status = set_up(channel);
	if (status != ARES_SUCCESS) {
		tr_log(TR_LEVEL_ERROR, "dns", "the resolver cannot be set up: %s", ares_strerror(status));
		tr_resolver_unref(resolver);
		free(channel);
		return status == ARES_ENOMEM ? TR_ENOMEM : TR_EIO;
	}
	*out = channel;
	return TR_OK;
}

void
tr_dns_channel_free(struct tr_dns_channel *channel)
{
	if (channel == NULL)
		return;
	ares_destroy(channel->ares); /* gives back all questions and sockets */
	ev_timer_stop(tr_loop_ev(channel->loop), &channel->resend);
	tr_resolver_unref(channel->resolver);
	free(channel);
}
