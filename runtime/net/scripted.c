#include "net/scripted.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "net/scripted_names.h"
#include "net/stream_internal.h"

#define FIRST_PORT 40000    /* of clients; counted up, so that a run repeats itself */
#define CLIENT_HOST 0xfffeu /* 198.18.255.254 */

struct place {
	struct place *next;
	struct tr_sockaddr at;
	enum tr_scripted_kind kind;
};

struct stray {
	struct stray *next;
	bool told;
	char what[];
};

/* An end that accepted() is to be told about. */
struct fresh {
	struct fresh *next;
	struct tr_scripted_end end;
	struct tr_scripted_listener *listener; /* whose end it is; NULL: the script's */
	int fd;                                /* then */
};

struct tr_scripted_listener {
	struct tr_scripted_listener *next, **prev; /* of the script; prev NULL: it has gone */
	struct tr_sockaddr at;
	void (*accepted)(void *arg, int fd, const struct tr_sockaddr *peer);
	void *arg;
};

/* A descriptor that a listener has got, until it makes a stream of it. */
struct claim {
	struct claim *next;
	int fd;
	struct tr_sockaddr peer, local;
};

struct tr_scripted {
	struct tr_loop *loop;
	void (*accepted)(void *arg, const struct tr_scripted_end *end);
	void *arg;
	enum tr_scripted_kind otherwise;
	struct place *places;
	struct tr_scripted_names names;
	struct stray *strays;
	struct fresh *fresh, **fresh_last;
	struct tr_scripted_listener *listeners;
	struct claim *claims;
	struct tr_defer later;
	uint16_t port;
};

static _Thread_local struct tr_scripted *set;
static struct tr_scripted_listener closed_listener; /* prev NULL: of connections that come too late */

int
tr_scripted_new(struct tr_loop *loop, void (*accepted)(void *arg, const struct tr_scripted_end *end), void *arg,
	struct tr_scripted **out)
{
	struct tr_scripted *script;

	*out = NULL;
	if (set != NULL)
		return TR_EINVAL;
	script = calloc(1, sizeof *script);
	if (script == NULL)
		return TR_ENOMEM;
	script->loop = loop;
	script->accepted = accepted;
	script->arg = arg;
	script->otherwise = TR_SCRIPTED_REFUSED;
	script->fresh_last = &script->fresh;
	script->port = FIRST_PORT;
	*out = set = script;
	return TR_OK;
}

static void
leave(struct tr_scripted_listener *listener)
{
	/* NOLINTNEXTLINE(clang-analyzer-core.NullDereference): what is in the list has a prev */
	*listener->prev = listener->next;
	if (listener->next != NULL)
		listener->next->prev = listener->prev;
	listener->prev = NULL;
}

void
tr_scripted_free(struct tr_scripted *script)
{
	if (script == NULL)
		return;
	tr_loop_undefer(script->loop, &script->later);
	for (struct fresh *fresh = script->fresh, *next; fresh != NULL; fresh = next) {
		next = fresh->next;
		if (fresh->listener != NULL)
			close(fresh->fd);
		else
			tr_stream_abort(fresh->end.stream);
		free(fresh);
	}
	for (struct claim *claim = script->claims, *next; claim != NULL; claim = next) {
		next = claim->next;
		free(claim);
	}
	while (script->listeners != NULL)
		leave(script->listeners);
	for (struct place *place = script->places, *next; place != NULL; place = next) {
		next = place->next;
		free(place);
	}
	for (struct stray *stray = script->strays, *next; stray != NULL; stray = next) {
		next = stray->next;
		free(stray);
	}
	tr_scripted_names_fini(&script->names);
	if (set == script)
		set = NULL;
	free(script);
}

/* --- places, names, strays ------------------------------------------------------------------------------------- */

int
tr_scripted_set(struct tr_scripted *script, const struct tr_sockaddr *at, enum tr_scripted_kind kind)
{
	struct place *place = script->places;

	while (place != NULL && !tr_scripted_same(&place->at, at))
		place = place->next;
	if (place == NULL) {
		place = calloc(1, sizeof *place);
		if (place == NULL)
			return TR_ENOMEM;
		place->at = *at;
		place->next = script->places;
		script->places = place;
	}
	place->kind = kind;
	return TR_OK;
}

