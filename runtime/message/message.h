/* A message in memory: envelope, metadata, body. Exactly one owner at a time (an ingress
 * transaction, a queue, a session), so no field needs a lock; ownership moves between threads only
 * through a mailbox or a mutex. Body bytes are immutable and shared. */
#ifndef TR_MESSAGE_H
#define TR_MESSAGE_H

#include "base/buf.h"
#include "message/address.h"
#include "message/meta.h"

#define TR_NO_SLOT UINT32_MAX

/* A run of bytes in a shared blob (a body inside a loaded frame is not copied out of it). */
struct tr_bytes {
	struct tr_blob *blob; /* owned reference; NULL: empty */
	const char *data;
	size_t len;
};
void tr_bytes_set(struct tr_bytes *bytes, struct tr_blob *blob); /* takes the reference; all of it */
void tr_bytes_share(struct tr_bytes *to, const struct tr_bytes *from);
int tr_bytes_copy(struct tr_bytes *to, struct tr_str text); /* TR_OK or TR_ENOMEM, and *to is as it was */
void tr_bytes_fini(struct tr_bytes *bytes);
static inline struct tr_str
tr_bytes_str(const struct tr_bytes *bytes)
{
	return (struct tr_str){bytes->data, bytes->len};
}

enum tr_message_flag {
	TR_MSG_LOG_RECORD = 1 << 0,   /* body is a log record (reception_protocol LogRecord) */
	TR_MSG_UNDECIDED = 1 << 1,    /* stored, should_enqueue_log_record not answered yet */
	TR_MSG_POLICY_ERROR = 1 << 2, /* parked: the policy raised, or its hook is gone */
	TR_MSG_DIRTY = 1 << 3,        /* envelope, meta or body changed since it was last stored; not stored */
	TR_MSG_DEAD = 1 << 5,         /* a dead letter: waits for an operator, in no queue */
	TR_MSG_TEMPLATE = 1 << 4,     /* log record whose body is a template's text: meta log_record holds the JSON */
	TR_MSG_RENEWED = 1 << 7,      /* what is stored is the dead letter that it was: see tr_message_renew() */
	TR_MSG_ORDERED = 1 << 6,      /* `order` is set: waits behind those of its queue with the same one */
};

/* Scheduling constraints, contract/message.md section 4. Times are wall ms; 0: none. */
struct tr_schedule {
	int64_t first_attempt_ms, expires_ms;
	uint8_t dow_mask;        /* bit 0 = Sunday; 0: no window */
	uint32_t start_s, end_s; /* seconds of the local day, 0 to 86399, end exclusive */
	char tz[40];             /* IANA name, NUL-terminated */
};

/* The first cache line is what every list and check on the way through the queues looks at; the second is the body and
 * the owner's. Records wait for their commit by the thousands, and each is gone over some ten times. */
struct tr_message {
	struct tr_message *next; /* the owner's list */
	uint32_t slot;           /* its stub in the spool, or TR_NO_SLOT while it was never stored */
	uint16_t attempts;
	uint16_t flags;               /* enum tr_message_flag */
	int64_t created_ns;           /* wall, from the id: steps of 100 ns */
	int64_t due_ms;               /* wall; 0: now */
	struct tr_schedule *schedule; /* owned, NULL: none */
	void *handle;                 /* what Lua holds (message_lua.c), NULL: nothing */
	char *queue;      /* name of the scheduled queue it was last put in; NULL, in the room, or owned (free() it) */
	uint16_t account; /* ledger account */
	uint16_t hook;    /* index of the hook of a log record, 0xffff: none */
	uint16_t room_bytes, room_used;

	void *owner_data; /* free for the owner of the moment */
	struct tr_bytes body;
	void (*handle_gone)(struct tr_message *message); /* set with handle: makes the handle stale */
	uint64_t seq;                                    /* spool sequence number; 0 while it was never stored */
	uint8_t id[16];                                  /* version-1 UUID */

	struct tr_addr sender;
	struct tr_addr *rcpts; /* rcpt_count of them */
	uint32_t rcpt_count;
	uint32_t order; /* hash of the meta order_key, not 0; with TR_MSG_ORDERED */
	struct tr_meta meta;
	struct tr_bytes head;    /* our own trace header fields, before body */
	uint64_t body_file;      /* id of the body's own file in the spool, 0: stored inline */
	_Alignas(8) char room[]; /* room_bytes: what the message owns and is small lies here, next to it; never freed by
				    itself */
};

/* A new message with a fresh id, no recipients, empty body. NULL: no memory. */
struct tr_message *tr_message_new(void);
/* The same with room for the parts of a usual log record, so that thousands under way are few blocks and cache lines.
 * `wall_ns` is now. */
