/* The memory of changes: jobs with room for one record, and large ones for batches, kept for the next. */
#include <stdlib.h>

#include "base/pool.h"
#include "spool/internal.h"

struct port *
port_get(struct tr_spool *spool, struct tr_loop *loop)
{
	static _Thread_local struct {
		uint64_t spool_id;
		struct tr_loop *loop;
		struct port *port;
	} cache;
	struct port *port;

	if (cache.port != NULL && cache.spool_id == spool->id && cache.loop == loop)
		return cache.port;
	pthread_mutex_lock(&spool->port_mu);
	for (port = spool->ports; port != NULL && port->loop != loop; port = port->next)
		;
	if (port == NULL && (port = calloc(1, sizeof *port)) != NULL) {
		port->spool = spool;
		port->loop = loop;
		port->hook.fn = port_turn_end;
		port->next = spool->ports;
		spool->ports = port;
	}
	pthread_mutex_unlock(&spool->port_mu);
	cache.spool_id = spool->id;
	cache.loop = loop;
	cache.port = port;
	return port;
}

enum {
	FIRST_OPS = 1,                 /* a record put */
	FIRST_BYTES = 384,             /* its envelope */
	SPARE_BYTES = 6 * 1024 * 1024, /* kept by a port: some thousand records are under way to one sync */
};

static size_t
job_bytes(const struct tr_job *job)
{
	return sizeof *job + job->cap * sizeof job->ops[0] + job->buf.cap;
}

static struct tr_job *
pop(struct tr_job **list)
{
	struct tr_job *job = *list;

	*list = job_next(job);
	return job;
}

static void
push(struct tr_job **list, struct tr_job *job)
{
	job->mail.next = *list != NULL ? &(*list)->mail : NULL;
	*list = job;
}

static struct tr_job *
take_spare(struct port *port, struct tr_job **list)
{
	struct tr_job *job = pop(list);
	struct tr_buf buf = job->buf;
	uint32_t cap = job->cap;

	port->spare_bytes -= job_bytes(job);
	memset(job, 0, sizeof *job);
	tr_buf_clear(&buf);
	job->buf = buf;
	job->cap = cap;
	return job;
}

struct tr_job *
job_new(struct port *port)
{
	struct tr_job *job;

	if (port != NULL && port->spare != NULL)
		return take_spare(port, &port->spare);
	job = malloc(sizeof *job + FIRST_OPS * sizeof job->ops[0]);
	if (job == NULL)
		return NULL;
	memset(job, 0, sizeof *job);
	job->cap = FIRST_OPS;
	(void)tr_buf_reserve(&job->buf, FIRST_BYTES); /* it tells when it has failed */
	return job;
}

static void
keep_spare(struct port *port, struct tr_job *job)
{
	push(job->cap == FIRST_OPS ? &port->spare : &port->large, job);
	port->spare_bytes += job_bytes(job);
}

struct tr_job *
job_grow(struct port *port, struct tr_job *job)
{
	struct tr_job *bigger;

	if (job->cap == FIRST_OPS && port != NULL && port->large != NULL) { /* what a former batch had */
		bigger = take_spare(port, &port->large);
		tr_buf_add(&bigger->buf, job->buf.data, job->buf.len);
		memcpy(bigger->ops, job->ops, job->count * sizeof job->ops[0]);
		bigger->count = job->count;
		bigger->bytes = job->bytes;
		bigger->copied = job->copied;
		keep_spare(port, job);
		return bigger;
	}
	bigger = realloc(job, sizeof *job + 8 * job->cap * sizeof job->ops[0]);
	if (bigger != NULL)
		bigger->cap *= 8;
	return bigger;
}

void
op_fini(struct op *op)
{
	tr_bytes_fini(&op->body);
	if (op->before != NULL)
		tr_pool_put(op->before, sizeof *op->before);
	op->before = NULL;
}

static void
ops_fini(struct tr_job *job)
{
	for (uint32_t i = 0; i < job->count; i++)
		op_fini(&job->ops[i]);
}

void
job_free(struct tr_job *job)
{
	ops_fini(job);
	tr_buf_free(&job->buf);
	free(job);
}

void
job_recycle(struct port *port, struct tr_job *job)
{
	if (port == NULL || port->spare_bytes + job_bytes(job) > SPARE_BYTES) {
		job_free(job);
		return;
	}
	ops_fini(job);
	keep_spare(port, job);
}

void
port_free_spare(struct port *port)
{
	struct tr_job **lists[] = {&port->spare, &port->large};

	for (size_t i = 0; i < TR_COUNT(lists); i++) {
		while (*lists[i] != NULL) {
			struct tr_job *job = pop(lists[i]);

			job->count = 0; /* what they owned is gone */
			job_free(job);
		}
	}
	port->spare_bytes = 0;
}