void
tr_scripted_otherwise(struct tr_scripted *script, enum tr_scripted_kind kind)
{
	script->otherwise = kind;
}

int
tr_scripted_name(struct tr_scripted *script, const char *name, const struct tr_sockaddr *addr, struct tr_sockaddr *out)
{
	return tr_scripted_names_add(&script->names, name, addr, out);
}

int
tr_scripted_zone(struct tr_scripted *script, struct tr_str text, char error[256])
{
	return tr_scripted_names_zone(&script->names, text, error);
}

static void
note_stray(const char *kind, const char *what)
{
	size_t len = strlen(kind) + strlen(what) + 1;
	struct stray **at = &set->strays, *stray;

	for (; *at != NULL; at = &(*at)->next) {
		if (strncmp((*at)->what, kind, strlen(kind)) == 0 && strcmp((*at)->what + strlen(kind), what) == 0)
			return;
	}
	stray = calloc(1, sizeof *stray + len);
	if (stray == NULL)
		return; /* the connection is refused all the same */
	snprintf(stray->what, len, "%s%s", kind, what);
	*at = stray;
}

char *
tr_scripted_strays(struct tr_scripted *script)
{
	struct tr_buf text = {0};

	for (struct stray *stray = script->strays; stray != NULL; stray = stray->next) {
		if (stray->told)
			continue;
		stray->told = true;
		tr_buf_addf(&text, "%s\n", stray->what);
	}
	if (text.len == 0 || text.failed) {
		tr_buf_free(&text);
		return NULL;
	}
	text.data[text.len - 1] = '\0';
	return text.data;
}

struct tr_dns_answer *
tr_scripted_ask(const char *name, enum tr_dns_type type, bool final)
{
	struct tr_dns_answer *answer;

	if (set == NULL)
		return NULL;
	if (tr_scripted_names_ask(&set->names, name, type, &answer))
		return answer;
	if (final && set->otherwise == TR_SCRIPTED_OPEN &&
		tr_scripted_names_add(&set->names, name, NULL, NULL) == TR_OK &&
		tr_scripted_names_ask(&set->names, name, type, &answer))
		return answer;
	if (!final || set->otherwise == TR_SCRIPTED_REAL)
		return NULL;
	note_stray("name ", name);
	return tr_dns_answer_new(TR_DNS_NXDOMAIN, TR_ENOENT, "NXDOMAIN");
}

/* --- connections --------------------------------------------------------------------------------------------- */

bool
tr_scripted_on(void)
{
	return set != NULL;
}

static void
hand_over(const struct fresh *fresh)
{
	struct claim *claim = calloc(1, sizeof *claim);

	if (claim != NULL) {
		claim->fd = fresh->fd;
		claim->peer = fresh->end.client;
		claim->local = fresh->end.at;
		claim->next = set->claims;
		set->claims = claim;
	}
	fresh->listener->accepted(fresh->listener->arg, fresh->fd, &fresh->end.client);
}

static void
tell_accepted(struct tr_defer *later)
{
	struct tr_scripted *script = tr_container_of(later, struct tr_scripted, later);
	struct fresh *first = script->fresh, fresh;

	if (first == NULL)
		return;
	script->fresh = first->next;
	if (script->fresh == NULL)
		script->fresh_last = &script->fresh;
	else
		tr_loop_defer(script->loop, &script->later, tell_accepted); /* accepted() may free the script */
	fresh = *first;
	free(first);
	if (fresh.listener == NULL)
		script->accepted(script->arg, &fresh.end);
	else if (fresh.listener->prev != NULL)
		hand_over(&fresh);
	else
		close(fresh.fd); /* it was closed meanwhile */
}

