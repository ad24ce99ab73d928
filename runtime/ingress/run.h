/* What policy's `init` has configured, and the parts that take something in. One per process (or per engine under
 * test); worker 0's thread. Bindings find it by TR_SERVICE_RUN; on the other workers that service is NULL, and what
 * would configure is refused there. */
#ifndef TR_RUN_H
#define TR_RUN_H

#include <stdbool.h>

#include "spool/spool.h"

/* A listener or another source of messages: embed it. */
struct tr_run_part {
	struct tr_run_part *next;
	const char *name;                        /* "esmtp listener 127.0.0.1:2525"; the part's own memory */
	void (*stop)(struct tr_run_part *part);  /* take nothing new; what has its data may end */
	bool (*busy)(struct tr_run_part *part);  /* a transaction is still under way */
	void (*abort)(struct tr_run_part *part); /* the deadline: end them */
	void (*free)(struct tr_run_part *part);  /* all worker loops have ended */
};

struct tr_run {
	bool configuring;            /* pre_init and init are under way */
	bool scripted;               /* ESMTP listeners are bound even so: in a scripted network */
	bool validating;             /* `tailrace check`: parse, bind nothing, open nothing */
	char *meta_path, *data_path; /* define_spool */
	bool no_flush;
	struct tr_space_limit min_free_space, min_free_inodes;
	struct tr_run_part *parts;
};

/* What keeps a start from having a spool, as a text; NULL: both are defined. */
const char *tr_run_missing_spool(const struct tr_run *run);
void tr_run_add(struct tr_run *run, struct tr_run_part *part);
void tr_run_fini(struct tr_run *run); /* frees paths and parts */

#endif
