#include "transport/redis_shaping.h"

#include <hiredis/hiredis.h>
#include <math.h>
#include <openssl/sha.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/diag.h"
#include "base/metrics.h"
#include "message/message.h"

/* --- scripts ------------------------------------------------------------------------------------------ */

/* GCRA as in runtime/shaping/throttle.c, in microseconds. The key holds the moment at which the bucket will be full,
 * "SECONDS:MICROSECONDS", in two parts since a double does not hold both exactly; it expires then. Intervals are
 * multiples of 1/16 ns, which seven digits show exactly; `slack` covers what doubles lose beyond a few days.
 * KEYS: key. ARGV: interval, burst, quantity. Answer: "ALLOWED REMAINING RESET_AFTER RETRY_AFTER". */
const char *const tr_redis_throttle_script =
	"if redis.replicate_commands then redis.replicate_commands() end\n"
	"local now = redis.call('TIME')\n"
	"local s, us = tonumber(now[1]), tonumber(now[2])\n"
	"local interval, burst, n = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])\n"
	"local bucket, cost = math.min(interval * burst, 1e15), math.min(interval * n, 1e15)\n"
	"local room = math.max(bucket, cost)\n"
	"local slack = 1e-5 + room * 1e-13\n"
	"local ahead = 0\n"
	"local full = redis.call('GET', KEYS[1])\n"
	"if full then\n"
	"  local fs, fus = string.match(full, '^(%d+):([%d.]+)$')\n"
	"  if fs then ahead = math.max(0, (tonumber(fs) - s) * 1000000 + (tonumber(fus) - us)) end\n"
	"end\n"
	"local new = ahead + cost\n"
	"local allowed, retry = 1, 0\n"
	"if new <= room + slack then\n"
	"  ahead = new\n"
	"  local at = us + ahead\n"
	"  local carry = math.floor(at / 1000000)\n"
	"  redis.call('SET', KEYS[1], string.format('%.0f:%.7f', s + carry, at - carry * 1000000),\n"
	"    'PX', string.format('%.0f', math.ceil(ahead / 1000) + 1))\n"
	"else\n"
	"  allowed, retry = 0, new - room\n"
	"end\n"
	"local left = math.max(0, math.min(burst, math.floor((bucket - ahead + slack) / interval)))\n"
	"return string.format('%d %.0f %.4f %.4f', allowed, left, ahead, retry)\n";

/* KEYS: name. ARGV: limit, lease, duration in seconds. Answer: "OK", or the seconds until the earliest lease expires. A
 * lease that is there already (its answer was lost) is taken again. */
static const char *const acquire_script =
	"if redis.replicate_commands then redis.replicate_commands() end\n"
	"local time = redis.call('TIME')\n"
	"local now = tonumber(time[1]) + tonumber(time[2]) / 1000000\n"
	"local duration = tonumber(ARGV[3])\n"
	"redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.6f', now))\n"
	"if redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[1]) and not redis.call('ZSCORE', KEYS[1], ARGV[2]) then\n"
	"  local first = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')\n"
	"  return string.format('%.6f', tonumber(first[2]) - now)\n"
	"end\n"
	"redis.call('ZADD', KEYS[1], string.format('%.6f', now + duration), ARGV[2])\n"
	"local ms = math.ceil(duration * 1000) + 1000\n"
	"if redis.call('PTTL', KEYS[1]) < ms then redis.call('PEXPIRE', KEYS[1], string.format('%.0f', ms)) end\n"
	"return 'OK'\n";

