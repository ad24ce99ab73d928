#include "cli/id_set.h"

#include <stdlib.h>

struct tr_id_slot {
	uint64_t hash;
	size_t at;    /* into bytes */
	uint32_t len; /* of the string + 1; 0: free */
};

static int
grow(struct tr_id_set *set)
{
	size_t capacity = set->capacity == 0 ? 1024 : set->capacity * 2;
	struct tr_id_slot *slots = calloc(capacity, sizeof *slots);

	if (slots == NULL)
		return TR_ENOMEM;
	for (size_t i = 0; i < set->capacity; i++) {
		if (set->slots[i].len == 0)
			continue;
		size_t at = set->slots[i].hash & (capacity - 1);

		while (slots[at].len != 0)
			at = (at + 1) & (capacity - 1);
		slots[at] = set->slots[i];
	}
	free(set->slots);
	set->slots = slots;
	set->capacity = capacity;
	return TR_OK;
}

int
tr_id_set_add(struct tr_id_set *set, struct tr_str id)
{
	uint64_t hash = tr_hash(id.data, id.len);

	hash ^= hash >> 32; /* the low bits choose the slot */
	if (set->count >= set->capacity / 2 && grow(set) != TR_OK)
		return TR_ENOMEM;
	size_t at = hash & (set->capacity - 1);

	for (; set->slots[at].len != 0; at = (at + 1) & (set->capacity - 1)) {
		struct tr_id_slot *slot = &set->slots[at];

		if (slot->hash == hash && slot->len == (uint32_t)id.len + 1 &&
			memcmp(set->bytes.data + slot->at, id.data, id.len) == 0)
			return 0;
	}
	size_t start = set->bytes.len;

	tr_buf_add(&set->bytes, id.data, id.len);
	if (set->bytes.failed)
		return TR_ENOMEM;
	set->slots[at] = (struct tr_id_slot){.hash = hash, .at = start, .len = (uint32_t)id.len + 1};
	set->count++;
	return 1;
}

void
tr_id_set_free(struct tr_id_set *set)
{
	free(set->slots);
	tr_buf_free(&set->bytes);
	*set = (struct tr_id_set){0};
}
