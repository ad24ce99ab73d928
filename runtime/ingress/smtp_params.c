#include "ingress/smtp_params.h"

#include <stdlib.h>
#include <unistd.h>

int
tr_cidr_list_add(struct tr_cidr_list *list, const struct tr_cidr *cidr)
{
	struct tr_cidr *items = realloc(list->items, (list->count + 1) * sizeof *items);

	if (items == NULL)
		return TR_ENOMEM;
	items[list->count++] = *cidr;
	list->items = items;
	return TR_OK;
}

bool
tr_cidr_list_contains(const struct tr_cidr_list *list, const struct tr_sockaddr *addr)
{
	for (uint32_t i = 0; i < list->count; i++) {
		if (tr_cidr_contains(&list->items[i], addr))
			return true;
	}
	return false;
}

void
tr_cidr_list_fini(struct tr_cidr_list *list)
{
	free(list->items);
	*list = (struct tr_cidr_list){0};
}

static void
free_params(struct tr_smtp_params *params)
{
	while (params->blocks != NULL) {
		struct tr_smtp_block *block = params->blocks;

		params->blocks = block->next;
		tr_smtp_params_unref(block->params);
		free(block);
	}
	free(params->hostname);
	free(params->banner);
	free(params->header_name);
	for (char **name = params->include_meta; name != NULL && *name != NULL; name++)
		free(*name);
	free(params->include_meta);
	tr_cidr_list_fini(&params->relay_hosts);
	tr_meta_fini(&params->meta);
	free(params);
}

struct tr_smtp_params *
tr_smtp_params_new(void)
{
	struct tr_smtp_params *params = calloc(1, sizeof *params);
	char host[256] = "localhost";
	struct tr_cidr v4, v6;

	if (params == NULL)
		return NULL;
	gethostname(host, sizeof host - 1);
	params->refs = 1;
	params->hostname = strdup(host);
	params->banner = strdup("KumoMTA");
	params->header_name = strdup("X-KumoRef");
	params->received_header = params->supplemental_header = true;
	params->client_timeout_ns = 60 * TR_NS_PER_S;
	params->data_processing_timeout_ns = 300 * TR_NS_PER_S;
	params->max_messages_per_connection = 10000;
	params->max_recipients_per_message = 1024;
	params->max_message_size = 20 * 1024 * 1024;
	params->data_buffer_size = 128 * 1024;
	params->line_ends = TR_SMTP_LINES_DENY;
	params->line_limit = 998;
	if (params->hostname == NULL || params->banner == NULL || params->header_name == NULL ||
		tr_cidr_parse(TR_STR("127.0.0.1"), &v4, NULL) != TR_OK ||
		tr_cidr_parse(TR_STR("::1"), &v6, NULL) != TR_OK ||
		tr_cidr_list_add(&params->relay_hosts, &v4) != TR_OK ||
		tr_cidr_list_add(&params->relay_hosts, &v6) != TR_OK) {
		free_params(params);
		return NULL;
	}
	return params;
}

/* --- one over another ------------------------------------------------------------------------------------------------
 */

static bool
copy_text(char **to, const char *from)
{
	char *copy = strdup(from);

	if (copy == NULL)
		return false;
	free(*to);
	*to = copy;
	return true;
}

static bool
copy_relay_hosts(struct tr_smtp_params *to, const struct tr_smtp_params *from)
{
	tr_cidr_list_fini(&to->relay_hosts);
	for (uint32_t i = 0; i < from->relay_hosts.count; i++) {
		if (tr_cidr_list_add(&to->relay_hosts, &from->relay_hosts.items[i]) != TR_OK)
			return false;
	}
	return true;
}

static bool
copy_trace_headers(struct tr_smtp_params *to, const struct tr_smtp_params *from)
{
	size_t names = 0;

	to->received_header = from->received_header;
	to->supplemental_header = from->supplemental_header;
	for (char **name = to->include_meta; name != NULL && *name != NULL; name++)
		free(*name);
	free(to->include_meta);
	to->include_meta = NULL;
	while (from->include_meta != NULL && from->include_meta[names] != NULL)
		names++;
	if (names > 0) {
		to->include_meta = calloc(names + 1, sizeof *to->include_meta);
		if (to->include_meta == NULL)
			return false;
		for (size_t i = 0; i < names; i++) {
			to->include_meta[i] = strdup(from->include_meta[i]);
			if (to->include_meta[i] == NULL)
				return false;
		}
	}
	return copy_text(&to->header_name, from->header_name);
}

