/* A pool of sources over the rig, for the tests of source selection and of rates. */
#ifndef SOURCES_H
#define SOURCES_H

#include "rig.h"

#define SOURCES 4

static struct {
	const char *name;
	uint32_t weight;
} entries[SOURCES];
static uint32_t entry_count;
static uint64_t by_source[SOURCES];
static const char *pool_error, *source_error;
static struct tr_suspend_rule unplumbed;

static inline void
use_pool(const char *names, const uint32_t *weights)
{
	static const char *const known[SOURCES] = {"a", "b", "c", "d"};

	entry_count = (uint32_t)strlen(names);
	for (uint32_t i = 0; i < entry_count; i++) {
		entries[i].name = known[names[i] - 'a'];
		entries[i].weight = weights[i];
	}
}

static inline struct tr_pool_config *
pool_of(struct rig *rig, const char *name, const char **error)
{
	struct tr_pool_config *config;

	if (pool_error != NULL || strlen(name) != 1) {
		*error = pool_error;
		return NULL;
	}
	config = tr_pool_config_new(tr_str(name), entry_count);
	for (uint32_t i = 0; i < entry_count; i++) {
		config->entries[i].name = strdup(entries[i].name);
		config->entries[i].weight = entries[i].weight;
	}
	return config;
}

static inline struct tr_source_config *
source_of(struct rig *rig, const char *name, const char **error)
{
	struct tr_source_config *config;

	if (source_error != NULL) {
		*error = source_error;
		return NULL;
	}
	config = tr_source_config_new(tr_str(name));
	config->unplumbed = unplumbed;
	return config;
}

static inline void
in_pool(struct rig *rig, const char *name, struct tr_queue_config *config)
{
	config->egress_pool = strdup(strchr(name, '@') != NULL ? "q" : "p");
	config->retry_interval_ns = 10 * MINUTE_NS;
}

static inline uint32_t
index_of(const struct tr_ready *ready)
{
	return (uint32_t)(tr_ready_source(ready).data[0] - 'a');
}

static inline int64_t
counted(struct rig *rig, struct rig_session *session, struct tr_outcome *outcome)
{
	by_source[index_of(session->session->ready)] += session->held_count;
	return 0;
}

static inline void
begin(struct rig *rig)
{
	static const uint32_t weights[] = {2, 1, 1};

	rig_init(rig);
	memset(by_source, 0, sizeof by_source);
	pool_error = source_error = NULL;
	unplumbed = (struct tr_suspend_rule){0, 0, 0};
	use_pool("abc", weights);
	rig->pool = pool_of;
	rig->source = source_of;
	rig->queue_config = in_pool;
	rig->send = counted;
	rig_open(rig);
}

static inline struct tr_ready *
ready_named(struct rig *rig, const char *name)
{
	struct tr_ready *ready = ready_find(rig->engine, tr_str(name));

	assert_non_null(ready);
	return ready;
}

#endif
