#include <math.h>
#include <stdlib.h>

#include "queue/config.h"

struct tr_queue_config *
tr_queue_config_new(void)
{
	struct tr_queue_config *config = calloc(1, sizeof *config);

	if (config == NULL)
		return NULL;
	atomic_init(&config->refs, 1);
	config->retry_interval_ns = 20 * 60 * TR_NS_PER_S;
	config->max_age_ns = 7 * 86400 * TR_NS_PER_S;
	config->reap_interval_ns = 10 * 60 * TR_NS_PER_S;
	config->refresh_interval_ns = 60 * TR_NS_PER_S;
	config->protocol = TR_PROTO_SMTP;
	config->batch_size = 1;
	config->min_batch_size = 1;
	return config;
}

struct tr_queue_config *
tr_queue_config_ref(struct tr_queue_config *config)
{
	if (config != NULL)
		atomic_fetch_add_explicit(&config->refs, 1, memory_order_relaxed);
	return config;
}

void
tr_queue_config_unref(struct tr_queue_config *config)
{
	if (config == NULL || atomic_fetch_sub_explicit(&config->refs, 1, memory_order_acq_rel) != 1)
		return;
	for (uint32_t i = 0; i < config->mx_count; i++) {
		free(config->mx_list[i].label);
		free(config->mx_list[i].host);
	}
	free(config->mx_list);
	free(config->egress_pool);
	free(config->provider);
	free(config->constructor);
	free(config);
}

static bool
text_differs(const char *a, const char *b)
{
	return (a == NULL) != (b == NULL) || (a != NULL && strcmp(a, b) != 0);
}

bool
tr_queue_config_protocol_differs(const struct tr_queue_config *a, const struct tr_queue_config *b)
{
	if (a->protocol != b->protocol || text_differs(a->constructor, b->constructor) ||
		a->batch_size != b->batch_size || a->min_batch_size != b->min_batch_size ||
		a->max_batch_latency_ns != b->max_batch_latency_ns || a->max_batch_bytes != b->max_batch_bytes ||
		a->mx_count != b->mx_count)
		return true;
	for (uint32_t i = 0; i < a->mx_count; i++) {
		if (text_differs(a->mx_list[i].label, b->mx_list[i].label) ||
			text_differs(a->mx_list[i].host, b->mx_list[i].host) ||
			a->mx_list[i].port != b->mx_list[i].port || a->mx_list[i].literal != b->mx_list[i].literal)
			return true;
	}
	return false;
}

const char *const tr_path_prohibited[] = {"127.0.0.0/8", "::1", "0.0.0.0", "::", NULL};

struct tr_path_config *
tr_path_config_new(bool hook)
{
	struct tr_path_config *config = calloc(1, sizeof *config);

	if (config == NULL)
		return NULL;
	atomic_init(&config->refs, 1);
	config->connection_limit = hook ? 10 : 32;
	config->max_ready = hook ? 10000 : 1024;
	config->max_deliveries_per_connection = hook ? 8192 : 1024;
	config->max_recipients_per_batch = 100;
	config->consecutive_failures_before_delay = 100;
	config->idle_timeout_ns = (hook ? 60 : 5) * TR_NS_PER_S;
	config->connect_timeout_ns = config->banner_timeout_ns = config->auth_timeout_ns = 60 * TR_NS_PER_S;
	config->ehlo_timeout_ns = config->mail_from_timeout_ns = config->rcpt_to_timeout_ns = 300 * TR_NS_PER_S;
	config->data_timeout_ns = config->data_dot_timeout_ns = 300 * TR_NS_PER_S;
	config->rset_timeout_ns = config->starttls_timeout_ns = 5 * TR_NS_PER_S;
	config->system_shutdown_timeout_ns = hook ? 30 * TR_NS_PER_S : 0;
	config->refresh_interval_ns = 60 * TR_NS_PER_S;
	config->smtp_port = 25;
	config->enable_pipelining = true;
	config->enable_rset = true;
	config->prohibited_hosts = calloc(TR_COUNT(tr_path_prohibited), sizeof *config->prohibited_hosts);
	if (config->prohibited_hosts == NULL) {
		free(config);
		return NULL;
	}
	for (size_t i = 0; tr_path_prohibited[i] != NULL; i++)
		tr_cidr_parse(
			tr_str(tr_path_prohibited[i]), &config->prohibited_hosts[config->prohibited_count++], NULL);
	config->connection_limit_local = hook;
	if (hook) /* "local:1000/s": a hook that nobody configured must not depend on a shared backend */
		config->connection_rate = (struct tr_rate_spec){1000, 1000, TR_NS_PER_S, true, false};
	config->gate.failures_to_close = hook ? 5 : 0;
	config->gate.backoff_ns = TR_NS_PER_S;
	config->gate.backoff_max_ns = 60 * TR_NS_PER_S;
	config->gate.retry_after_max_ns = 3600 * TR_NS_PER_S;
	return config;
}

struct tr_path_config *
tr_path_config_ref(struct tr_path_config *config)
{
	if (config != NULL)
		atomic_fetch_add_explicit(&config->refs, 1, memory_order_relaxed);
	return config;
}

static void
free_rates(struct tr_named_rate *rates, uint32_t count)
{
	for (uint32_t i = 0; i < count; i++)
		free(rates[i].name);
	free(rates);
}

void
tr_path_config_unref(struct tr_path_config *config)
{
	if (config == NULL || atomic_fetch_sub_explicit(&config->refs, 1, memory_order_acq_rel) != 1)
		return;
	for (uint32_t i = 0; i < config->limit_count; i++)
		free(config->limits[i].name);
	free(config->limits);
	free_rates(config->message_rates, config->message_rate_count);
	free_rates(config->selection_rates, config->selection_rate_count);
	free(config->provider);
	free(config->ehlo_domain);
	free(config->prohibited_hosts);
	free(config->skip_hosts);
	free(config);
}

int64_t
tr_retry_delay_ns(const struct tr_queue_config *config, uint32_t attempt, double random)
{
	int64_t interval = config->retry_interval_ns > 0 ? config->retry_interval_ns : TR_NS_PER_S;
	int64_t delay = interval;
	double most_s = fmin((double)interval / 1e9 / 20, 60);
	int64_t jitter;

	for (uint32_t i = 0; i < attempt && delay < INT64_MAX / 8; i++)
		delay *= 2;
	if (config->max_retry_interval_ns > 0)
		delay = tr_min_i64(delay, config->max_retry_interval_ns);
	jitter = (int64_t)((random * most_s - most_s / 2) * 1e3) * TR_NS_PER_MS;
	return tr_max_i64(delay + jitter, 0);
}