/* KEYS: name. ARGV: lease, duration. Answer: 1, or 0 if the lease is gone. */
static const char *const extend_script =
	"if redis.replicate_commands then redis.replicate_commands() end\n"
	"local time = redis.call('TIME')\n"
	"local now = tonumber(time[1]) + tonumber(time[2]) / 1000000\n"
	"local score = redis.call('ZSCORE', KEYS[1], ARGV[1])\n"
	"if not score or tonumber(score) <= now then return 0 end\n"
	"local duration = tonumber(ARGV[2])\n"
	"redis.call('ZADD', KEYS[1], string.format('%.6f', now + duration), ARGV[1])\n"
	"local ms = math.ceil(duration * 1000) + 1000\n"
	"if redis.call('PTTL', KEYS[1]) < ms then redis.call('PEXPIRE', KEYS[1], string.format('%.0f', ms)) end\n"
	"return 1\n";

enum script { THROTTLE, ACQUIRE, EXTEND, SCRIPTS };

/* --- objects --------------------------------------------------------------------------------------------- */

/* A worker's connection. */
struct lane {
	struct lane *next;
	struct tr_redis_shaping *owner;
	struct tr_loop *loop;
	struct tr_redis *redis;
	bool down;
};

struct tr_redis_shaping {
	struct tr_shaping_backend backend;
	struct tr_redis_settings settings;
	char name[256];
	char sha[SCRIPTS][2 * SHA_DIGEST_LENGTH + 1];
	pthread_mutex_t lock;            /* to add a lane, and for `down` and `trouble` */
	_Atomic(struct lane *) lanes;    /* one a worker; only ever added to */
	uint32_t down;                   /* lanes that are */
	char trouble[256];               /* of the last one that went down */
	bool closing;                    /* nobody waits for answers any more */
	struct tr_metric *latency[2][2]; /* [ping, script][ok, error] */
	struct tr_metric *connected;
};

/* One question under way. It outlives the operation that was cancelled. */
struct flight {
	struct tr_redis_call call;
	struct lane *lane;
	struct tr_shared_op *op; /* NULL: nobody waits for the answer */
	enum tr_shared_kind kind;
	bool whole; /* the script was sent as text: the server did not know it */
	int64_t start_ns;
	char args[3][40];
	char lease[37];
	size_t key_len;
	char key[];
};

static const char *
script_text(enum script script)
{
	return script == THROTTLE ? tr_redis_throttle_script : script == ACQUIRE ? acquire_script : extend_script;
}

static const char *
effect(const struct tr_redis_shaping *shaping)
{
	return shaping->backend.fallback_local ? "shared limits are kept by each node for itself"
					       : "what shared limits govern waits";
}

/* One line of the log a change, however many workers see it. */
static void
changed(void *arg, bool up, const char *error)
{
	struct lane *lane = arg;
	struct tr_redis_shaping *shaping = lane->owner;
	uint32_t before, after;

	pthread_mutex_lock(&shaping->lock);
	before = shaping->down;
	if (up && lane->down)
		shaping->down--;
	else if (!up && !lane->down)
		shaping->down++;
	lane->down = !up;
	after = shaping->down;
	if (!up)
		snprintf(shaping->trouble, sizeof shaping->trouble, "%s", error);
	pthread_mutex_unlock(&shaping->lock);
	tr_metric_set(shaping->connected, after == 0);
	if (before == 0 && after > 0)
		tr_log(TR_LEVEL_WARN, "redis", "%s; until it answers again %s", error, effect(shaping));
	else if (before > 0 && after == 0)
		tr_log(TR_LEVEL_INFO, "redis", "%s answers again", shaping->name);
}

static bool
is_down(void *arg, char out[256])
{
	struct tr_redis_shaping *shaping = arg;
	bool down;

	pthread_mutex_lock(&shaping->lock);
	down = shaping->down > 0;
	snprintf(out, 256, "%s", shaping->trouble);
	pthread_mutex_unlock(&shaping->lock);
	return down;
}

