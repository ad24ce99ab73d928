/* What holds something now, for why.c: adds an object, its `holds` among its fields. */
#ifndef TR_QUEUE_WHY_HOLDS_H
#define TR_QUEUE_WHY_HOLDS_H

#include "queue/ready.h"
#include "queue/sched.h"

/* Takes the ready queue's lock. */
void why_ready(struct tr_buf *json, struct tr_ready *ready);
/* At its home, with the ready queues that it feeds. */
void why_sched(struct tr_buf *json, struct tr_sched *sched);
/* The object is not closed: its queue may follow. */
void why_message(struct tr_buf *json, const struct tr_message *message, const struct tr_stub *stub);

#endif
