#include "transport/nats.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "transport/nats_internal.h"

#define IDLE_NS (60 * TR_NS_PER_S) /* an unused connection is kept for the next client */
#define WRITE_NS (4 * TR_NS_PER_S)

/* --- the loop -------------------------------------------------------------------------------------------------- */

void
tr_nats_done(struct tr_defer *later)
{
	struct tr_nats *nats = tr_container_of(later, struct tr_nats, later);
	struct tr_nats_batch *batch;

	while ((batch = nats->done) != NULL) { /* one by one: done() may cancel the next */
		nats->done = batch->line_next;
		if (nats->done == NULL)
			nats->done_end = &nats->done;
		batch->stage = TR_NATS_BUILDING; /* in no list */
		tr_nats_batch_unlink(batch);
		if (batch->cancelled)
			tr_nats_batch_free(batch);
		else
			batch->pub.done(&batch->pub);
	}
}

static void
connection_free(struct tr_nats_connection *connection)
{
	tr_nats_link_fini(connection);
	free(connection->entries);
	free(connection->texts);
	free(connection->id);
	free(connection);
}

/* --- connections ------------------------------------------------------------------------------------------------ */

static struct tr_str *
text_at(struct tr_nats_settings *settings, uint32_t index)
{
	struct tr_str *const texts[] = {&settings->username, &settings->password, &settings->token,
		&settings->credentials, &settings->name, &settings->inbox_prefix, &settings->ca_file,
		&settings->cert_file, &settings->key_file};

	if (index < settings->server_count)
		return &settings->servers[index];
	index -= settings->server_count;
	return index < TR_COUNT(texts) ? texts[index] : NULL;
}

/* The settings as one text: equal texts, one connection. */
static char *
identify(const struct tr_nats_settings *from)
{
	struct tr_nats_settings settings = *from;
	struct tr_buf out = {0};
	const struct tr_str *text;

	for (uint32_t i = 0; (text = text_at(&settings, i)) != NULL; i++) {
		tr_buf_addf(&out, "%zd:", text->data != NULL ? (ssize_t)text->len : (ssize_t)-1);
		if (text->data != NULL)
			tr_buf_add_str(&out, *text);
	}
	tr_buf_addf(&out, "%u,%d%d%d%d%d,%u,%u,%lld,%lld,%lld", from->server_count, from->tls, from->no_echo,
		from->ignore_discovered, from->retain_order, from->retry_connect, from->max_reconnects,
		from->pending_max, (long long)from->connect_timeout_ns, (long long)from->ping_interval_ns,
		(long long)from->request_timeout_ns);
	tr_buf_addc(&out, '\0');
	if (out.failed)
		tr_buf_free(&out);
	return out.data;
}

/* Copies all texts, a NUL behind each. */
static bool
keep_settings(struct tr_nats_connection *connection, const struct tr_nats_settings *from)
{
	struct tr_nats_settings *to = &connection->settings;
	struct tr_str *text;
	size_t size = 1;
	char *at;

	*to = *from;
	for (uint32_t i = 0; (text = text_at(to, i)) != NULL; i++)
		size += text->len + 1;
	at = connection->texts = malloc(size);
	if (at == NULL)
		return false;
	for (uint32_t i = 0; (text = text_at(to, i)) != NULL; i++) {
		if (text->data == NULL)
			continue;
		memcpy(at, text->data, text->len);
		at[text->len] = '\0';
		text->data = at;
		at += text->len + 1;
	}
	return true;
}

static int
connection_make(struct tr_nats *nats, const struct tr_nats_settings *settings, struct tr_nats_connection *connection)
{
	uint32_t count = settings->pending_max;

	connection->nats = nats;
	connection->line_end = &connection->line;
	connection->entries = calloc(count, sizeof connection->entries[0]);
	if (connection->entries == NULL || !keep_settings(connection, settings))
		return TR_ENOMEM;
	for (uint32_t i = 0; i < count; i++)
		connection->entries[i].next_free = i + 1 < count ? i + 1 : TR_NATS_NO_ENTRY;
	return tr_nats_link_init(connection);
}

