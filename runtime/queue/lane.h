/* Lists of messages; sources, pools and lanes: how a scheduled queue finds its ready queues. Part of the room. */
#ifndef TR_QUEUE_LANE_H
#define TR_QUEUE_LANE_H

#include "queue/queue.h"
#include "queue/source.h"

struct message_list {
	struct tr_message *head, **end; /* end NULL: empty */
	uint32_t count;
};
static inline void
list_add(struct message_list *list, struct tr_message *message)
{
	message->next = NULL;
	if (list->head == NULL)
		list->head = message;
	else
		*list->end = message;
	list->end = &message->next;
	list->count++;
}
static inline struct tr_message *
list_pop(struct message_list *list)
{
	struct tr_message *message = list->head;

	if (message != NULL) {
		list->head = message->next;
		message->next = NULL;
		list->count--;
	}
	return message;
}
static inline void
list_append(struct message_list *list, struct message_list *more)
{
	if (more->head == NULL)
		return;
	if (list->head == NULL)
		list->head = more->head;
	else
		*list->end = more->head;
	list->end = more->end;
	list->count += more->count;
	*more = (struct message_list){NULL, NULL, 0};
}

/* --- sources and pools (source.c, suspend.c) ------------------------------------------------------------------ */
#define NAMED_BUCKETS 256
struct named { /* an entry of the cache; engine->source_lock */
	struct tr_engine *engine;
	struct named *next;
	char *name;
	char *error;              /* of the last answer; NULL: it was good */
	int64_t until_ns;         /* monotonic; then policy is asked again */
	bool asking;              /* policy has it */
	struct tr_sched *waiters; /* by pool_next: to be told of the answer */
};
struct tr_source {
	struct named named;                 /* first */
	_Atomic uint32_t refs;              /* lanes and ready queues */
	struct tr_source_config *config;    /* the last good one; NULL: none yet */
	_Atomic int64_t suspended_until_ns; /* monotonic; any thread */
	int64_t *failed_at_ns;              /* the last `failures` of at most failures_cap, a ring */
	uint32_t failures_cap, failures_at, failures;
};
struct tr_pool {
	struct named named; /* first */
	_Atomic uint32_t refs;
	struct tr_pool_config *config;
};
int sources_init(struct tr_engine *engine);
void sources_free(struct tr_engine *engine);
void sources_housekeeping(struct tr_engine *engine);
struct tr_source *source_get(struct tr_engine *engine, struct tr_str name); /* referenced; NULL: no memory */
struct tr_source *source_ref(struct tr_source *source);                     /* NULL is fine, here and below */
void source_unref(struct tr_source *source);
/* home: looks for the pool of sched->pending; sched_pool_known() is called with what came of it, at once or later. */
void pool_resolve(struct tr_sched *sched);
void sched_pool_known(struct tr_sched *sched, struct tr_pool_config *pool, const char *error);

/* --- lanes (route.c, select.c) ---------------------------------------------------------------------------------- */
/* Where the round robin stands: contract egress-path.md section 2. */
struct lane_turn {
	uint32_t index, weight, gcd, most;
};
/* The way of a scheduled queue to one of its ready queues: one for each source of its pool. */
enum lane_out { LANE_IN, LANE_FULL, LANE_ASKING, LANE_THROTTLED, LANE_SUSPENDED }; /* why it is no candidate now */
struct lane {
	struct tr_sched *sched;
	/* home */
	struct tr_ready *ready;           /* referenced; NULL: none yet */
	struct tr_source *source;         /* referenced; NULL: `unspecified` */
	uint32_t weight;                  /* >= 1 */
	uint32_t held;                    /* places reserved for fresh ones */
	uint32_t coming;                  /* the same for those of the load under way */
	enum lane_out out;                /* during one pump */
	struct message_list picked;       /* the same */
	struct lane_selection *selection; /* selection.c; NULL: no rate of selection is shared with other nodes */
	/* ready->lock */
	struct lane *next; /* in its line for room */
	bool waiting;
	uint32_t granted;
};
/* home: the lanes of a pool, of which the reference is taken over. TR_OK, or TR_ENOMEM: the old ones stay. */
int lanes_set(struct tr_sched *sched, struct tr_pool_config *pool);
struct lane *lane_pick(struct tr_sched *sched); /* the next candidate in turn; NULL: none is LANE_IN */
/* One lane may be more than a way: nothing goes there now, or not as much as there is room. */
bool lane_is_special(const struct lane *lane);
void lanes_pump(struct tr_sched *sched);   /* fresh ones on, and loads; for what the short way cannot do */
void lanes_refuse(struct tr_sched *sched); /* the same for an empty pool */
/* Whether a queue that is not in use holds no place and waits for none. */
bool lanes_idle(struct tr_sched *sched);
void lanes_release(struct tr_sched *sched); /* out of the lines, and what is held is given back */
/* home: a token of each rate of source selection for one message, with `want` to come; LANE_IN: it has them. */
enum lane_out selection_take(struct lane *lane, uint32_t want, int64_t now_ns);
bool selection_asks(const struct lane *lane);                    /* the answer activates the queue */
uint32_t selection_most(const struct lane *lane, uint32_t want); /* as many as are worth loading now */
void selection_drop(struct lane *lane);
bool lanes_stale(const struct tr_sched *sched); /* to be routed (anew) */
void lanes_drop(struct tr_sched *sched);        /* home: out of the lines, places given back, no ready queue any more */

#endif
