/* A Kafka producer by librdkafka on the worker's loop. No Lua. Own thread only. See docs/transports.md.
 *
 * One librdkafka producer a worker and configuration, shared by all who ask for that configuration, because each owns
 * threads, sockets and buffers. A record is delivered when its report says so; "queue full" is back-pressure: what does
 * not fit waits here, in order. Reports come by an event descriptor, many a wake. */
#ifndef TR_KAFKA_H
#define TR_KAFKA_H

#include "base/loop.h"
#include "message/message.h"

struct tr_kafka;          /* one a worker */
struct tr_kafka_producer; /* counted */

int tr_kafka_new(struct tr_loop *loop, struct tr_kafka **out); /* TR_OK, TR_ENOMEM */
/* Gives up what is under way without calling done(), purges the producers' queues and ends their threads, waiting at
 * most 5 s for them. NULL is fine. */
void tr_kafka_free(struct tr_kafka *kafka);
/* Counters and gauges of what all producers of the process do are in the metrics: kafka_records, kafka_in_flight. */

/* A producer of this configuration: count names and values of librdkafka. enable.idempotence is true unless they
 * conflict with it. TR_OK; TR_EINVAL with what is wrong in error (it names the property); TR_ENOMEM, TR_ECLOSED
 * (tr_kafka_free ran). No broker is contacted here. */
#define TR_KAFKA_ERROR_MAX 512
int tr_kafka_open(struct tr_kafka *kafka, const struct tr_str *pairs, uint32_t count, struct tr_kafka_producer **out,
	char error[TR_KAFKA_ERROR_MAX]);
/* The same check, with nothing left behind, and without a worker: for the load of a policy. Takes a millisecond or so.
 */
int tr_kafka_check(const struct tr_str *pairs, uint32_t count, char error[TR_KAFKA_ERROR_MAX]);
/* Without references it is kept for a minute for the next who asks, one of at most eight. NULL is fine. */
void tr_kafka_unref(struct tr_kafka_producer *producer);
/* It has met a fatal error (a fenced or out of sequence idempotent producer) and sends nothing any more; opening it
 * again gives a new one. */
bool tr_kafka_is_fatal(const struct tr_kafka_producer *producer);

/* --- sending ------------------------------------------------------------------------------------------------ */

struct tr_kafka_result {
	int err;           /* 0: delivered; else librdkafka's code for tr_kafka_error_name() */
	int32_t partition; /* -1: not known */
	int64_t offset;    /* -1: not known (acks = 0) */
};
struct tr_kafka_call {
	void (*done)(struct tr_kafka_call *call); /* once, from the loop, when each record has its result */
	void *owner;
	uint32_t count;
};
/* Room for `count` records (> 0); the caller fills each, then starts it or frees it. NULL: no memory. */
struct tr_kafka_call *tr_kafka_call_new(struct tr_kafka_producer *producer, uint32_t count);
struct tr_kafka_record {
	struct tr_str topic; /* not empty */
	struct tr_str key;   /* .data NULL: none */
	struct tr_str payload;
	struct tr_bytes *bytes;       /* not NULL: the payload, which moves into the call; empty afterwards */
	const struct tr_str *headers; /* name, value ... */
	uint32_t header_count;        /* pairs */
	int32_t partition;            /* -1: the partitioner's choice */
	int64_t timeout_ns;           /* how long it may wait for room in the producer's queue; >= 0 */
};
/* Copies what it is given but `bytes`, which it has taken if it returns TR_OK. TR_OK, TR_ENOMEM. In order of index,
 * once each. */
int tr_kafka_call_add(struct tr_kafka_call *call, const struct tr_kafka_record *record);
/* done() will come, never from inside here. */
void tr_kafka_call_start(struct tr_kafka_call *call);
void tr_kafka_call_result(const struct tr_kafka_call *call, uint32_t index, struct tr_kafka_result *out);
/* After done(), or instead of start. */
void tr_kafka_call_free(struct tr_kafka_call *call);
/* Instead of done(): nobody waits any more. What librdkafka has may still reach the broker. Frees it. */
void tr_kafka_call_cancel(struct tr_kafka_call *call);

/* --- errors (kafka_error.c) ------------------------------------------------------------------------------------ */

/* "MessageTimedOut", as the contract's texts name them; NUL-terminated. */
void tr_kafka_error_name(int err, char out[64]);
const char *tr_kafka_error_text(int err); /* "Local: Message timed out"; static */
/* The record itself is refused and would be again: too large, invalid. */
bool tr_kafka_error_is_permanent(int err);

#endif
