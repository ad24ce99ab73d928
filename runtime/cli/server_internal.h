/* Shared by server.c and server_stop.c. */
#ifndef TR_SERVER_INTERNAL_H
#define TR_SERVER_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>

#include "base/pulse.h"
#include "cli/server.h"
#include "cli/transports.h"

struct tr_worker_parts {
	struct tr_loop *loop;
	struct tr_host *host;
	struct tr_transports transports;
	pthread_t thread; /* workers 1 and up */
	bool running;
	struct tr_pulse pulse;
	struct tr_mail stop_mail, report_mail;
	_Atomic bool report_posted;
	uint32_t index; /* workers 1 and up */
};

struct tr_server {
	char *policy, *share_dir, *user, *spool_dir;
	uint32_t workers;
	uint64_t seed, segment_bytes;
	int64_t handler_limit_ns, lua_memory;
	const struct tr_spool_config *spool_sizes; /* the boot's; NULL: defaults */
	bool jit;
	bool borrowed; /* worker 0's loop */
	struct tr_worker_parts *worker;
	struct tr_resolvers *resolvers; /* of all workers */
	struct tr_recorder *recorder;
	struct tr_record_ops record_ops;
	void (*tap)(void *arg, const struct tr_event *event, struct tr_str json); /* NULL: none */
	void *tap_arg;
	struct tr_spool *spool;
	struct tr_engine *engine;
	struct tr_shaping *shaping;
	struct tr_queue_ops ops;
	struct tr_run run;
	struct tr_turn_hook tick; /* virtual clock only */
	/* stop */
	bool stopping, skipped, stopped;
	void (*on_stopped)(void *arg); /* NULL: none */
	void *on_stopped_arg;
	int64_t stop_at_ns; /* monotonic deadline */
	struct tr_timer poll;
};

/* site.c: struct tr_queue_ops.resolve_site; arg is the server. */
void tr_server_resolve_site(void *arg, struct tr_worker *worker, struct tr_sched *sched);
/* Ends and joins the threads of workers 1 and up. */
void tr_server_stop_workers(struct tr_server *server);

#endif
