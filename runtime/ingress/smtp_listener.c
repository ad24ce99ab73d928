#include "ingress/smtp_listener.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/diag.h"
#include "ingress/intake.h"

#define REFUSAL_NS (TR_NS_PER_S / 2) /* how long a refused client may take to read why */

struct place { /* what one worker has of the listener; only its thread touches the list */
	struct tr_smtp_listener *listener;
	struct tr_worker *worker;
	struct tr_smtp_crowd crowd;
	struct tr_mail stop, abort; /* posted at most once each */
	struct tr_mail room;
	_Atomic bool room_posted;
};

struct tr_smtp_listener {
	struct tr_run_part part;
	struct tr_smtp_shared shared;
	struct tr_loop *loop;
	struct tr_listener *socket; /* NULL: stopped */
	uint32_t max_connections;
	struct place *places;   /* one a worker; NULL until the first connection that the engine can take */
	uint32_t workers, next; /* next: whose turn it is */
	bool aborted;
	char name[96];
};

struct handover { /* a descriptor on its way to its worker */
	struct tr_mail mail;
	struct place *place;
	int fd;
};

static void
start_session(struct place *place, int fd)
{
	tr_smtp_session_start(&place->listener->shared, place->worker, fd, &place->crowd);
}

static void
handed_over(struct tr_mail *mail)
{
	struct handover *handover = tr_container_of(mail, struct handover, mail);
	struct place *place = handover->place;
	int fd = handover->fd;

	free(handover);
	start_session(place, fd);
}

/* A connection that gets one line and is closed. As a stream, so that what the client has sent already does not make a
 * reset of the close. */
static void
refuse(struct tr_smtp_listener *listener, int fd, const char *why)
{
	static const struct tr_stream_handlers none; /* closed at once: nothing is ever called */
	struct tr_stream *stream = tr_stream_new(listener->loop, fd, &none, NULL);
	char line[512];
	int len = snprintf(line, sizeof line, "421 4.3.2 %.256s %s\r\n", listener->shared.params->hostname, why);

	for (int i = 0; i < 2; i++)
		tr_metric_add(listener->shared.denied[i], 1);
	if (stream == NULL) { /* out of memory: fd is closed */
		tr_log(TR_LEVEL_ERROR, "smtp_server", "%s: a connection was closed: out of memory",
			listener->shared.text);
		return;
	}
	tr_stream_write(stream, line, (size_t)len);
	tr_stream_close(stream, REFUSAL_NS);
}

