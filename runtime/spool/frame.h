/* What the log is on disk: segments of frames (docs/spool.md); a change of it is a new SEG_VERSION. Part of the room.
 */
#ifndef TR_SPOOL_FRAME_H
#define TR_SPOOL_FRAME_H

#include "base/buf.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "stored integers are little-endian");

#define SEG_VERSION 2                /* as written */
#define SEG_VERSION_OLDEST 1         /* as read: it has no MOVE frames */
#define SEG_MAX (UINT64_C(64) << 20) /* room for frames at most, but for one group that needs more */
#define SEG_LARGEST (UINT64_C(1) << 30)
#define CHANGE_MAX (UINT64_C(512) << 20) /* bytes of a change at most, whatever is configured; with its ledger and */
#define CHANGE_OPS (UINT32_C(1) << 18)   /* the gaps between so many PUTs it stays within SEG_LARGEST */
#define SEG_HEADER 4096                  /* bytes before the first frame; offsets of frames count from there */
#define GROUP_ROOM 256                   /* bytes that an end frame and its padding need at most, rounded up */
#define FRAME_HEADER 32
#define PUT_ALIGN 64

struct seg_header {
	char magic[8]; /* "TAILLOG" and a NUL */
	uint32_t version;
	uint32_t crc; /* of these 128 bytes with crc = 0 */
	uint64_t number;
	uint64_t bytes;      /* room for frames */
	uint64_t prev;       /* number of the segment before it, 0: none; others between were given up */
	uint64_t prev_end;   /* where the good frames of that one end */
	uint64_t oldest;     /* segments below it are no part of the log */
	uint64_t created_ms; /* wall */
	uint32_t generation;
	uint32_t salt; /* random: a body cannot imitate a frame */
	uint64_t log;  /* which log it is of, random; 0: written earlier */
	uint8_t reserved[48];
};
_Static_assert(sizeof(struct seg_header) == 128, "layout");

enum frame_type {
	FRAME_PUT = 1,
	FRAME_STATE,
	FRAME_DONE,
	FRAME_COUNT,
	FRAME_LEDGER,
	FRAME_ACCOUNT,
	FRAME_END,
	FRAME_MOVE,
	FRAME_LAST = FRAME_MOVE
};

struct frame_header {
	uint8_t type;
	uint8_t flags;    /* 0 */
	uint8_t pad;      /* 8-byte words between this frame's end and the next frame */
	uint8_t reserved; /* 0 */
	uint32_t length;  /* of the payload */
	uint32_t generation;
	uint32_t payload_crc;
	uint64_t seq; /* PUT, STATE, DONE, MOVE; else 0 */
	uint32_t salt;
	uint32_t header_crc; /* of the 28 bytes before it */
};
_Static_assert(sizeof(struct frame_header) == FRAME_HEADER, "layout");

struct put_prefix {                 /* then the queue's name, then the opaque envelope and body */
	int64_t created_ms, due_ms; /* wall */
	uint16_t attempts, flags, account;
	uint8_t column, reserved;
	uint32_t order; /* key of TR_MSG_ORDERED, else 0 */
	uint32_t queue_len;
	int64_t units;
	uint64_t body_file, body_len;
};
_Static_assert(sizeof(struct put_prefix) == 56, "layout");

struct state_payload {
	int64_t due_ms;
	uint16_t attempts, flags;
	uint32_t reserved;
};
struct move_payload { /* its units: moved out of the one account, moved in to the other */
	int64_t created_ms, due_ms, units;
	uint16_t attempts, flags, from, to;
};
struct count_payload { /* DONE and COUNT */
	uint16_t account;
	uint8_t column, reason;
	uint32_t reserved;
	int64_t units;
};
struct end_payload {
	uint32_t count;  /* frames before it in the group */
	uint32_t crc;    /* chained over their header CRCs */
	uint32_t start;  /* offset of the group's first frame */
	uint32_t number; /* of the segment, its low half: what a segment is whose header is lost; 0: written earlier */
	uint64_t oldest; /* segments below it are no part of the log */
};
_Static_assert(sizeof(struct state_payload) == 16 && sizeof(struct count_payload) == 16, "layout");
_Static_assert(sizeof(struct end_payload) == 24 && sizeof(struct move_payload) == 32, "layout");

/* What one frame can count, and one count of a ledger frame. More, either way, is damage: sums of such stay far within
 * 64 bits. */
#define FRAME_UNITS_MAX (INT64_C(1) << 40)
#define LEDGER_COUNT_MAX (INT64_C(1) << 58)

static inline bool
count_is_sane(int64_t n, int64_t max)
{
	return n > -max && n < max;
}

static inline uint64_t
align_up(uint64_t n, uint64_t to)
{
	return (n + to - 1) & ~(to - 1);
}
/* Bytes that a frame takes without what aligns the next. */
static inline uint64_t
frame_bytes(uint64_t length)
{
	return align_up(FRAME_HEADER + length, 8);
}
void frame_seal(struct frame_header *header);
/* The header is whole, of this use of the segment, and its frame ends within `room` bytes from it. */
bool frame_valid(const struct frame_header *header, uint32_t generation, uint32_t salt, uint64_t room);
/* Splits a PUT payload; false when its lengths do not fit. The parts are borrowed. */
bool put_parse(struct tr_str payload, struct put_prefix *prefix, struct tr_str *queue, struct tr_str *opaque);

#endif
