/* The texts of limits and rates in configuration (contract/egress-path.md sections 4 and 5). Pure. */
#ifndef TR_SHAPING_SPEC_H
#define TR_SHAPING_SPEC_H

#include "base/buf.h"

struct tr_limit_spec {
	uint64_t limit; /* >= 1 */
	bool local;     /* "local:": this process only, even with a shared backend */
};
/* "10", "local:1_000", "1,000". TR_OK or TR_EINVAL. */
int tr_limit_spec_parse(struct tr_str text, struct tr_limit_spec *out);

struct tr_rate_spec {
	uint64_t quantity; /* >= 1 */
	uint64_t burst;    /* max_burst; quantity if not given */
	int64_t period_ns; /* >= 1 s */
	bool local, has_burst;
};
/* "[local:]quantity/[n]unit[,max_burst=burst]". TR_OK, or TR_EINVAL with what is wrong in *why (static). */
int tr_rate_spec_parse(struct tr_str text, struct tr_rate_spec *out, const char **why);
/* The canonical text: "100/m", "local:20/1800s,max_burst=5". Returns its length. */
size_t tr_rate_spec_format(const struct tr_rate_spec *spec, char out[96]);

#endif
