#include "ingress/run.h"

#include <stdlib.h>
#include <string.h>

#define MISSING(name) \
	"the spool '" name "' is not defined: call kumo.define_spool{name='" name "', path=...} in the event 'init'"

const char *
tr_run_missing_spool(const struct tr_run *run)
{
	if (run->meta_path == NULL)
		return MISSING("meta");
	return run->data_path == NULL ? MISSING("data") : NULL;
}

void
tr_run_add(struct tr_run *run, struct tr_run_part *part)
{
	struct tr_run_part **at = &run->parts;

	while (*at != NULL)
		at = &(*at)->next;
	*at = part;
	part->next = NULL;
}

void
tr_run_fini(struct tr_run *run)
{
	while (run->parts != NULL) {
		struct tr_run_part *part = run->parts;
		run->parts = part->next;
		part->free(part);
	}
	free(run->meta_path);
	free(run->data_path);
	memset(run, 0, sizeof *run);
}
