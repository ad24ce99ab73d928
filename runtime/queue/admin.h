/* Administrators' rules (admin.c), and walks over what waits (sweep.c). Part of the room. */
#ifndef TR_QUEUE_ADMIN_H
#define TR_QUEUE_ADMIN_H

#include "queue/queue.h"

/* --- administrators' rules ------------------------------------------------------------------------------------------
 */
struct admin_rule {
	struct admin_rule *next;
	enum tr_admin_kind kind;
	char id[37];
	char *campaign, *tenant, *domain, *routing_domain, *ready_name, *reason;
	char **queue_names;
	int64_t expires_at_ns; /* monotonic */
	bool suppress;
	uint64_t hits;
	struct admin_hit {
		char *queue;
		uint64_t count;
	} * by_queue;
	uint32_t queues;
};
struct admin_verdict {
	bool suppress;
	char reason[512];
};
struct admin_rule *admin_rule_new(
	const struct tr_admin_match *match, const char *ready_name, const char *reason); /* NULL: no memory */
void admin_rule_free(struct admin_rule *rule);
bool admin_rule_matches(const struct admin_rule *rule, const struct tr_sched *sched);
/* Does a live rule of that kind apply? hits is added to it. */
bool admin_check(struct tr_engine *engine, enum tr_admin_kind kind, const struct tr_sched *sched,
	struct admin_verdict *out, uint64_t hits, int64_t *until_ns);
bool admin_ready_suspended(struct tr_engine *engine, const char *name, int64_t *until_ns);
/* The same, with the reason; either may be NULL. */
bool admin_ready_verdict(struct tr_engine *engine, const char *name, struct admin_verdict *out, int64_t *until_ns);
void admin_free(struct tr_engine *engine);
void admin_housekeeping(struct tr_worker *worker);
void rebinds_free(struct tr_worker *worker);
/* Members sender, recipient, meta and, if asked for, data. */
void inspect_envelope(struct tr_buf *json, const struct tr_message *message, bool want_body);
void worker_enumerate(struct tr_worker *worker); /* shows worker->enumerated to policy */

/* A walk over what waits, in sweep.c. The first four fields are the starter's. */
struct sweep {
	/* Is the queue of interest? Asked for each queue, and for each stub in the wheel. */
	bool (*wants)(struct sweep *sweep, const struct tr_sched *sched);
	void (*take)(struct sweep *sweep, uint32_t slot); /* out of the line or wheel; it is counted IN_FLIGHT */
	void (*turn)(struct sweep *sweep);                /* after each turn; NULL: nothing */
	void (*ended)(struct sweep *sweep);               /* may start or free it */
	struct tr_worker *worker;
	struct tr_timer timer;
	struct tr_sched *sched; /* referenced: next to look at */
	bool lines_done;
	int level;
	uint32_t index;
	uint32_t pending; /* slots of a bucket that was taken out */
};
void sweep_start(struct sweep *sweep, struct tr_worker *worker);
void sweep_stop(struct sweep *sweep);

#endif
