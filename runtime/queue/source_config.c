/* Definitions of sources and pools: counted and immutable. */
#include <stdlib.h>

#include "base/clock.h"
#include "queue/source.h"

struct tr_source_config *
tr_source_config_new(struct tr_str name)
{
	struct tr_source_config *config = calloc(1, sizeof *config);

	if (config == NULL)
		return NULL;
	atomic_init(&config->refs, 1);
	config->ttl_ns = 60 * TR_NS_PER_S;
	config->name = strndup(name.len > 0 ? name.data : "", name.len);
	if (config->name == NULL) {
		free(config);
		return NULL;
	}
	return config;
}

struct tr_source_config *
tr_source_config_ref(struct tr_source_config *config)
{
	if (config != NULL)
		atomic_fetch_add_explicit(&config->refs, 1, memory_order_relaxed);
	return config;
}

void
tr_source_config_unref(struct tr_source_config *config)
{
	if (config == NULL || atomic_fetch_sub_explicit(&config->refs, 1, memory_order_acq_rel) != 1)
		return;
	free(config->name);
	free(config->ehlo_domain);
	free(config->source_address);
	free(config->ha_proxy_server);
	free(config->ha_proxy_source_address);
	free(config->socks5_proxy_server);
	free(config->socks5_proxy_source_address);
	free(config->socks5_proxy_username);
	free(config->socks5_proxy_password);
	free(config);
}

struct tr_pool_config *
tr_pool_config_new(struct tr_str name, uint32_t count)
{
	struct tr_pool_config *config = calloc(1, sizeof *config);

	if (config == NULL)
		return NULL;
	atomic_init(&config->refs, 1);
	config->ttl_ns = 60 * TR_NS_PER_S;
	config->count = count;
	config->name = strndup(name.len > 0 ? name.data : "", name.len);
	config->entries = calloc(count > 0 ? count : 1, sizeof *config->entries);
	if (config->name == NULL || config->entries == NULL) {
		free(config->name);
		free(config->entries);
		free(config);
		return NULL;
	}
	return config;
}

struct tr_pool_config *
tr_pool_config_ref(struct tr_pool_config *config)
{
	if (config != NULL)
		atomic_fetch_add_explicit(&config->refs, 1, memory_order_relaxed);
	return config;
}

void
tr_pool_config_unref(struct tr_pool_config *config)
{
	if (config == NULL || atomic_fetch_sub_explicit(&config->refs, 1, memory_order_acq_rel) != 1)
		return;
	for (uint32_t i = 0; i < config->count; i++)
		free(config->entries[i].name);
	free(config->entries);
	free(config->name);
	free(config);
}

bool
tr_pool_config_same(const struct tr_pool_config *a, const struct tr_pool_config *b)
{
	if (a == NULL || b == NULL)
		return a == b;
	if (a->count != b->count || strcmp(a->name, b->name) != 0)
		return false;
	for (uint32_t i = 0; i < a->count; i++) {
		if (a->entries[i].weight != b->entries[i].weight || strcmp(a->entries[i].name, b->entries[i].name) != 0)
			return false;
	}
	return true;
}
