/* Pools: the connections of equal settings. The loop's side. */
#include <stdlib.h>
#include <string.h>

#include "transport/amqp_internal.h"

static void
add_part(struct tr_buf *out, struct tr_str text)
{
	tr_buf_addf(out, "%zd:", text.data != NULL ? (ssize_t)text.len : (ssize_t)-1);
	if (text.data != NULL)
		tr_buf_add_str(out, text);
}

/* The settings as one text: equal texts, one pool. */
static char *
identify(const struct tr_amqp_settings *settings)
{
	struct tr_buf out = {0};

	for (uint32_t i = 0; i < settings->host_count; i++) {
		add_part(&out, settings->hosts[i].name);
		tr_buf_addf(&out, "%u,", settings->hosts[i].port);
	}
	add_part(&out, settings->username);
	add_part(&out, settings->password);
	add_part(&out, settings->vhost);
	add_part(&out, settings->connection_name);
	add_part(&out, settings->ca_file);
	add_part(&out, settings->cert_file);
	add_part(&out, settings->key_file);
	tr_buf_addf(&out, "%u,%d,%u,%lld,%lld", settings->heartbeat_s, settings->tls, settings->pool_size,
		(long long)settings->connect_timeout_ns, (long long)settings->idle_timeout_ns);
	tr_buf_addc(&out, '\0');
	if (out.failed)
		tr_buf_free(&out);
	return out.data;
}

/* Copies a text with a NUL behind it. */
static struct tr_str
keep(char **at, struct tr_str text)
{
	struct tr_str kept = {NULL, text.len};

	if (text.data == NULL)
		return kept;
	memcpy(*at, text.data, text.len);
	(*at)[text.len] = '\0';
	kept.data = *at;
	*at += text.len + 1;
	return kept;
}

static bool
keep_all(struct tr_amqp_pool *pool, const struct tr_amqp_settings *from)
{
	struct tr_amqp_settings *to = &pool->settings;
	struct tr_str *texts[] = {&to->username, &to->password, &to->vhost, &to->connection_name, &to->ca_file,
		&to->cert_file, &to->key_file};
	size_t size = 0;
	char *at;

	*to = *from;
	for (uint32_t i = 0; i < to->host_count; i++)
		size += to->hosts[i].name.len + 1;
	for (size_t i = 0; i < TR_COUNT(texts); i++)
		size += texts[i]->len + 1;
	at = pool->texts = malloc(size);
	if (at == NULL)
		return false;
	for (uint32_t i = 0; i < to->host_count; i++)
		to->hosts[i].name = keep(&at, to->hosts[i].name);
	for (size_t i = 0; i < TR_COUNT(texts); i++)
		*texts[i] = keep(&at, *texts[i]);
	return true;
}

void
tr_amqp_pool_free(struct tr_amqp_pool *pool)
{
	free(pool->id);
	free(pool->texts);
	free(pool);
}

/* Settings may vary without end (a password that is changed daily, a name made from a message): what nobody uses goes.
 */
static void
drop_unused(struct tr_amqp *amqp)
{
	struct tr_amqp_pool **at = &amqp->pools, *pool;

	pthread_mutex_lock(&amqp->lock);
	while ((pool = *at) != NULL) {
		if (pool->calls > 0 || pool->threads > 0) {
			at = &pool->next;
			continue;
		}
		*at = pool->next;
		tr_amqp_pool_free(pool);
	}
	pthread_mutex_unlock(&amqp->lock);
}

int
tr_amqp_pool(struct tr_amqp *amqp, const struct tr_amqp_settings *settings, struct tr_amqp_pool **out)
{
	char *id = identify(settings);
	struct tr_amqp_pool *pool;

	*out = NULL;
	if (id == NULL)
		return TR_ENOMEM;
	for (pool = amqp->pools; pool != NULL && strcmp(pool->id, id) != 0; pool = pool->next)
		;
	if (pool != NULL) {
		free(id);
		*out = pool;
		return TR_OK;
	}
	drop_unused(amqp);
	pool = calloc(1, sizeof *pool);
	if (pool == NULL || !keep_all(pool, settings)) {
		free(pool);
		free(id);
		return TR_ENOMEM;
	}
	pool->amqp = amqp;
	pool->id = id;
	pool->line_end = &pool->line;
	pool->next = amqp->pools;
	amqp->pools = pool;
	*out = pool;
	return TR_OK;
}