static struct tr_scripted_listener *
find_listener(const struct tr_scripted *script, const struct tr_sockaddr *to)
{
	struct tr_scripted_listener *listener = script->listeners;
	char at[64], wanted[64];

	tr_sockaddr_text(to, false, wanted);
	for (; listener != NULL; listener = listener->next) {
		if (tr_scripted_same(&listener->at, to))
			return listener;
		tr_sockaddr_text(&listener->at, false, at);
		if ((strcmp(at, "0.0.0.0") == 0 || strcmp(at, "::") == 0) &&
			tr_sockaddr_port(&listener->at) == tr_sockaddr_port(to) &&
			(strncmp(wanted, "127.", 4) == 0 || strcmp(wanted, "::1") == 0))
			return listener; /* "any" is this machine: of its addresses the script knows these */
	}
	return NULL;
}

static const struct place *
find(const struct tr_sockaddr *to)
{
	const struct place *place = set->places;

	while (place != NULL && !tr_scripted_same(&place->at, to))
		place = place->next;
	return place;
}

static void
no_data(struct tr_stream *stream, void *arg)
{
}

static void
no_closed(struct tr_stream *stream, int err, void *arg)
{
}

static const struct tr_stream_handlers no_handlers = {no_data, NULL, no_closed};

/* Both ends; -1: no descriptors or no memory. listener NULL: the other end is the script's. */
static int
open_pair(const struct tr_sockaddr *to, const struct tr_sockaddr *source, struct tr_scripted_listener *listener,
	struct tr_sockaddr *local)
{
	struct fresh *fresh = calloc(1, sizeof *fresh);
	struct tr_scripted_end *end;
	struct stat about;
	int fds[2];

	if (fresh == NULL)
		return -1;
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds) != 0) {
		free(fresh);
		return -1;
	}
	end = &fresh->end;
	fresh->listener = listener;
	fresh->fd = fds[1];
	if (listener == NULL)
		end->stream = tr_stream_new(set->loop, fds[1], &no_handlers, NULL);
	if ((listener == NULL && end->stream == NULL) || fstat(fds[0], &about) != 0) {
		if (end->stream != NULL)
			tr_stream_abort(end->stream);
		else if (listener != NULL)
			close(fds[1]);
		close(fds[0]);
		free(fresh);
		return -1;
	}
	end->at = *to;
	if (source != NULL)
		end->client = *source;
	else
		tr_scripted_own_addr(CLIENT_HOST, 0, &end->client);
	if (tr_sockaddr_port(&end->client) == 0)
		tr_sockaddr_set_port(&end->client, set->port++);
	end->near_fd = fds[0];
	end->near_inode = about.st_ino;
	if (listener == NULL)
		tr_streami_scripted(end->stream, &end->client, to);
	if (local != NULL)
		*local = end->client;
	*set->fresh_last = fresh;
	set->fresh_last = &fresh->next;
	tr_loop_defer(set->loop, &set->later, tell_accepted);
	return fds[0];
}

/* A descriptor that never becomes writable. */
static int
open_silent(void)
{
	int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	uint64_t most = UINT64_MAX - 1;

	if (fd >= 0 && write(fd, &most, sizeof most) != (ssize_t)sizeof most) {
		close(fd);
		fd = -1;
	}
	return fd;
}

enum tr_scripted_kind
tr_scripted_connect(const struct tr_sockaddr *to, const struct tr_sockaddr *source, int *fd, struct tr_sockaddr *local)
{
	enum tr_scripted_kind kind;
	struct tr_scripted_listener *listener;
	const struct place *place;
	char text[64];

	*fd = -1;
	if (set == NULL || to->ss.ss_family == AF_UNIX)
		return TR_SCRIPTED_REAL;
	place = find(to);
	listener = place == NULL ? find_listener(set, to) : NULL;
	kind = place != NULL ? place->kind : listener != NULL ? TR_SCRIPTED_OPEN : set->otherwise;
	if (place == NULL && kind != TR_SCRIPTED_OPEN) {
		tr_sockaddr_text(to, true, text);
		note_stray("", text);
	}
	if (kind == TR_SCRIPTED_OPEN)
		*fd = open_pair(to, source, listener, local);
	else if (kind == TR_SCRIPTED_SILENT)
		*fd = open_silent();
	return kind == TR_SCRIPTED_REAL || *fd >= 0 ? kind : TR_SCRIPTED_REFUSED;
}

