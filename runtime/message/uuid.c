#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "base/clock.h"
#include "message/message.h"

/* 100 ns steps from 1582-10-15 to 1970-01-01 (RFC 9562 section 5.1). */
#define EPOCH_STEPS UINT64_C(0x01b21dd213814000)
#define STEP_NS 100
#define STEPS_PER_MS (1000000 / STEP_NS)
/* A thread may run this far ahead of the clock (many ids in one moment, a small step back) before it
 * takes a new clock sequence and starts again from the clock. */
#define LEAD_STEPS (UINT64_C(1000000000) / STEP_NS)

/* Each thread has a node of its own (the process' random one plus its number), so that ids need no
 * lock and no shared cache line. */
struct uuid_state {
	uint64_t last;     /* steps of the last id; 0: not set up */
	uint16_t sequence; /* 14 bits */
	uint8_t node[6];
	uint8_t pool[256]; /* random bytes for version 4 */
	size_t left;       /* unused ones at the pool's end */
	uint64_t seed;     /* 0: random */
};

static pthread_once_t once = PTHREAD_ONCE_INIT;
static uint8_t process_seed[8]; /* node, clock sequence */
static _Atomic uint32_t thread_count;
static _Thread_local struct uuid_state state;

static void
random_fill(uint8_t *out, size_t len)
{
	size_t have = 0;

	while (state.seed != 0 && have < len) { /* splitmix64 */
		uint64_t word = state.seed += UINT64_C(0x9e3779b97f4a7c15);
		size_t take = len - have < sizeof word ? len - have : sizeof word;

		word = (word ^ (word >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
		word = (word ^ (word >> 27)) * UINT64_C(0x94d049bb133111eb);
		word ^= word >> 31;
		memcpy(out + have, &word, take);
		have += take;
	}
	while (have < len) {
		ssize_t n = getrandom(out + have, len - have, 0);

		if (n > 0) {
			have += (size_t)n;
		} else if (errno != EINTR) { /* a kernel without it: ids need to be different, not secret */
			uint64_t mix[4] = {(uint64_t)tr_wall_ns(), (uint64_t)getpid(), (uintptr_t)out + have, have};
			uint64_t hash = tr_hash(mix, sizeof mix);
			size_t take = len - have < sizeof hash ? len - have : sizeof hash;

			memcpy(out + have, &hash, take);
			have += take;
		}
	}
}

static void
seed(void)
{
	random_fill(process_seed, sizeof process_seed);
}

static void
setup(struct uuid_state *self)
{
	pthread_once(&once, seed);
	uint32_t number = atomic_fetch_add_explicit(&thread_count, 1, memory_order_relaxed);
	uint32_t low = ((uint32_t)process_seed[3] << 16 | (uint32_t)process_seed[4] << 8 | process_seed[5]) + number;

	memcpy(self->node, process_seed, 3);
	self->node[0] |= 1; /* multicast bit: not a real network card */
	self->node[3] = (uint8_t)(low >> 16);
	self->node[4] = (uint8_t)(low >> 8);
	self->node[5] = (uint8_t)low;
	/* past 2^24 threads a node comes again: the sequence tells them apart */
	self->sequence = (uint16_t)((((uint32_t)process_seed[6] << 8 | process_seed[7]) + (number >> 24)) & 0x3fff);
}

void
tr_uuid_repeatable(uint64_t seed)
{
	uint8_t bytes[8];

	state = (struct uuid_state){.seed = seed};
	if (seed == 0)
		return;
	random_fill(bytes, sizeof bytes);
	memcpy(state.node, bytes, sizeof state.node);
	state.node[0] |= 1;
	state.sequence = (uint16_t)((bytes[6] << 8 | bytes[7]) & 0x3fff);
	state.last = 1;
}

static void
put(uint8_t out[16], uint64_t steps, uint16_t sequence, const uint8_t node[6])
{
	out[0] = (uint8_t)(steps >> 24);
	out[1] = (uint8_t)(steps >> 16);
	out[2] = (uint8_t)(steps >> 8);
	out[3] = (uint8_t)steps;
	out[4] = (uint8_t)(steps >> 40);
	out[5] = (uint8_t)(steps >> 32);
	out[6] = (uint8_t)(0x10 | ((steps >> 56) & 0x0f));
	out[7] = (uint8_t)(steps >> 48);
	out[8] = (uint8_t)(0x80 | (sequence >> 8));
	out[9] = (uint8_t)sequence;
	memcpy(out + 10, node, 6);
}

void
tr_uuid1_at(int64_t wall_ns, uint8_t out[16])
{
	struct uuid_state *self = &state;
	uint64_t now = (uint64_t)(wall_ns / STEP_NS) + EPOCH_STEPS;

	if (self->last == 0)
		setup(self);
	if (now <= self->last) {
		if (self->last - now < LEAD_STEPS)
			now = self->last + 1;
		else
			self->sequence = (self->sequence + 1) & 0x3fff;
	}
	self->last = now;
	put(out, now, self->sequence, self->node);
}

void
tr_uuid4(uint8_t out[16])
{
	struct uuid_state *self = &state;

	if (self->left < 16) {
		random_fill(self->pool, sizeof self->pool);
		self->left = sizeof self->pool;
	}
	uint8_t *from = self->pool + sizeof self->pool - self->left;
	memcpy(out, from, 16);
	memset(from, 0, 16);
	self->left -= 16;
	out[6] = (uint8_t)(0x40 | (out[6] & 0x0f));
	out[8] = (uint8_t)(0x80 | (out[8] & 0x3f));
}

int64_t
tr_uuid1_wall_ns(const uint8_t id[16])
{
	uint64_t steps = (uint64_t)(id[6] & 0x0f) << 56 | (uint64_t)id[7] << 48 | (uint64_t)id[4] << 40 |
			 (uint64_t)id[5] << 32 | (uint64_t)id[0] << 24 | (uint64_t)id[1] << 16 | (uint64_t)id[2] << 8 |
			 id[3];

	/* wraps for foreign ids far from our time; signed arithmetic must not see that */
	return (int64_t)((steps - EPOCH_STEPS) * STEP_NS);
}

/* The other ids of that millisecond have nodes of threads; this one's node and sequence, 61 bits, are what the former
 * id comes to. */
void
tr_uuid1_renew(uint8_t id[16], int64_t wall_ms)
{
	uint64_t within = (uint64_t)(tr_uuid1_wall_ns(id) / STEP_NS) % STEPS_PER_MS, hash = tr_hash(id, 16);
	uint8_t node[6];

	memcpy(node, &hash, sizeof node);
	node[0] |= 1;
	put(id, (uint64_t)wall_ms * STEPS_PER_MS + within + EPOCH_STEPS, (uint16_t)(hash >> 48 & 0x3fff), node);
}

/* Eight values from 0 to 15 to their digits: '0' is added, and 39 more from 10 on. */
static uint64_t
as_digits(uint64_t values)
{
	uint64_t letters = (values + UINT64_C(0x0606060606060606)) >> 4 & UINT64_C(0x0101010101010101);

	return values + UINT64_C(0x3030303030303030) + letters * 39;
}

void
tr_uuid_hex(const uint8_t id[16], char hex[33])
{
	for (int half = 0; half < 2; half++) { /* eight bytes at once: sixteen digits, each in a byte of a word */
		uint64_t word, low, high;
		uint8_t *to = (uint8_t *)hex + 16 * half;

		memcpy(&word, id + 8 * half, 8);
		high = word >> 4 & UINT64_C(0x0f0f0f0f0f0f0f0f);
		low = word & UINT64_C(0x0f0f0f0f0f0f0f0f);
		high = as_digits(high);
		low = as_digits(low);
		for (int i = 0; i < 8; i++) {
			to[2 * i] = ((const uint8_t *)&high)[i];
			to[2 * i + 1] = ((const uint8_t *)&low)[i];
		}
	}
	hex[32] = '\0';
}

void
tr_uuid_hyphenated(const uint8_t id[16], char text[37])
{
	char hex[33], *to = text;

	tr_uuid_hex(id, hex);
	for (int i = 0; i < 32; i++) {
		if (i == 8 || i == 12 || i == 16 || i == 20)
			*to++ = '-';
		*to++ = hex[i];
	}
	*to = '\0';
}

int
tr_uuid_from_hex(struct tr_str hex, uint8_t out[16])
{
	size_t count = 0;

	for (size_t i = 0; i < hex.len; i++) {
		char c = hex.data[i];
		int digit;

		if (c == '-')
			continue;
		if (c >= '0' && c <= '9')
			digit = c - '0';
		else if (c >= 'a' && c <= 'f')
			digit = c - 'a' + 10;
		else if (c >= 'A' && c <= 'F')
			digit = c - 'A' + 10;
		else
			return TR_EINVAL;
		if (count == 32)
			return TR_EINVAL;
		out[count / 2] = (uint8_t)(count % 2 == 0 ? digit << 4 : out[count / 2] | digit);
		count++;
	}
	return count == 32 ? TR_OK : TR_EINVAL;
}
