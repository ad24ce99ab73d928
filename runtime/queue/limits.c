/* The limits of a path as objects of the process: sets of leases and throttles by their names. */
#include <stdio.h>
#include <stdlib.h>

#include "queue/ready.h"
#include "queue/sched.h"

struct ready_limits *
limits_ref(struct ready_limits *limits)
{
	if (limits != NULL)
		atomic_fetch_add_explicit(&limits->refs, 1, memory_order_relaxed);
	return limits;
}

static void
free_throttles(struct tr_throttle **throttles, uint32_t count)
{
	for (uint32_t i = 0; i < count; i++)
		tr_throttle_unref(throttles[i]);
	free(throttles);
}

void
limits_unref(struct ready_limits *limits)
{
	if (limits == NULL || atomic_fetch_sub_explicit(&limits->refs, 1, memory_order_acq_rel) != 1)
		return;
	for (uint32_t i = 0; i < limits->lease_count; i++)
		tr_lease_set_unref(limits->leases[i].set);
	free(limits->leases);
	free_throttles(limits->messages, limits->message_count);
	free_throttles(limits->selection, limits->selection_count);
	tr_throttle_unref(limits->connection);
	free(limits);
}

/* The name is PREFIX, the ready queue's name, SUFFIX. */
static struct tr_throttle *
own_throttle(const struct ready_limits *limits, const struct tr_ready *ready, const char *prefix, const char *suffix,
	const struct tr_rate_spec *spec)
{
	struct tr_throttle *throttle = NULL;
	struct tr_buf name = {0};

	tr_buf_addf(&name, "%s%s%s", prefix, ready->name, suffix);
	if (!name.failed)
		tr_throttle_get(limits->shaping, (struct tr_str){name.data, name.len}, spec, &throttle);
	tr_buf_free(&name);
	return throttle;
}

static double
per_second(const struct tr_throttle *throttle)
{
	const struct tr_rate_spec *spec = tr_throttle_spec(throttle);

	return (double)spec->quantity / (double)spec->period_ns;
}

/* Puts `throttle` in its place by rate; the array has room. False: there is none. */
static bool
insert(struct tr_throttle **throttles, uint32_t *count, struct tr_throttle *throttle)
{
	uint32_t at = *count;

	if (throttle == NULL)
		return false;
	for (; at > 0 && per_second(throttles[at - 1]) > per_second(throttle); at--)
		throttles[at] = throttles[at - 1];
	throttles[at] = throttle;
	++*count;
	return true;
}

/* The additional ones and `own`, if it has a rate. */
static bool
make_throttles(const struct ready_limits *limits, const struct tr_ready *ready, const char *prefix, const char *suffix,
	const struct tr_rate_spec *own, const struct tr_named_rate *rates, uint32_t rate_count,
	struct tr_throttle ***throttles, uint32_t *count)
{
	if (rate_count == 0 && own->quantity == 0)
		return true;
	*throttles = calloc(rate_count + 1, sizeof **throttles);
	if (*throttles == NULL)
		return false;
	for (uint32_t i = 0; i < rate_count; i++) {
		struct tr_throttle *throttle = NULL;

		tr_throttle_get(limits->shaping, tr_str(rates[i].name), &rates[i].spec, &throttle);
		if (!insert(*throttles, count, throttle))
			return false;
	}
	return own->quantity == 0 || insert(*throttles, count, own_throttle(limits, ready, prefix, suffix, own));
}

static bool
add_lease(struct ready_limits *limits, struct tr_str name, bool local, uint64_t limit)
{
	struct ready_lease lease = {.limit = limit};
	uint32_t at = limits->lease_count;

	if (tr_lease_set_get(limits->shaping, name, local, &lease.set) != TR_OK)
		return false;
	for (; at > 0 && limits->leases[at - 1].limit > limit; at--)
		limits->leases[at] = limits->leases[at - 1];
	limits->leases[at] = lease;
	limits->lease_count++;
	limits->shared_leases = limits->shared_leases || tr_lease_set_is_shared(lease.set);
	return true;
}