struct tr_message *tr_message_new_record(int64_t wall_ns);
struct tr_message *tr_message_bare(bool with_room); /* for the codec: all zero, without an id */
/* Ends what Lua holds of it, too. NULL is fine. */
void tr_message_free(struct tr_message *message);
/* Makes Lua handles stale: to be called whenever the owner changes. */
void tr_message_revoke(struct tr_message *message);
/* Same envelope, meta and shared body, new id (a split transaction). */
struct tr_message *tr_message_split(const struct tr_message *from);

/* Makes a dead letter the record that it is again, the same each time that it is read: created at that moment (wall),
 * with an id of its own that follows from both, without what it says of its death and without a moment to expire at. */
void tr_message_renew(struct tr_message *message, int64_t created_ms);

/* Empties, zeroed and filled from `from`, in the room if there is some: for a message that has none yet. TR_OK or
 * TR_ENOMEM. */
int tr_message_copy_addr(struct tr_message *message, const struct tr_addr *from, struct tr_addr *to);
struct tr_addr *tr_message_new_rcpts(struct tr_message *message, uint32_t count);
/* The queue's name; a former one is freed. TR_OK or TR_ENOMEM (it stays as it was). */
int tr_message_set_queue(struct tr_message *message, struct tr_str name);
static inline bool
tr_message_in_room(const struct tr_message *message, const void *at)
{
	return (const char *)at >= message->room && (const char *)at < message->room + message->room_bytes;
}

/* Messages of one queue with the same key go one after the other. .data NULL: any order. TR_OK or TR_ENOMEM. */
int tr_message_set_order(struct tr_message *message, struct tr_str key);
int tr_message_set_sender(struct tr_message *message, struct tr_str text); /* TR_EINVAL, TR_ENOMEM */
int tr_message_add_rcpt(struct tr_message *message, struct tr_str text);
void tr_message_clear_rcpts(struct tr_message *message);
/* Complete bytes, head and body joined (no copy while head is empty). Fills *out with an owned reference. */
int tr_message_data(const struct tr_message *message, struct tr_bytes *out);
size_t tr_message_size(const struct tr_message *message);
int tr_message_set_data(struct tr_message *message, struct tr_str bytes);

/* Queue name from meta and the first recipient, contract/queues.md section 1. TR_OK, or TR_EINVAL with a text
 * in *error (static) when a routing meta is not a string; TR_ENOENT without recipient and queue meta. */
int tr_message_queue_name(const struct tr_message *message, struct tr_buf *out, const char **error);

/* Parts of a queue name; borrowed from it. has_x tells "" from absent. */
struct tr_queue_name {
	struct tr_str campaign, tenant, domain, routing_domain;
	bool has_campaign, has_tenant, has_routing;
};
void tr_queue_name_parse(struct tr_str name, struct tr_queue_name *out);

/* Version-1 UUIDs: unique in the process over threads and clock steps; node and clock sequence random
 * per process. `hex` is 32 lower-case digits and a NUL. */
void tr_uuid1_at(int64_t wall_ns, uint8_t out[16]); /* wall_ns: now */
void tr_uuid4(uint8_t out[16]);
/* For tests: from now on this thread's ids follow from the seed and the clock. 0: random again. */
void tr_uuid_repeatable(uint64_t seed);
int64_t tr_uuid1_wall_ns(const uint8_t id[16]);
/* Another one, of a moment in that millisecond, that follows from the two. */
void tr_uuid1_renew(uint8_t id[16], int64_t wall_ms);
void tr_uuid_hex(const uint8_t id[16], char hex[33]);
void tr_uuid_hyphenated(const uint8_t id[16], char text[37]);
/* The event_id of a log record's JSON, 32 characters; .data NULL: it is none. Borrowed. */
struct tr_str tr_message_event_id(const struct tr_message *message);
int tr_uuid_from_hex(struct tr_str hex, uint8_t out[16]); /* 32 digits, dashes ignored; TR_EINVAL */

/* Stored form, without what the spool keeps itself (seq, due, attempts, flags, account, queue). The
 * body follows the envelope as raw bytes, so that a loaded frame's blob can serve as the body. */
void tr_message_encode_envelope(const struct tr_message *message, struct tr_buf *out);
/* Decodes a frame's opaque part that lies in `blob` (shared, not copied): envelope, then body up to the
 * end, unless body_file is set, when the body stays empty and the caller loads the file. Returns TR_OK,
 * TR_ECORRUPT or TR_ENOMEM. */
int tr_message_decode(struct tr_blob *blob, struct tr_str opaque, struct tr_message **out);

/* Applies the schedule to a wall moment: the first allowed moment >= when_ms. */
int64_t tr_schedule_adjust(const struct tr_schedule *schedule, int64_t when_ms);

#endif