int
tr_nats_open(struct tr_nats *nats, const struct tr_nats_settings *settings, struct tr_nats_connection **out)
{
	char *id = identify(settings);
	struct tr_nats_connection *connection;
	int err;

	*out = NULL;
	if (id == NULL)
		return TR_ENOMEM;
	for (connection = nats->connections; connection != NULL; connection = connection->next) {
		if (strcmp(connection->id, id) != 0 || connection->state == TR_NATS_DEAD)
			continue;
		free(id);
		tr_timer_stop(tr_loop_wheel(nats->loop), &connection->idle);
		connection->refs++;
		if (settings->retry_connect)
			tr_nats_link_want(connection);
		*out = connection;
		return TR_OK;
	}
	connection = calloc(1, sizeof *connection);
	if (connection == NULL) {
		free(id);
		return TR_ENOMEM;
	}
	connection->id = id;
	err = connection_make(nats, settings, connection);
	if (err != TR_OK) {
		connection_free(connection);
		return err;
	}
	connection->refs = 1;
	connection->next = nats->connections;
	connection->prev = &nats->connections;
	if (nats->connections != NULL)
		nats->connections->prev = &connection->next;
	nats->connections = connection;
	if (settings->retry_connect)
		tr_nats_link_want(connection);
	*out = connection;
	return TR_OK;
}

static void
idle_too_long(struct tr_timer *timer)
{
	struct tr_nats_connection *connection = tr_container_of(timer, struct tr_nats_connection, idle);

	*connection->prev = connection->next;
	if (connection->next != NULL)
		connection->next->prev = connection->prev;
	connection_free(connection);
}

void
tr_nats_unref(struct tr_nats_connection *connection)
{
	if (connection == NULL || --connection->refs > 0 || connection->nats->ending)
		return;
	tr_nats_link_forget(connection);
	tr_timer_start(tr_loop_wheel(connection->nats->loop), &connection->idle, IDLE_NS, idle_too_long);
}

/* --- life ------------------------------------------------------------------------------------------------------- */

int
tr_nats_new(struct tr_loop *loop, struct tr_dns *dns, struct tr_nats **out)
{
	static const char messages[] = "messages that were published to NATS",
			  flight[] = "messages that await their acknowledgement by NATS",
			  opened[] = "NATS connections opened";
	struct tr_nats *nats = calloc(1, sizeof *nats);

	*out = nats;
	if (nats == NULL)
		return TR_ENOMEM;
	nats->loop = loop;
	nats->dns = dns;
	nats->write_ns = WRITE_NS;
	nats->done_end = &nats->done;
	nats->acked = tr_metric_get(TR_COUNTER, "nats_messages", messages, "result", "acknowledged", NULL);
	nats->failed = tr_metric_get(TR_COUNTER, "nats_messages", messages, "result", "failed", NULL);
	nats->in_flight = tr_metric_get(TR_GAUGE, "nats_in_flight", flight, NULL);
	nats->connects = tr_metric_get(TR_COUNTER, "nats_connections", opened, NULL);
	return TR_OK;
}

/* Calls that nobody will hear of. Those that are cancelled are freed, the others by their owners. */
static void
give_up_calls(struct tr_nats *nats)
{
	while (nats->calls != NULL) {
		struct tr_nats_batch *batch = nats->calls;

		for (uint32_t i = 0; i < batch->pub.count; i++)
			tr_nats_release(batch->connection, &batch->slots[i]);
		tr_nats_batch_unlink(batch);
		batch->connection = NULL;
		if (batch->cancelled)
			tr_nats_batch_free(batch);
	}
	nats->done = NULL;
	nats->done_end = &nats->done;
}

void
tr_nats_free(struct tr_nats *nats)
{
	if (nats == NULL)
		return;
	nats->ending = true;
	tr_loop_undefer(nats->loop, &nats->later);
	give_up_calls(nats);
	for (struct tr_nats_connection *connection = nats->connections, *next; connection != NULL; connection = next) {
		next = connection->next;
		tr_timer_stop(tr_loop_wheel(nats->loop), &connection->idle);
		connection_free(connection);
	}
	if (nats->own_dns)
		tr_dns_free(nats->dns);
	tr_metric_unref(nats->acked);
	tr_metric_unref(nats->failed);
	tr_metric_unref(nats->in_flight);
	tr_metric_unref(nats->connects);
	free(nats);
}
