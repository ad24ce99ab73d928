/* Shared by kafka.c (producers), kafka_config.c (their configurations) and kafka_call.c (what they send). */
#ifndef TR_KAFKA_INTERNAL_H
#define TR_KAFKA_INTERNAL_H

#include <ev.h>
#include <librdkafka/rdkafka.h>

#include "base/metrics.h"
#include "transport/kafka.h"

#define TR_KAFKA_SPARES 4096 /* lists of headers that a producer keeps, some 300 bytes each */

struct tr_kafka_slot { /* one record of a call */
	struct tr_kafka_batch *call;
	size_t topic_at, key_at, key_len; /* in the call's text; the topic with its NUL */
	bool has_key;
	struct tr_bytes payload;     /* ours until the report */
	rd_kafka_headers_t *headers; /* ours until it is produced */
	int32_t partition;
	int64_t timeout_ns;
	struct tr_kafka_result result;
};

struct tr_kafka_batch {           /* a call with its records */
	struct tr_kafka_call pub; /* first */
	struct tr_kafka_producer *producer;
	struct tr_kafka_batch *next, **prev; /* of all calls that were started */
	struct tr_kafka_batch *wait_next;    /* in the line for room */
	bool waiting, cancelled, held;
	uint32_t added;    /* records that are filled */
	uint32_t produced; /* the first so many were offered to librdkafka, or failed before */
	uint32_t pending;  /* without their result */
	uint32_t inside;   /* librdkafka has them */
	int64_t started_ns;
	struct tr_timer timer; /* the first that may wait no longer */
	struct tr_defer defer;
	struct tr_buf text;
	struct tr_kafka_slot records[];
};

struct tr_kafka_producer {
	struct tr_kafka *kafka; /* NULL: it is gone */
	struct tr_kafka_producer *next, **prev;
	uint32_t refs;
	uint32_t calls;                 /* under way; of a solo one: records of another's calls that it has */
	char *id;                       /* the configuration, canonical */
	struct tr_kafka_producer *solo; /* referenced; NULL: none yet */
	bool is_solo;                   /* of another: sends each record in a request of its own */
	int64_t alone_said_ns;          /* monotonic; of the last line about it */
	rd_kafka_t *rk;
	rd_kafka_topic_t *topic;     /* that was produced to last; NULL: none yet */
	rd_kafka_headers_t **spares; /* TR_KAFKA_SPARES, whose values may be written over; NULL: none yet */
	uint32_t spare_count;
	rd_kafka_queue_t *queue;
	int fd;
	ev_io readable;
	struct tr_kafka_batch *line, **line_end; /* for room, in order */
	struct tr_timer idle;
	struct tr_defer more;
};

struct tr_kafka {
	struct tr_loop *loop;
	struct tr_kafka_producer *producers;
	struct tr_kafka_batch *calls;
	struct tr_metric *delivered, *failed, *in_flight;
	bool ending;
};

/* --- kafka_config.c --- */
/* TR_OK; TR_EINVAL with what is wrong in error (TR_KAFKA_ERROR_MAX), TR_ENOMEM. The caller destroys *out. */
int tr_kafka_conf(const struct tr_str *pairs, uint32_t count, rd_kafka_conf_t **out, char *error);

/* One and the same configuration with a property changed; NULL: no memory. */
rd_kafka_conf_t *tr_kafka_conf_solo(rd_kafka_t *rk);

/* --- kafka.c, kafka_call.c --- */
/* The producer for records of this one that are to be alone in their request; NULL: there can be none now. Brokers
 * accept or refuse a batch as a whole: a refusal says which record is to blame only where it was alone. */
struct tr_kafka_producer *tr_kafka_solo(struct tr_kafka_producer *producer);
/* Offers what waits for room. */
void tr_kafka_line_pump(struct tr_kafka_producer *producer);
/* Frees the lists of headers that are kept. */
void tr_kafka_drop_spares(struct tr_kafka_producer *producer);
/* The reports of an event. */
void tr_kafka_reports(struct tr_kafka_producer *producer, rd_kafka_event_t *event);
/* The producers are gone: gives up all calls. `ended`: librdkafka holds nothing of theirs any more; else what was
 * given up by its owner stays allocated. */
void tr_kafka_calls_give_up(struct tr_kafka *kafka, bool ended);

#endif
