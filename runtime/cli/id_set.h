/* A set of strings that only grows, to tell duplicates. Exact: it keeps the strings. One thread. */
#ifndef TR_CLI_ID_SET_H
#define TR_CLI_ID_SET_H

#include "base/buf.h"

struct tr_id_set { /* zero-initialised is empty; tr_id_set_free() frees what it holds */
	struct tr_id_slot *slots;
	size_t capacity, count; /* capacity is 0 or a power of two */
	struct tr_buf bytes;
};

/* 1: new, 0: it was there, TR_ENOMEM: no memory, nothing changed. */
int tr_id_set_add(struct tr_id_set *set, struct tr_str id);
void tr_id_set_free(struct tr_id_set *set);

#endif