static struct lane *
lane_of(struct tr_redis_shaping *shaping, struct tr_loop *loop)
{
	struct lane *lane = atomic_load_explicit(&shaping->lanes, memory_order_acquire);

	while (lane != NULL && lane->loop != loop)
		lane = lane->next;
	if (lane != NULL)
		return lane;
	lane = calloc(1, sizeof *lane); /* nobody else makes one for this thread's loop */
	if (lane == NULL)
		return NULL;
	lane->owner = shaping;
	lane->loop = loop;
	if (tr_redis_new(loop, &shaping->settings, changed, lane, &lane->redis) != TR_OK) {
		free(lane);
		return NULL;
	}
	pthread_mutex_lock(&shaping->lock);
	lane->next = atomic_load_explicit(&shaping->lanes, memory_order_relaxed);
	atomic_store_explicit(&shaping->lanes, lane, memory_order_release);
	pthread_mutex_unlock(&shaping->lock);
	return lane;
}

/* --- questions ------------------------------------------------------------------------------------------- */

static int
send_flight(struct flight *flight)
{
	struct tr_redis_shaping *shaping = flight->lane->owner;
	struct tr_str key = {flight->key, flight->key_len}, lease = tr_str(flight->lease);
	enum script script = flight->kind == TR_SHARED_THROTTLE  ? THROTTLE
			     : flight->kind == TR_SHARED_ACQUIRE ? ACQUIRE
								 : EXTEND;
	struct tr_str argv[7] = {
		flight->whole ? TR_STR("EVAL") : TR_STR("EVALSHA"),
		tr_str(flight->whole ? script_text(script) : shaping->sha[script]),
		TR_STR("1"),
		key,
	};
	int argc = 4;

	switch (flight->kind) {
	case TR_SHARED_THROTTLE:
		for (int i = 0; i < 3; i++)
			argv[argc++] = tr_str(flight->args[i]);
		break;
	case TR_SHARED_ACQUIRE:
		argv[argc++] = tr_str(flight->args[0]);
		argv[argc++] = lease;
		argv[argc++] = tr_str(flight->args[1]);
		break;
	case TR_SHARED_EXTEND:
		argv[argc++] = lease;
		argv[argc++] = tr_str(flight->args[0]);
		break;
	case TR_SHARED_RELEASE:
		argv[0] = TR_STR("ZREM");
		argv[1] = key;
		argv[2] = lease;
		argc = 3;
	}
	return tr_redis_start(flight->lane->redis, &flight->call, argc, argv);
}

/* "1 4 200000.0000 0.0000" */
static bool
read_throttle(const struct flight *flight, const struct redisReply *reply, struct tr_throttle_result *out)
{
	double number[4]; /* allowed, left, reset_us, retry_us */
	char *at = reply->str, *end;

	if (reply->type != REDIS_REPLY_STRING)
		return false;
	for (size_t i = 0; i < TR_COUNT(number); i++, at = end) {
		number[i] = strtod(at, &end);
		if (end == at || !(number[i] >= 0))
			return false;
	}
	if (*at != '\0' || number[2] >= 9e15 || number[3] >= 9e15)
		return false;
	*out = (struct tr_throttle_result){
		.throttled = number[0] == 0,
		.limit = flight->op->spec->burst,
		.remaining = number[1] < 1.8e19 ? (uint64_t)number[1] : UINT64_MAX,
		/* up, since then it is true; what four digits have rounded up is not a nanosecond more */
		.reset_after_ns = (int64_t)ceil(number[2] * 1e3 - 0.05),
		.retry_after_ns = number[0] != 0 ? 0 : tr_max_i64((int64_t)ceil(number[3] * 1e3 - 0.05), 1),
	};
	return true;
}

static bool
read_acquire(const struct redisReply *reply, bool *granted, int64_t *retry_after_ns)
{
	char *end;
	double seconds;

	*granted = false;
	if (reply->type != REDIS_REPLY_STRING && reply->type != REDIS_REPLY_STATUS)
		return false;
	if (strcmp(reply->str, "OK") == 0) {
		*granted = true;
		return true;
	}
	seconds = strtod(reply->str, &end);
	if (end == reply->str || *end != '\0' || !(seconds < 4e9))
		return false;
	*retry_after_ns = tr_max_i64((int64_t)(seconds * 1e9), TR_NS_PER_MS);
	return true;
}