/* Without the time that it would take to let the client read it: descriptors are short. */
static void
refuse_at_once(struct tr_smtp_listener *listener, int fd)
{
	char line[512];
	int len = snprintf(
		line, sizeof line, "421 4.3.2 %.256s load shedding. Try later\r\n", listener->shared.params->hostname);

	for (int i = 0; i < 2; i++)
		tr_metric_add(listener->shared.denied[i], 1);
	tr_log(TR_LEVEL_WARN, "smtp_server", "%s: a connection was refused: too few descriptors are left",
		listener->shared.text);
	if (send(fd, line, (size_t)len, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
		tr_log(TR_LEVEL_DEBUG, "smtp_server", "%s: it was not told", listener->shared.text);
	close(fd);
}

static int
make_places(struct tr_smtp_listener *listener, struct tr_engine *engine)
{
	uint32_t count = 0;

	while (tr_engine_worker(engine, count) != NULL)
		count++;
	listener->places = calloc(count, sizeof *listener->places);
	if (listener->places == NULL)
		return TR_ENOMEM;
	for (uint32_t i = 0; i < count; i++) {
		listener->places[i].listener = listener;
		listener->places[i].worker = tr_engine_worker(engine, i);
	}
	listener->workers = count;
	return TR_OK;
}

static void
accepted(void *arg, int fd, const struct tr_sockaddr *peer)
{
	struct tr_smtp_listener *listener = arg;
	struct tr_smtp_shared *shared = &listener->shared;
	struct tr_engine *engine = shared->ops->engine(shared->ops_arg);
	struct handover *handover;
	struct place *place;

	if (engine == NULL) {
		refuse(listener, fd, "waiting for spool startup. Try again soon!");
		return;
	}
	if (listener->places == NULL && make_places(listener, engine) != TR_OK) {
		refuse(listener, fd, "load shedding. Try later");
		return;
	}
	if (tr_intake_files_short(fd) && !tr_smtp_make_place()) {
		refuse_at_once(listener, fd);
		return;
	}
	if (atomic_fetch_add(&shared->sessions, 1) >= listener->max_connections && !tr_smtp_make_place()) {
		atomic_fetch_sub(&shared->sessions, 1);
		refuse(listener, fd, "too many concurrent sessions. Try later");
		return;
	}
	place = &listener->places[listener->next];
	listener->next = (listener->next + 1) % listener->workers;
	if (tr_worker_loop(place->worker) == listener->loop) {
		start_session(place, fd);
		return;
	}
	handover = malloc(sizeof *handover);
	if (handover == NULL) {
		atomic_fetch_sub(&shared->sessions, 1);
		refuse(listener, fd, "load shedding. Try later");
		return;
	}
	*handover = (struct handover){.mail.fn = handed_over, .place = place, .fd = fd};
	tr_loop_post(tr_worker_loop(place->worker), &handover->mail);
}

/* --- memory -------------------------------------------------------------------------------------------------- */

static void
room_mail(struct tr_mail *mail)
{
	struct place *place = tr_container_of(mail, struct place, room);

	atomic_store(&place->room_posted, false);
	while (tr_intake_is_short() && tr_smtp_make_room())
		;
}

static void
make_room(struct tr_smtp_shared *shared, struct tr_worker *here)
{
	struct tr_smtp_listener *listener = tr_container_of(shared, struct tr_smtp_listener, shared);

	for (uint32_t i = 0; i < listener->workers; i++) {
		struct place *place = &listener->places[i];

		if (place->worker == here || atomic_exchange(&place->room_posted, true))
			continue;
		place->room.fn = room_mail;
		tr_loop_post(tr_worker_loop(place->worker), &place->room);
	}
}

/* --- stop ---------------------------------------------------------------------------------------------------- */

static void
stop_place(struct place *place)
{
	for (struct tr_smtp_session *session = place->crowd.first, *next; session != NULL; session = next) {
		next = tr_smtp_session_next(session);
		tr_smtp_session_stop(session);
	}
}

static void
abort_place(struct place *place)
{
	while (place->crowd.first != NULL)
		tr_smtp_session_abort(place->crowd.first);
}

static void
stop_mail(struct tr_mail *mail)
{
	stop_place(tr_container_of(mail, struct place, stop));
}

static void
abort_mail(struct tr_mail *mail)
{
	abort_place(tr_container_of(mail, struct place, abort));
}

static void
part_stop(struct tr_run_part *part)
{
	struct tr_smtp_listener *listener = tr_container_of(part, struct tr_smtp_listener, part);

	if (listener->socket == NULL)
		return;
	tr_listener_free(listener->socket);
	listener->socket = NULL;
	atomic_store(&listener->shared.stopping, true);
	for (uint32_t i = 0; i < listener->workers; i++) {
		struct place *place = &listener->places[i];

		if (tr_worker_loop(place->worker) == listener->loop) {
			stop_place(place);
		} else {
			place->stop.fn = stop_mail;
			tr_loop_post(tr_worker_loop(place->worker), &place->stop);
		}
	}
}

/* A session that waits for its client has been closed by the stop: what is left has its data. */
static bool
part_busy(struct tr_run_part *part)
{
	return atomic_load(&tr_container_of(part, struct tr_smtp_listener, part)->shared.sessions) > 0;
}

static void
part_abort(struct tr_run_part *part)
{
	struct tr_smtp_listener *listener = tr_container_of(part, struct tr_smtp_listener, part);

	if (listener->aborted)
		return;
	listener->aborted = true;
	for (uint32_t i = 0; i < listener->workers; i++) {
		struct place *place = &listener->places[i];

		if (tr_worker_loop(place->worker) == listener->loop) {
			abort_place(place);
		} else {
			place->abort.fn = abort_mail;
			tr_loop_post(tr_worker_loop(place->worker), &place->abort);
		}
	}
}

static void
free_listener(struct tr_smtp_listener *listener)
{
	struct tr_smtp_shared *shared = &listener->shared;

	tr_listener_free(listener->socket);
	tr_smtp_params_unref(shared->params);
	for (int i = 0; i < 2; i++) {
		tr_metric_unref(shared->connections[i]);
		tr_metric_unref(shared->opened[i]);
		tr_metric_unref(shared->denied[i]);
		tr_metric_unref(shared->messages[i]);
		tr_metric_unref(shared->rejections[i]);
	}
	free(listener->places);
	free(listener);
}

static void
part_free(struct tr_run_part *part)
{
	free_listener(tr_container_of(part, struct tr_smtp_listener, part));
}

/* --- start ---------------------------------------------------------------------------------------------------- */

static void
make_metrics(struct tr_smtp_shared *shared)
{
	char own[96];

	snprintf(own, sizeof own, "esmtp_listener:%s", shared->text);
	for (int i = 0; i < 2; i++) {
		const char *service = i == 0 ? "esmtp_listener" : own;

		shared->connections[i] = tr_metric_get(
			TR_GAUGE, "connection_count", "number of active connections", "service", service, NULL);
		shared->opened[i] = tr_metric_get(TR_COUNTER, "total_connection_count",
			"number of connections ever made", "service", service, NULL);
		shared->denied[i] = tr_metric_get(TR_COUNTER, "total_connections_denied",
			"number of connections refused by limits or for want of resources", "service", service, NULL);
		shared->messages[i] = tr_metric_get(
			TR_COUNTER, "total_messages_received", "number of messages taken in", "service", service, NULL);
		shared->rejections[i] = tr_metric_get(TR_COUNTER, "smtp_server_rejections",
			"number of 4xx and 5xx replies", "service", i == 0 ? "total" : shared->text, NULL);
	}
}

int
tr_smtp_listener_new(const struct tr_smtp_listener_config *config, struct tr_run_part **out, int *errnum)
{
	struct tr_smtp_listener *listener = calloc(1, sizeof *listener);
	int err;

	*out = NULL;
	*errnum = ENOMEM;
	if (listener == NULL) {
		tr_smtp_params_unref(config->params);
		return TR_ENOMEM;
	}
	err = tr_listener_new(config->loop, &config->listen, accepted, listener, &listener->socket, errnum);
	if (err != TR_OK) {
		tr_smtp_params_unref(config->params);
		free(listener);
		return err;
	}
	listener->loop = config->loop;
	listener->max_connections = config->max_connections;
	listener->shared.ops = config->ops;
	listener->shared.ops_arg = config->ops_arg;
	listener->shared.params = config->params;
	listener->shared.make_room = make_room;
	tr_sockaddr_text(tr_listener_local(listener->socket), true, listener->shared.text);
	snprintf(listener->name, sizeof listener->name, "esmtp listener %s", listener->shared.text);
	listener->part = (struct tr_run_part){
		.name = listener->name, .stop = part_stop, .busy = part_busy, .abort = part_abort, .free = part_free};
	make_metrics(&listener->shared);
	*out = &listener->part;
	return TR_OK;
}
