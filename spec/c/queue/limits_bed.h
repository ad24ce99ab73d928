/* For the tests of limits: a scripted backend in the place of other nodes, and what paths are made of. */
#ifndef QUEUE_LIMITS_BED_H
#define QUEUE_LIMITS_BED_H

#include "rig.h"

/* --- a backend ---------------------------------------------------------------------------------------------- */

static struct {
	struct tr_loop *loop;
	struct tr_shared_op *ops[256]; /* under way */
	uint32_t count;
	struct tr_timer timer;
	bool fails, refuses_extend, refuses_start;
	uint64_t held, acquired, released, extended, tokens, cancelled;
	uint64_t most;    /* leases at once */
	int64_t retry_ns; /* of a refused token; 0: all are granted */
} net;

static inline void
answer_all(struct tr_timer *timer)
{
	while (net.count > 0) {
		struct tr_shared_op *op = net.ops[0];

		net.count--;
		memmove(net.ops, net.ops + 1, net.count * sizeof *net.ops);
		op->flight = NULL;
		op->err = net.fails ? TR_EIO : TR_OK;
		if (net.fails)
			snprintf(op->error, sizeof op->error, "nobody is there");
		else if (op->kind == TR_SHARED_ACQUIRE && net.held < op->limit) {
			op->granted = true;
			net.acquired++;
			if (++net.held > net.most)
				net.most = net.held;
		} else if (op->kind == TR_SHARED_ACQUIRE) {
			op->retry_after_ns = HOUR_NS;
		} else if (op->kind == TR_SHARED_EXTEND) {
			op->granted = !net.refuses_extend;
			net.extended++;
		} else if (op->kind == TR_SHARED_RELEASE) {
			net.held--;
			net.released++;
		} else {
			op->result.throttled = net.retry_ns > 0;
			op->result.retry_after_ns = net.retry_ns;
			net.tokens += net.retry_ns == 0;
		}
		op->then(op);
	}
}

static inline int
net_start(void *arg, struct tr_loop *loop, struct tr_shared_op *op)
{
	if (net.refuses_start)
		return TR_EIO;
	assert_true(net.count < TR_COUNT(net.ops));
	op->flight = &net;
	net.ops[net.count++] = op;
	net.loop = loop;
	if (!tr_timer_running(&net.timer))
		tr_timer_start(tr_loop_wheel(loop), &net.timer, TR_NS_PER_MS, answer_all);
	return TR_OK;
}

static inline void
net_cancel(void *arg, struct tr_shared_op *op)
{
	for (uint32_t i = 0; i < net.count; i++) {
		if (net.ops[i] != op)
			continue;
		net.count--;
		memmove(net.ops + i, net.ops + i + 1, (net.count - i) * sizeof *net.ops);
		net.cancelled++;
	}
	op->flight = NULL;
	if (net.count == 0 && net.loop != NULL)
		tr_timer_stop(tr_loop_wheel(net.loop), &net.timer);
}

static inline void
net_free(void *arg)
{
}

static struct tr_shaping_backend backend = {.start = net_start, .cancel = net_cancel, .free = net_free};

static inline void
open_shared(struct rig *rig)
{
	memset(&net, 0, sizeof net);
	backend.fallback_local = false;
	assert_int_equal(tr_shaping_new(&rig->shaping), TR_OK);
	tr_shaping_set_backend(rig->shaping, &backend);
	rig_open(rig);
}

static inline void
close_shared(struct rig *rig)
{
	struct tr_shaping *shaping = rig->shaping;

	rig_fini(rig);
	assert_int_equal(net.count, 0);
	tr_shaping_free(shaping);
}

/* --- paths -------------------------------------------------------------------------------------------------------- */

static inline struct tr_rate_spec
rate(const char *text)
{
	struct tr_rate_spec spec;
	const char *why;

	assert_int_equal(tr_rate_spec_parse(tr_str(text), &spec, &why), TR_OK);
	return spec;
}

static inline void
add_rate(struct tr_path_config *config, const char *name, const char *text)
{
	config->message_rates =
		realloc(config->message_rates, (config->message_rate_count + 1) * sizeof *config->message_rates);
	config->message_rates[config->message_rate_count++] = (struct tr_named_rate){strdup(name), rate(text)};
}

static inline int64_t
slow(struct rig *rig, struct rig_session *session, struct tr_outcome *outcome)
{
	return TR_NS_PER_S;
}

static inline void
put(struct rig *rig, const char *queue, uint32_t count)
{
	for (uint32_t i = 0; i < count; i++)
		rig_put(rig, queue, i);
}

#endif
