/* What libnats is asked, and what its threads say. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/diag.h"
#include "transport/http.h"
#include "transport/nats_internal.h"

#define FLUSH_MS 1000 /* for what nobody awaits, at the end */
#define RETRY_MIN_MS 100
#define RETRY_MAX_MS 4000

/* --- from a number to a connection: libnats calls back from threads of its own, even after a close -----------------
 */

static struct {
	pthread_once_t once;
	pthread_rwlock_t lock; /* held shared by a callback, so that the connection stays */
	uint64_t last;
	struct tr_nats_connection **list;
	size_t count, room;
} registry = {.once = PTHREAD_ONCE_INIT};

static void
registry_init(void)
{
	pthread_rwlockattr_t attr;

	pthread_rwlockattr_init(&attr);
	pthread_rwlockattr_setkind_np(&attr, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
	pthread_rwlock_init(&registry.lock, &attr);
	pthread_rwlockattr_destroy(&attr);
}

void
tr_nats_register(struct tr_nats_connection *connection)
{
	pthread_once(&registry.once, registry_init);
	pthread_rwlock_wrlock(&registry.lock);
	if (registry.count == registry.room) {
		size_t room = registry.room > 0 ? 2 * registry.room : 16;
		void *list = realloc(registry.list, room * sizeof(registry.list[0]));

		if (list != NULL) {
			registry.list = list;
			registry.room = room;
		}
	}
	connection->number = 0; /* cannot connect */
	if (registry.count < registry.room) {
		connection->number = ++registry.last;
		registry.list[registry.count++] = connection;
	}
	pthread_rwlock_unlock(&registry.lock);
}

void
tr_nats_unregister(struct tr_nats_connection *connection)
{
	pthread_rwlock_wrlock(&registry.lock);
	for (size_t i = 0; i < registry.count; i++) {
		if (registry.list[i] == connection) {
			registry.list[i] = registry.list[--registry.count];
			break;
		}
	}
	if (registry.count == 0) {
		free(registry.list);
		registry.list = NULL;
		registry.room = 0;
	}
	pthread_rwlock_unlock(&registry.lock);
}

/* With the registry and the worker's lock held; NULL: gone, and nothing is held. leave() is due else. */
static struct tr_nats_connection *
enter(void *closure)
{
	uint64_t number = (uint64_t)(uintptr_t)closure;

	pthread_rwlock_rdlock(&registry.lock);
	for (size_t i = 0; i < registry.count; i++) {
		struct tr_nats_connection *connection = registry.list[i];

		if (connection->number != number)
			continue;
		pthread_mutex_lock(&connection->nats->lock);
		return connection;
	}
	pthread_rwlock_unlock(&registry.lock);
	return NULL;
}

static void
leave(struct tr_nats_connection *connection)
{
	pthread_mutex_unlock(&connection->nats->lock);
	pthread_rwlock_unlock(&registry.lock);
}

/* The first server, for texts: without user and password. */
static const char *
server_of(const struct tr_nats_connection *connection, char out[128])
{
	const char *url = connection->settings.servers[0].data, *rest;
	int front;

	rest = tr_http_url_shown(url, &front);
	snprintf(out, 128, "%.*s%s", front, url, rest);
	return out;
}

/* --- callbacks ---------------------------------------------------------------------------------------------------- */

/* ...INBOX.ENTRY-GENERATION of an acknowledgement; the entry still awaits it, else NULL. */
static const struct tr_nats_entry *
find_entry(const struct tr_nats_connection *connection, const char *subject)
{
	const char *last = strrchr(subject, '.');
	const struct tr_nats_entry *entry;
	unsigned long index, generation;
	char *end;

	if (last == NULL)
		return NULL;
	index = strtoul(last + 1, &end, 16);
	if (*end != '-' || index >= connection->settings.pending_max)
		return NULL;
	generation = strtoul(end + 1, &end, 16);
	if (*end != '\0')
		return NULL;
	entry = &connection->entries[index];
	return entry->batch != NULL && entry->generation == generation ? entry : NULL;
}

static void
on_ack(natsConnection *nc, natsSubscription *inbox, natsMsg *msg, void *closure)
{
	struct tr_nats_connection *connection;
	const struct tr_nats_entry *entry;
	struct tr_nats_result result;
	struct tr_buf memory = {0};

	if (natsMsg_IsNoResponders(msg)) {
		result = (struct tr_nats_result){.err = TR_ENOENT};
		result.text = TR_STR("no responders: no stream takes this subject, or JetStream is not available");
	} else {
		tr_nats_parse_ack(
			(struct tr_str){natsMsg_GetData(msg), (size_t)natsMsg_GetDataLength(msg)}, &result, &memory);
	}
	connection = enter(closure);
	if (connection != NULL) {
		entry = find_entry(connection, natsMsg_GetSubject(msg));
		if (entry != NULL)
			tr_nats_tell(entry->batch, entry->index, &result, &memory);
		leave(connection);
	}
	tr_buf_free(&memory);
	natsMsg_Destroy(msg);
}

static void
lost(struct tr_nats_connection *connection, natsConnection *nc, const char *what)
{
	const char *reason = NULL;
	char text[sizeof connection->why + 40], server[128];

	natsConnection_GetLastError(nc, &reason);
	connection->connected = false;
	tr_nats_why(connection, TR_ECLOSED, "%s%s%.200s", what, reason != NULL && reason[0] != '\0' ? ": " : "",
		reason != NULL ? reason : "");
	tr_log(TR_LEVEL_WARN, "nats", "%s: %s", server_of(connection, server), connection->why);
	snprintf(text, sizeof text, "%s; it may have arrived", connection->why);
	tr_nats_fail_sent(connection, NULL, TR_ECLOSED, text);
	pthread_cond_signal(&connection->work);
}

static void
on_disconnected(natsConnection *nc, void *closure)
{
	struct tr_nats_connection *connection = enter(closure);

	if (connection == NULL)
		return;
	if (nc == connection->nc && !connection->ending) /* else of one that was closed before */
		lost(connection, nc, "the connection was lost");
	leave(connection);
}

static void
on_closed(natsConnection *nc, void *closure)
{
	struct tr_nats_connection *connection = enter(closure);

	if (connection == NULL)
		return;
	if (nc == connection->nc && !connection->ending) {
		lost(connection, nc, "the connection was closed");
		connection->closed = true;
	}
	leave(connection);
}

static void
on_reconnected(natsConnection *nc, void *closure)
{
	struct tr_nats_connection *connection = enter(closure);
	char server[128];

	if (connection == NULL)
		return;
	if (nc == connection->nc) {
		connection->connected = true;
		connection->why[0] = '\0';
		tr_metric_add(connection->nats->connects, 1);
		tr_log(TR_LEVEL_INFO, "nats", "%s: connected again", server_of(connection, server));
		pthread_cond_signal(&connection->work);
	}
	leave(connection);
}

/* Permissions Violation for Publish to "SUBJECT" */
static void
not_permitted(struct tr_nats_connection *connection, const char *reason)
{
	char subject[512], text[700];
	const char *to = strstr(reason, " to \"");

	if (strstr(reason, "ublish") == NULL || to == NULL || sscanf(to, " to \"%511[^\"]", subject) != 1)
		return;
	snprintf(text, sizeof text, "not permitted: %.600s", reason);
	tr_nats_fail_sent(connection, subject, TR_EPROTO, text);
}

static void
on_error(natsConnection *nc, natsSubscription *subscription, natsStatus status, void *closure)
{
	struct tr_nats_connection *connection = enter(closure);
	const char *reason = NULL;
	char server[128];

	if (connection == NULL)
		return;
	natsConnection_GetLastError(nc, &reason);
	if (reason == NULL || reason[0] == '\0')
		reason = natsStatus_GetText(status);
	tr_log(TR_LEVEL_WARN, "nats", "%s: %s", server_of(connection, server), reason);
	if (status == NATS_NOT_PERMITTED)
		not_permitted(connection, reason);
	else if (!connection->connected)
		tr_nats_why(connection, tr_nats_err(status), "%.250s", reason);
	leave(connection);
}

static int64_t
reconnect_delay(natsConnection *nc, int attempts, void *closure)
{
	int64_t ms = RETRY_MIN_MS;

	for (int i = 1; i < attempts && ms < RETRY_MAX_MS; i++)
		ms *= 2;
	return tr_min_i64(ms, RETRY_MAX_MS);
}

/* --- errors ------------------------------------------------------------------------------------------------------- */

int
tr_nats_err(natsStatus status)
{
	switch (status) {
	case NATS_OK:
		return TR_OK;
	case NATS_NO_SERVER:
		return TR_EREFUSED;
	case NATS_TIMEOUT:
		return TR_ETIMEDOUT;
	case NATS_NO_MEMORY:
		return TR_ENOMEM;
	case NATS_MAX_PAYLOAD:
		return TR_ETOOBIG;
	case NATS_NO_RESPONDERS:
	case NATS_NOT_FOUND:
		return TR_ENOENT;
	case NATS_INVALID_ARG:
	case NATS_INVALID_SUBJECT:
	case NATS_ADDRESS_MISSING:
		return TR_EINVAL;
	case NATS_CONNECTION_CLOSED:
	case NATS_CONNECTION_DISCONNECTED:
	case NATS_STALE_CONNECTION:
		return TR_ECLOSED;
	case NATS_INSUFFICIENT_BUFFER:
		return TR_EAGAIN;
	case NATS_PROTOCOL_ERROR:
	case NATS_CONNECTION_AUTH_FAILED:
	case NATS_NOT_PERMITTED:
	case NATS_SECURE_CONNECTION_WANTED:
	case NATS_SECURE_CONNECTION_REQUIRED:
	case NATS_SSL_ERROR:
		return TR_EPROTO;
	default:
		return TR_EIO;
	}
}

/* --- connecting --------------------------------------------------------------------------------------------------- */

static natsStatus
set_options(const struct tr_nats_connection *connection, natsOptions *opts)
{
	const struct tr_nats_settings *settings = &connection->settings;
	const char *servers[TR_NATS_SERVERS_MAX];
	void *number = (void *)(uintptr_t)connection->number;
	natsStatus s;

	for (uint32_t i = 0; i < settings->server_count; i++)
		servers[i] = settings->servers[i].data;
	s = natsOptions_SetServers(opts, servers, (int)settings->server_count);
	if (s == NATS_OK && settings->username.data != NULL)
		s = natsOptions_SetUserInfo(opts, settings->username.data, settings->password.data);
	if (s == NATS_OK && settings->token.data != NULL)
		s = natsOptions_SetToken(opts, settings->token.data);
	if (s == NATS_OK && settings->credentials.data != NULL)
		s = natsOptions_SetUserCredentialsFromFiles(opts, settings->credentials.data, NULL);
	if (s == NATS_OK && settings->name.data != NULL)
		s = natsOptions_SetName(opts, settings->name.data);
	if (s == NATS_OK && settings->tls)
		s = natsOptions_SetSecure(opts, true);
	if (s == NATS_OK && settings->ca_file.data != NULL)
		s = natsOptions_LoadCATrustedCertificates(opts, settings->ca_file.data);
	if (s == NATS_OK && settings->cert_file.data != NULL)
		s = natsOptions_LoadCertificatesChain(opts, settings->cert_file.data, settings->key_file.data);
	if (s == NATS_OK)
		s = natsOptions_SetNoEcho(opts, settings->no_echo);
	if (s == NATS_OK)
		s = natsOptions_SetIgnoreDiscoveredServers(opts, settings->ignore_discovered);
	if (s == NATS_OK)
		s = natsOptions_SetNoRandomize(opts, settings->retain_order);
	if (s == NATS_OK)
		s = natsOptions_SetTimeout(opts, settings->connect_timeout_ns / TR_NS_PER_MS);
	if (s == NATS_OK)
		s = natsOptions_SetPingInterval(opts, settings->ping_interval_ns / TR_NS_PER_MS);
	if (s == NATS_OK)
		s = natsOptions_SetWriteDeadline(opts, connection->nats->write_ms);
	if (s == NATS_OK)
		s = natsOptions_SetMaxReconnect(
			opts, settings->max_reconnects > 0 ? (int)settings->max_reconnects : -1);
	if (s == NATS_OK)
		s = natsOptions_SetCustomReconnectDelay(opts, reconnect_delay, NULL);
	if (s == NATS_OK)
		s = natsOptions_SetDisconnectedCB(opts, on_disconnected, number);
	if (s == NATS_OK)
		s = natsOptions_SetReconnectedCB(opts, on_reconnected, number);
	if (s == NATS_OK)
		s = natsOptions_SetClosedCB(opts, on_closed, number);
	if (s == NATS_OK)
		s = natsOptions_SetErrorHandler(opts, on_error, number);
	return s;
}

/* The inbox of acknowledgements: PREFIX.RANDOM, each with an entry behind it. */
static natsStatus
subscribe(struct tr_nats_connection *connection, natsConnection *nc)
{
	const char *prefix = connection->settings.inbox_prefix.data, *unique;
	char all[sizeof connection->inbox_name + 2];
	natsInbox *inbox;
	natsStatus s = natsInbox_Create(&inbox);

	if (s != NATS_OK)
		return s;
	unique = strrchr(inbox, '.');
	snprintf(connection->inbox_name, sizeof connection->inbox_name, "%.200s%.50s",
		prefix != NULL ? prefix : "_INBOX", unique != NULL ? unique : ".tailrace");
	snprintf(all, sizeof all, "%s.*", connection->inbox_name);
	natsInbox_Destroy(inbox);
	s = natsConnection_Subscribe(&connection->inbox, nc, all, on_ack, (void *)(uintptr_t)connection->number);
	if (s == NATS_OK)
		s = natsSubscription_SetPendingLimits(connection->inbox, -1, -1); /* bounded by what we send */
	return s;
}

bool
tr_nats_client_connect(struct tr_nats_connection *connection)
{
	struct tr_nats *nats = connection->nats;
	natsOptions *opts = NULL;
	natsConnection *nc = NULL;
	natsStatus s = natsOptions_Create(&opts);

	if (s == NATS_OK)
		s = connection->number != 0 ? set_options(connection, opts) : NATS_NO_MEMORY;
	if (s == NATS_OK)
		s = natsConnection_Connect(&nc, opts);
	natsOptions_Destroy(opts);
	if (s == NATS_OK)
		s = subscribe(connection, nc);
	if (s != NATS_OK) {
		const char *reason = nats_GetLastError(NULL);
		char server[128];

		pthread_mutex_lock(&nats->lock);
		tr_nats_why(connection, tr_nats_err(s), "cannot connect to %.120s: %s%s%.120s",
			server_of(connection, server), natsStatus_GetText(s),
			reason != NULL && reason[0] != '\0' ? ": " : "", reason != NULL ? reason : "");
		pthread_mutex_unlock(&nats->lock);
	}
	pthread_mutex_lock(&nats->lock);
	connection->nc = nc;
	connection->connected = s == NATS_OK; /* if it is lost already, what is sent waits in libnats */
	pthread_mutex_unlock(&nats->lock);
	if (s != NATS_OK)
		tr_nats_client_close(connection, false);
	return s == NATS_OK;
}

void
tr_nats_client_close(struct tr_nats_connection *connection, bool flush)
{
	struct tr_nats *nats = connection->nats;
	natsConnection *nc = connection->nc;

	if (nc == NULL)
		return;
	pthread_mutex_lock(&nats->lock);
	connection->nc = NULL;
	pthread_mutex_unlock(&nats->lock);
	if (flush)
		natsConnection_FlushTimeout(nc, FLUSH_MS);
	natsSubscription_Destroy(connection->inbox);
	connection->inbox = NULL;
	natsConnection_Destroy(nc); /* and closes it */
}

/* --- publishing -----------------------------------------------------------------------------------------------------
 */

natsStatus
tr_nats_client_publish(struct tr_nats_connection *connection, const struct tr_nats_batch *batch,
	const struct tr_nats_slot *slot, uint32_t entry, uint32_t generation)
{
	const char *subject = batch->text.data + slot->subject_at, *at = batch->text.data + slot->headers_at;
	const char *payload = slot->payload.len > 0 ? (const char *)slot->payload.data : "";
	char reply[sizeof connection->inbox_name + 24];
	int len = (int)slot->payload.len;
	natsMsg *msg;
	natsStatus s;

	/* libnats does not count the headers, and the server ends the connection for them */
	if ((int64_t)slot->payload.len + slot->header_bytes > natsConnection_GetMaxPayload(connection->nc))
		return NATS_MAX_PAYLOAD;
	if (entry != TR_NATS_NO_ENTRY)
		snprintf(reply, sizeof reply, "%s.%x-%x", connection->inbox_name, entry, generation);
	if (slot->header_count == 0)
		return entry != TR_NATS_NO_ENTRY
			       ? natsConnection_PublishRequest(connection->nc, subject, reply, payload, len)
			       : natsConnection_Publish(connection->nc, subject, payload, len);
	s = natsMsg_Create(&msg, subject, entry != TR_NATS_NO_ENTRY ? reply : NULL, payload, len);
	if (s != NATS_OK)
		return s;
	for (uint32_t i = 0; i < slot->header_count && s == NATS_OK; i++) {
		const char *value = at + strlen(at) + 1;

		s = natsMsgHeader_Set(msg, at, value);
		at = value + strlen(value) + 1;
	}
	if (s == NATS_OK)
		s = natsConnection_PublishMsg(connection->nc, msg);
	natsMsg_Destroy(msg);
	return s;
}