/* Lays the settings of `set` in `from` over *to; meta is merged. False: no memory. */
static bool
lay_over(struct tr_smtp_params *to, const struct tr_smtp_params *from, uint32_t set)
{
	if (set & TR_SMTP_BATCH_HANDLING)
		to->by_domain = from->by_domain;
	if (set & TR_SMTP_CLIENT_TIMEOUT)
		to->client_timeout_ns = from->client_timeout_ns;
	if (set & TR_SMTP_PROCESSING_TIMEOUT)
		to->data_processing_timeout_ns = from->data_processing_timeout_ns;
	if (set & TR_SMTP_MAX_MESSAGES)
		to->max_messages_per_connection = from->max_messages_per_connection;
	if (set & TR_SMTP_MAX_RECIPIENTS)
		to->max_recipients_per_message = from->max_recipients_per_message;
	if (set & TR_SMTP_MAX_SIZE)
		to->max_message_size = from->max_message_size;
	if (set & TR_SMTP_BUFFER_SIZE)
		to->data_buffer_size = from->data_buffer_size;
	if (set & TR_SMTP_LINE_ENDS)
		to->line_ends = from->line_ends;
	if (set & TR_SMTP_LINE_LIMIT)
		to->line_limit = from->line_limit;
	return (!(set & TR_SMTP_HOSTNAME) || copy_text(&to->hostname, from->hostname)) &&
	       (!(set & TR_SMTP_BANNER) || copy_text(&to->banner, from->banner)) &&
	       (!(set & TR_SMTP_RELAY_HOSTS) || copy_relay_hosts(to, from)) &&
	       (!(set & TR_SMTP_TRACE_HEADERS) || copy_trace_headers(to, from)) &&
	       tr_meta_copy(&from->meta, &to->meta) == TR_OK;
}

struct tr_smtp_params *
tr_smtp_params_copy(const struct tr_smtp_params *from)
{
	struct tr_smtp_params *params = calloc(1, sizeof *params);

	if (params == NULL)
		return NULL;
	params->refs = 1;
	if (!lay_over(params, from, UINT32_MAX)) {
		free_params(params);
		return NULL;
	}
	return params;
}

static bool
lay_blocks(struct tr_smtp_params *to, const struct tr_smtp_params *from, const struct tr_sockaddr *peer,
	const struct tr_sockaddr *local)
{
	for (int via = 0; via < 2; via++) {
		const struct tr_smtp_block *best = NULL;

		for (const struct tr_smtp_block *block = from->blocks; block != NULL; block = block->next) {
			if (block->via == (via == 1) && tr_cidr_contains(&block->cidr, via ? local : peer) &&
				(best == NULL || block->cidr.bits > best->cidr.bits))
				best = block;
		}
		if (best != NULL &&
			(!lay_over(to, best->params, best->params->set) || !lay_blocks(to, best->params, peer, local)))
			return false;
	}
	return true;
}

struct tr_smtp_params *
tr_smtp_params_for(struct tr_smtp_params *from, const struct tr_sockaddr *peer, const struct tr_sockaddr *local)
{
	struct tr_smtp_params *params;

	if (from->blocks == NULL)
		return tr_smtp_params_ref(from);
	params = tr_smtp_params_copy(from);
	if (params != NULL && !lay_blocks(params, from, peer, local)) {
		free_params(params);
		return NULL;
	}
	return params;
}

struct tr_smtp_params *
tr_smtp_params_ref(struct tr_smtp_params *params)
{
	atomic_fetch_add_explicit(&params->refs, 1, memory_order_relaxed);
	return params;
}

void
tr_smtp_params_unref(struct tr_smtp_params *params)
{
	if (params != NULL && atomic_fetch_sub_explicit(&params->refs, 1, memory_order_acq_rel) == 1)
		free_params(params);
}
