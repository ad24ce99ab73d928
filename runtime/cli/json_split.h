/* Finds the records of a webhook's body: a JSON object, several of them one after another (JSON lines), or the
 * elements of a JSON array. It looks at brackets, commas and quotes only, 64 bytes a step, so that a sink can
 * count batches for a fraction of what sending them costs. */
#ifndef TR_CLI_JSON_SPLIT_H
#define TR_CLI_JSON_SPLIT_H

#include "base/buf.h"

struct tr_json_split {
	int64_t records;
	bool malformed; /* brackets or quotes do not match: `records` is what was seen before the end */
};

/* Calls each(arg, record) for every record unless each is NULL. A body that is neither object nor array is one
 * record, white space alone is none. */
struct tr_json_split tr_json_split(struct tr_str body, void (*each)(void *arg, struct tr_str record), void *arg);

#endif