/* A lease that was granted to one who does not want it any more. */
static void
give_back(struct flight *flight)
{
	flight->kind = TR_SHARED_RELEASE;
	flight->op = NULL;
	if (send_flight(flight) != TR_OK)
		free(flight); /* it expires */
}

static void
set_error(struct tr_shared_op *op, int err, const char *text)
{
	op->err = err;
	snprintf(op->error, sizeof op->error, "%s", text);
}

static void
answered(struct tr_redis_call *call, const struct redisReply *reply)
{
	struct flight *flight = tr_container_of(call, struct flight, call);
	struct tr_redis_shaping *shaping = flight->lane->owner;
	struct tr_shared_op *op = flight->op, nobody = {0};
	bool understood = true, failed = reply == NULL || reply->type == REDIS_REPLY_ERROR;

	if (shaping->closing) {
		free(flight);
		return;
	}
	if (reply != NULL && failed && !flight->whole && strncmp(reply->str, "NOSCRIPT", 8) == 0) {
		flight->whole = true;
		if (send_flight(flight) == TR_OK)
			return;
	}
	tr_metric_observe_ns(shaping->latency[1][failed], tr_mono_ns() - flight->start_ns);
	if (op == NULL) {
		nobody.kind = flight->kind;
		op = &nobody;
	} else {
		op->flight = NULL;
	}
	op->err = TR_OK;
	if (reply == NULL)
		set_error(op, call->err, call->error);
	else if (failed)
		set_error(op, TR_EIO, reply->str);
	else if (flight->kind == TR_SHARED_ACQUIRE)
		understood = read_acquire(reply, &op->granted, &op->retry_after_ns);
	else if (flight->kind == TR_SHARED_THROTTLE && op != &nobody)
		understood = read_throttle(flight, reply, &op->result);
	else if (flight->kind == TR_SHARED_EXTEND)
		op->granted = reply->type == REDIS_REPLY_INTEGER && reply->integer == 1;
	if (!understood)
		set_error(op, TR_EPROTO, "the answer makes no sense");
	if (op == &nobody) {
		if (flight->kind == TR_SHARED_ACQUIRE && op->granted)
			give_back(flight);
		else
			free(flight);
		return;
	}
	free(flight);
	op->then(op);
}

static int
start(void *arg, struct tr_loop *loop, struct tr_shared_op *op)
{
	struct tr_redis_shaping *shaping = arg;
	struct lane *lane = lane_of(shaping, loop);
	struct flight *flight = lane ? calloc(1, sizeof *flight + op->key.len + 1) : NULL;
	int err;

	if (flight == NULL)
		return TR_ENOMEM;
	flight->call.then = answered;
	flight->lane = lane;
	flight->op = op;
	flight->kind = op->kind;
	flight->start_ns = tr_mono_ns();
	memcpy(flight->key, op->key.data, op->key.len);
	flight->key_len = op->key.len;
	if (op->kind == TR_SHARED_THROTTLE) {
		snprintf(flight->args[0], sizeof flight->args[0], "%.17g", tr_rate_interval_us(op->spec));
		snprintf(flight->args[1], sizeof flight->args[1], "%llu", (unsigned long long)op->spec->burst);
		snprintf(flight->args[2], sizeof flight->args[2], "%llu", (unsigned long long)op->quantity);
	} else {
		char *duration = flight->args[op->kind == TR_SHARED_ACQUIRE ? 1 : 0];

		tr_uuid_hyphenated(op->lease, flight->lease);
		snprintf(duration, sizeof flight->args[0], "%.6f", (double)op->duration_ns / 1e9);
		if (op->kind == TR_SHARED_ACQUIRE)
			snprintf(flight->args[0], sizeof flight->args[0], "%llu", (unsigned long long)op->limit);
	}
	op->granted = false;
	op->retry_after_ns = 0;
	op->error[0] = '\0';
	err = send_flight(flight);
	if (err != TR_OK) {
		free(flight);
		return err;
	}
	op->flight = flight;
	return TR_OK;
}