/* connection_limit needs a lease only where other nodes count, too: here the ready queue counts its sessions. */
static bool
make_leases(struct ready_limits *limits, const struct tr_ready *ready, const struct tr_path_config *path)
{
	bool own = !path->connection_limit_local && tr_shaping_backend(limits->shaping) != NULL;
	struct tr_buf name = {0};
	bool fine = true;

	if (path->limit_count == 0 && !own)
		return true;
	limits->leases = calloc(path->limit_count + 1, sizeof *limits->leases);
	if (limits->leases == NULL)
		return false;
	if (own) {
		tr_buf_addf(&name, "kumomta.connection_limit.%s", ready->name);
		fine = !name.failed &&
		       add_lease(limits, (struct tr_str){name.data, name.len}, false, path->connection_limit);
		tr_buf_free(&name);
	}
	for (uint32_t i = 0; fine && i < path->limit_count; i++)
		fine = add_lease(
			limits, tr_str(path->limits[i].name), path->limits[i].spec.local, path->limits[i].spec.limit);
	return fine;
}

int
limits_new(const struct tr_ready *ready, const struct tr_path_config *path, struct ready_limits **out)
{
	struct ready_limits *limits = calloc(1, sizeof *limits);
	char selection_suffix[256];

	*out = NULL;
	if (limits == NULL)
		return TR_ENOMEM;
	atomic_init(&limits->refs, 1);
	limits->shaping = ready->engine->shaping;
	limits->lease_ns = path->connect_timeout_ns + path->banner_timeout_ns + path->ehlo_timeout_ns +
			   path->auth_timeout_ns + path->mail_from_timeout_ns + path->rcpt_to_timeout_ns +
			   path->data_timeout_ns + path->data_dot_timeout_ns + path->starttls_timeout_ns +
			   path->idle_timeout_ns;
	snprintf(selection_suffix, sizeof selection_suffix, ".%s", ready->source);
	if (!make_leases(limits, ready, path) ||
		!make_throttles(limits, ready, "kumomta.max_message_rate.", "", &path->message_rate,
			path->message_rates, path->message_rate_count, &limits->messages, &limits->message_count) ||
		!make_throttles(limits, ready, "kumomta.source_selection_rate.", selection_suffix,
			&path->selection_rate, path->selection_rates, path->selection_rate_count, &limits->selection,
			&limits->selection_count))
		goto fail;
	if (path->connection_rate.quantity != 0) {
		limits->connection = own_throttle(limits, ready, "", "-connection-rate", &path->connection_rate);
		if (limits->connection == NULL)
			goto fail;
	}
	if (limits->lease_count + limits->message_count + limits->selection_count == 0 && limits->connection == NULL)
		limits_unref(limits);
	else
		*out = limits;
	return TR_OK;
fail:
	limits_unref(limits);
	return TR_ENOMEM;
}

bool
limits_same_rates(const struct ready_limits *a, const struct ready_limits *b)
{
	uint32_t count = a != NULL ? a->message_count : 0;

	if (count != (b != NULL ? b->message_count : 0))
		return false;
	for (uint32_t i = 0; i < count; i++)
		if (a->messages[i] != b->messages[i]) /* one object for one name and rate */
			return false;
	return true;
}

int64_t
limits_next_token_ns(struct tr_throttle *throttle, int64_t now_ns)
{
	const struct tr_rate_spec *spec = tr_throttle_spec(throttle);
	struct tr_throttle_result full;
	double interval_ns = (double)spec->period_ns / (double)spec->quantity;

	tr_throttle_check(throttle, now_ns, 0, &full);
	return tr_max_i64(full.reset_after_ns - (int64_t)(interval_ns * (double)(spec->burst - 1)), 0);
}

bool
ready_source_selection(struct tr_ready *ready, int64_t now_ns, int64_t *retry_after_ns)
{
	struct ready_limits *limits;
	bool passed = true;

	*retry_after_ns = 0;
	pthread_mutex_lock(&ready->lock);
	limits = limits_ref(ready->limits);
	pthread_mutex_unlock(&ready->lock);
	for (uint32_t i = 0; limits != NULL && passed && i < limits->selection_count; i++) {
		struct tr_throttle_result result;

		passed = tr_throttle_check(limits->selection[i], now_ns, 1, &result);
		if (passed)
			continue;
		*retry_after_ns = result.retry_after_ns;
		while (i-- > 0)
			tr_throttle_give_back(limits->selection[i], now_ns);
		break;
	}
	limits_unref(limits);
	return passed;
}