void
tr_scripted_reset(const struct tr_scripted_end *end)
{
	struct stat about;

	/* A socket of a pair that is closed with bytes unread resets the other: so the other sends one. It may be gone,
	 * and its number in other hands. */
	if (fstat(end->near_fd, &about) == 0 && S_ISSOCK(about.st_mode) && about.st_ino == end->near_inode &&
		send(end->near_fd, "", 1, MSG_NOSIGNAL | MSG_DONTWAIT) < 0 && errno == EAGAIN) {
		/* full of bytes that nobody has read: that resets, too */
	}
	tr_stream_flush(end->stream);
	tr_stream_abort(end->stream);
}

/* --- listeners of this process ------------------------------------------------------------------------------------ */

int
tr_scripted_dial(struct tr_scripted *script, const struct tr_sockaddr *to, const struct tr_sockaddr *client,
	struct tr_scripted_end *out)
{
	enum tr_scripted_kind kind;
	struct tr_sockaddr local;
	int fd;

	if (set != script)
		return TR_EREFUSED;
	kind = tr_scripted_connect(to, client, &fd, &local);
	if (kind != TR_SCRIPTED_OPEN) {
		if (fd >= 0)
			close(fd);
		return TR_EREFUSED;
	}
	out->stream = tr_stream_new(script->loop, fd, &no_handlers, NULL);
	if (out->stream == NULL)
		return TR_ENOMEM;
	tr_streami_scripted(out->stream, to, &local);
	out->at = *to;
	out->client = local;
	out->near_fd = -1;
	out->near_inode = 0;
	return TR_OK;
}

char *
tr_scripted_listeners(struct tr_scripted *script)
{
	struct tr_buf out = {0};
	char text[64];

	for (const struct tr_scripted_listener *listener = script->listeners; listener != NULL;
		listener = listener->next) {
		tr_sockaddr_text(&listener->at, true, text);
		tr_buf_addf(&out, "%s\n", text);
	}
	if (out.len == 0 || out.failed) {
		tr_buf_free(&out);
		return NULL;
	}
	out.data[out.len - 1] = '\0';
	return out.data;
}

int
tr_scripted_listen(const struct tr_sockaddr *at, void (*accepted)(void *arg, int fd, const struct tr_sockaddr *peer),
	void *arg, struct tr_sockaddr *local, struct tr_scripted_listener **out)
{
	struct tr_scripted_listener *listener;

	*out = NULL;
	if (set == NULL || at->ss.ss_family == AF_UNIX)
		return TR_OK;
	listener = calloc(1, sizeof *listener);
	if (listener == NULL)
		return TR_ENOMEM;
	listener->at = *at;
	if (tr_sockaddr_port(at) == 0)
		tr_sockaddr_set_port(&listener->at, set->port++);
	listener->accepted = accepted;
	listener->arg = arg;
	listener->next = set->listeners;
	listener->prev = &set->listeners;
	if (listener->next != NULL)
		listener->next->prev = &listener->next;
	set->listeners = listener;
	*local = listener->at;
	*out = listener;
	return TR_OK;
}

void
tr_scripted_unlisten(struct tr_scripted_listener *listener)
{
	if (listener == NULL)
		return;
	if (listener->prev != NULL) {
		for (struct fresh *fresh = set->fresh; fresh != NULL; fresh = fresh->next) {
			if (fresh->listener == listener)
				fresh->listener = &closed_listener;
		}
		leave(listener);
	}
	free(listener);
}

bool
tr_scripted_claim(int fd, struct tr_sockaddr *peer, struct tr_sockaddr *local)
{
	if (set == NULL)
		return false;
	for (struct claim **at = &set->claims, *claim; (claim = *at) != NULL; at = &claim->next) {
		if (claim->fd != fd)
			continue;
		*peer = claim->peer;
		*local = claim->local;
		*at = claim->next;
		free(claim);
		return true;
	}
	return false;
}