static void
cancel(void *arg, struct tr_shared_op *op)
{
	struct flight *flight = op->flight;

	if (flight != NULL)
		flight->op = NULL;
	op->flight = NULL;
}

int
tr_redis_shaping_ping(struct tr_redis_shaping *shaping, struct tr_loop *loop, struct tr_redis_call *call)
{
	struct lane *lane = lane_of(shaping, loop);

	return lane ? tr_redis_start(lane->redis, call, 1, (struct tr_str[]){TR_STR("PING")}) : TR_ENOMEM;
}

/* --- life -------------------------------------------------------------------------------------------------- */

static void
free_backend(void *arg)
{
	tr_redis_shaping_free(arg);
}

int
tr_redis_shaping_new(const struct tr_redis_settings *settings, bool fallback_local, struct tr_redis_shaping **out)
{
	static const char *const operations[] = {"ping", "script"}, *const statuses[] = {"ok", "error"};
	struct tr_redis_shaping *shaping = calloc(1, sizeof *shaping);

	*out = NULL;
	if (shaping == NULL)
		return TR_ENOMEM;
	if (tr_redis_copy_settings(settings, &shaping->settings) != TR_OK) {
		free(shaping);
		return TR_ENOMEM;
	}
	shaping->backend = (struct tr_shaping_backend){.arg = shaping,
		.start = start,
		.cancel = cancel,
		.free = free_backend,
		.is_down = is_down,
		.fallback_local = fallback_local};
	pthread_mutex_init(&shaping->lock, NULL);
	tr_redis_name(settings, shaping->name);
	for (int i = 0; i < SCRIPTS; i++) {
		unsigned char digest[SHA_DIGEST_LENGTH];
		const char *text = script_text((enum script)i);

		if (SHA1((const unsigned char *)text, strlen(text), digest) == NULL) { /* no memory */
			tr_redis_shaping_free(shaping);
			return TR_ENOMEM;
		}
		for (int k = 0; k < SHA_DIGEST_LENGTH; k++)
			snprintf(shaping->sha[i] + 2 * k, 3, "%02x", digest[k]);
	}
	for (int i = 0; i < 2; i++) {
		for (int k = 0; k < 2; k++)
			shaping->latency[i][k] = tr_metric_get(TR_HISTOGRAM, "redis_operation_latency",
				"seconds of an operation in Redis", "service", shaping->name, "operation",
				operations[i], "status", statuses[k], NULL);
	}
	shaping->connected = tr_metric_get(TR_GAUGE, "redis_connected",
		"1: shared limits are decided by Redis; 0: it does not answer", "service", shaping->name, NULL);
	tr_metric_set(shaping->connected, 1);
	*out = shaping;
	return TR_OK;
}

void
tr_redis_shaping_free(struct tr_redis_shaping *shaping)
{
	struct lane *lane;

	if (shaping == NULL)
		return;
	/* The answers of what is still under way are not for anybody: their operations are gone with their owners. */
	shaping->closing = true;
	for (lane = atomic_load(&shaping->lanes); lane != NULL; lane = lane->next)
		tr_redis_free(lane->redis);
	while ((lane = atomic_load(&shaping->lanes)) != NULL) {
		atomic_store(&shaping->lanes, lane->next);
		free(lane);
	}
	for (int i = 0; i < 2; i++)
		for (int k = 0; k < 2; k++)
			tr_metric_unref(shaping->latency[i][k]);
	tr_metric_unref(shaping->connected);
	pthread_mutex_destroy(&shaping->lock);
	tr_redis_free_settings(&shaping->settings);
	free(shaping);
}

const struct tr_shaping_backend *
tr_redis_shaping_backend(struct tr_redis_shaping *shaping)
{
	return &shaping->backend;
}
