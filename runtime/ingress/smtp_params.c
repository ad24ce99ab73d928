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

struct tr_smtp_params *
tr_smtp_params_copy(const struct tr_smtp_params *from)
{
	struct tr_smtp_params *params = calloc(1, sizeof *params);
	size_t names = 0;
	bool failed = false;

	if (params == NULL)
		return NULL;
	params->refs = 1;
	params->by_domain = from->by_domain;
	params->received_header = from->received_header;
	params->supplemental_header = from->supplemental_header;
	params->client_timeout_ns = from->client_timeout_ns;
	params->data_processing_timeout_ns = from->data_processing_timeout_ns;
	params->max_messages_per_connection = from->max_messages_per_connection;
	params->max_recipients_per_message = from->max_recipients_per_message;
	params->max_message_size = from->max_message_size;
	params->data_buffer_size = from->data_buffer_size;
	params->line_ends = from->line_ends;
	params->line_limit = from->line_limit;
	params->hostname = strdup(from->hostname);
	params->banner = strdup(from->banner);
	params->header_name = strdup(from->header_name);
	for (uint32_t i = 0; i < from->relay_hosts.count; i++)
		failed |= tr_cidr_list_add(&params->relay_hosts, &from->relay_hosts.items[i]) != TR_OK;
	while (from->include_meta != NULL && from->include_meta[names] != NULL)
		names++;
	if (names > 0) {
		params->include_meta = calloc(names + 1, sizeof *params->include_meta);
		for (size_t i = 0; params->include_meta != NULL && i < names; i++) {
			params->include_meta[i] = strdup(from->include_meta[i]);
			failed |= params->include_meta[i] == NULL;
		}
		failed |= params->include_meta == NULL;
	}
	failed |= tr_meta_copy(&from->meta, &params->meta) != TR_OK;
	if (failed || params->hostname == NULL || params->banner == NULL || params->header_name == NULL) {
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
