/* The whole runtime in one object: workers, policy, spool, queues, records, listeners. `tailrace run` runs one; specs
 * run one inside their own process under the virtual clock. */
#ifndef TR_SERVER_H
#define TR_SERVER_H

#include "ingress/run.h"
#include "policy/policy.h"
#include "queue/queue.h"
#include "record/record.h"

struct tr_server;

struct tr_server_config {
	const char *policy;    /* file; copied; NULL: none, which only a server with its own spool_dir can be without */
	const char *share_dir; /* NULL: found by tr_share_dir() */
	uint32_t workers;      /* 0: one per core; exactly 1 under the virtual clock */
	uint64_t seed;         /* 0: from the clock and the process id */
	bool jit;
	int64_t handler_limit_ns; /* longest run of Lua without a wait; 0: the default */
	int64_t lua_memory;       /* bytes that the Lua of each worker may have; 0: no bound */
	uint64_t segment_bytes;   /* of the spool; 0: its default */
	/* Not NULL: its sizes (segment_bytes to body_file_bytes, first_*) in place of defaults; borrowed for the boot.
	 * For tests in which the log's numbers wrap. */
	const struct tr_spool_config *spool_sizes;
	const char *user; /* NULL: stay; else drop to that user once listeners are bound */
	/* Not NULL: the spool is made in this empty directory, not synced, whatever the policy defines; listeners and
	 * local logs are checked and not opened. For tools that run a production policy beside production. */
	const char *spool_dir;
	/* Called when the workers' hosts are there and before the policy is loaded. NULL: not. */
	void (*prepared)(void *arg, struct tr_server *server);
	void *prepared_arg;
	const char *repl_socket; /* path of the socket for `tailrace repl --attach`; NULL: none but the policy's */
	/* Not NULL: the loop of worker 0, which is the caller's and runs on after the server: then a task of another
	 * host on it may wait for the server. */
	struct tr_loop *loop;
	bool scripted; /* ESMTP listeners are bound in this thread's scripted network (net/scripted.h) */
	/* The same for records: sees each as JSON with all meta and headers, when it is made. NULL: nobody. */
	void (*record)(void *arg, const struct tr_event *event, struct tr_str json);
	void *record_arg;
};

/* Loads policy, runs pre_init and init, opens the spool, starts the workers: the calling thread is worker 0 and its
 * loop is entered. NULL with *error (malloc'ed: message with file:line and traceback); then nothing was started and the
 * spool is untouched. */
struct tr_server *tr_server_boot(const struct tr_server_config *config, char **error);
/* Runs worker 0 until tr_server_stop() has finished. */
void tr_server_run(struct tr_server *server);
/* Begins the stop, from worker 0's thread; deadline_ns from now. A second call skips to the last commit. */
void tr_server_stop(struct tr_server *server, int64_t deadline_ns);
bool tr_server_stopped(const struct tr_server *server);
/* Logs each session with messages, and what each worker is at work for or waits for, with tracebacks and ids. From
 * worker 0's thread. */
void tr_server_report(struct tr_server *server);
/* Called once when the stop has finished, maybe from inside of tr_server_stop(). Before the stop. */
void tr_server_on_stopped(struct tr_server *server, void (*fn)(void *arg), void *arg);
/* After the stop: joins the workers, writes the last commit, checks the ledger, closes. *ledger (may be NULL) gets the
 * final ledger as a table. Returns TR_OK if it balances, else TR_ECORRUPT. */
int tr_server_free(struct tr_server *server, struct tr_buf *ledger);

struct tr_loop *tr_server_loop(struct tr_server *server); /* worker 0's */
struct tr_host *tr_server_host(struct tr_server *server); /* worker 0's */
struct tr_engine *tr_server_engine(struct tr_server *server);
struct tr_spool *tr_server_spool(struct tr_server *server);

/* Directory with lua/ and policy-extras/: $TAILRACE_SHARE, else ../share/tailrace beside the program, else the source
 * tree that it was built from. Static. */
const char *tr_share_dir(void);
/* All C modules of the runtime (modules.c). */
extern const struct tr_module tr_modules[];

#endif
