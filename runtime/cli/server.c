#include "cli/server.h"
#include "cli/hook_check.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/diag.h"
#include "cli/privileges.h"
#include "cli/repl_socket.h"
#include "cli/server_internal.h"
#include "net/dns.h"
#include "queue/queue_lua.h"
#include "record/record_lua.h"
#include "transport/http.h"

#define QUIET_LIMIT_NS (5 * TR_NS_PER_S)
#define LOAD_LIMIT_NS (300 * TR_NS_PER_S) /* a policy may fetch data while it loads */

static void set_error(char **error, const char *fmt, ...) TR_PRINTF(2, 3);

static void
set_error(char **error, const char *fmt, ...)
{
	va_list args;

	if (error == NULL || *error != NULL)
		return;
	va_start(args, fmt);
	if (vasprintf(error, fmt, args) < 0)
		*error = NULL;
	va_end(args);
}

/* --- a step of the start that runs Lua ------------------------------------------------------------ */

struct step {
	bool ended, failed;
	char *error; /* of one that has failed; NULL: no memory for it */
};

static bool
step_ended(void *arg)
{
	return ((struct step *)arg)->ended;
}

static void
loaded(void *arg, const char *error)
{
	struct step *step = arg;

	step->ended = true;
	step->failed = error != NULL;
	if (error != NULL)
		step->error = strdup(error);
}

static void
fired(void *arg, const struct tr_task_result *result)
{
	loaded(arg, result->status == TR_OK ? NULL : result->text);
}

static int
wait_step(struct tr_loop *loop, struct step *step, const char *what, char **error)
{
	if (!step->ended && !tr_loop_run_until(loop, step_ended, step, LOAD_LIMIT_NS)) {
		set_error(error, "%s did not end within %d s", what, (int)(LOAD_LIMIT_NS / TR_NS_PER_S));
		return TR_ETIMEDOUT;
	}
	if (!step->failed)
		return TR_OK;
	set_error(error, "%s", step->error != NULL ? step->error : "out of memory");
	free(step->error);
	return TR_EINVAL;
}

static int
load_policy(struct tr_host *host, char **error)
{
	struct step *step = calloc(1, sizeof *step); /* outlives a step that never ends */
	int err;

	if (step == NULL)
		return TR_ENOMEM;
	tr_host_load(host, loaded, step);
	err = wait_step(tr_host_loop(host), step, "loading the policy", error);
	if (err != TR_ETIMEDOUT)
		free(step);
	return err;
}

static int
fire(struct tr_host *host, const char *event, char **error)
{
	struct step *step = calloc(1, sizeof *step);
	struct tr_task_call call = {.end = fired, .end_arg = step};
	int err;

	if (step == NULL)
		return TR_ENOMEM;
	err = tr_event_fire(host, event, &call, NULL);
	if (err == TR_OK)
		err = wait_step(tr_host_loop(host), step, event, error);
	if (err != TR_ETIMEDOUT)
		free(step);
	return err;
}

/* --- workers --------------------------------------------------------------------------------------- */

static int
make_worker(struct tr_server *server, uint32_t index, char **error)
{
	struct tr_worker_parts *parts = &server->worker[index];
	struct tr_host_config config = {
		.share_dir = server->share_dir,
		.policy = server->policy,
		.modules = tr_modules,
		.jit = server->jit,
		.handler_limit_ns = server->handler_limit_ns,
		.worker = index,
		.memory_limit = server->lua_memory,
		.memory_remedy = "mend what keeps them, or raise `tailrace run --lua-memory`",
		.measured = true,
	};
	int err = parts->loop != NULL ? TR_OK : tr_loop_new(&parts->loop);

	config.loop = parts->loop;
	if (err == TR_OK)
		err = tr_host_new(&config, &parts->host);
	if (err == TR_OK)
		err = tr_transports_init(&parts->transports, parts->loop, parts->host, server->resolvers);
	if (err != TR_OK) {
		set_error(error, "worker %u cannot be made: %s (share directory %s)", index,
			err == TR_EIO ? "the log says why" : tr_err_text(err), server->share_dir);
		return err;
	}
	tr_host_set_service(parts->host, TR_SERVICE_RECORDER, server->recorder);
	tr_host_set_service(parts->host, TR_SERVICE_SHAPING, server->shaping);
	return TR_OK;
}

static void
give_services(struct tr_server *server, uint32_t index)
{
	struct tr_worker_parts *parts = &server->worker[index];
	struct tr_worker *worker = tr_engine_worker(server->engine, index);

	tr_worker_set_data(worker, parts->host);
	tr_host_set_service(parts->host, TR_SERVICE_ENGINE, server->engine);
	tr_host_set_service(parts->host, TR_SERVICE_WORKER, worker);
	tr_host_set_service(parts->host, TR_SERVICE_SPOOL, server->spool);
}

static void *
worker_thread(void *arg)
{
	struct tr_worker_parts *parts = arg;
	char name[16];

	snprintf(name, sizeof name, "worker %u", parts->index);
	pthread_setname_np(pthread_self(), "worker");
	tr_pulse_enter(&parts->pulse, name, TR_PULSE_LOOP);
	tr_loop_enter(parts->loop);
	tr_loop_run(parts->loop);
	tr_pulse_leave(&parts->pulse);
	return NULL;
}

/* --- start --------------------------------------------------------------------------------------------- */

static void
emit(void *arg, struct tr_outbox *outbox, const struct tr_event *event)
{
	tr_recorder_emit(((struct tr_server *)arg)->recorder, outbox, event);
}

static void
decide(void *arg, struct tr_worker *worker, struct tr_message *message)
{
	tr_recorder_decide(((struct tr_server *)arg)->recorder, worker, message);
}

static bool
wants_enumerated(void *arg)
{
	return tr_event_handled(((struct tr_server *)arg)->worker[0].host, tr_event_id("spool_message_enumerated"));
}

static uint32_t
decide_room(void *arg, uint16_t account)
{
	return tr_recorder_room(((struct tr_server *)arg)->recorder, account);
}

static void
recovered(void *arg, const struct tr_recovered *message)
{
	tr_engine_recovered(((struct tr_server *)arg)->engine, message);
}

static int
open_spool(struct tr_server *server, char **error)
{
	struct tr_run *run = &server->run;
	struct tr_spool_config config = {
		.meta_path = run->meta_path,
		.data_path = run->data_path,
		.no_flush = run->no_flush,
		.min_free_space = run->min_free_space,
		.min_free_inodes = run->min_free_inodes,
		.segment_bytes = server->segment_bytes,
		.inline_io = run->scripted,
		.loaders = tr_clock_is_virtual() ? 1 : 0, /* answers of two would come in any order */
	};
	const struct tr_spool_config *sizes = server->spool_sizes;
	char *why = NULL;
	int err;

	if (sizes != NULL) {
		config.segment_bytes = sizes->segment_bytes;
		config.change_bytes = sizes->change_bytes;
		config.group_bytes = sizes->group_bytes;
		config.pending_bytes = sizes->pending_bytes;
		config.reserve_bytes = sizes->reserve_bytes;
		config.floor_bytes = sizes->floor_bytes;
		config.body_file_bytes = sizes->body_file_bytes;
		config.first_segment = sizes->first_segment;
		config.first_generation = sizes->first_generation;
	}
	if (server->spool_dir != NULL) {
		free(run->meta_path);
		free(run->data_path);
		config.no_flush = true;
		config.pace_ns = run->scripted ? -1 : 0; /* what a test looks at has happened */
		config.min_free_space = config.min_free_inodes = (struct tr_space_limit){-1, 0};
		if (asprintf(&run->meta_path, "%s/meta", server->spool_dir) < 0)
			run->meta_path = NULL;
		if (asprintf(&run->data_path, "%s/data", server->spool_dir) < 0)
			run->data_path = NULL;
		config.meta_path = run->meta_path;
		config.data_path = run->data_path;
		if (run->meta_path == NULL || run->data_path == NULL)
			return TR_ENOMEM;
	}
	if (tr_run_missing_spool(run) != NULL) {
		set_error(error, "%s", tr_run_missing_spool(run));
		return TR_EINVAL;
	}
	err = tr_spool_open(&config, &server->spool, &why);
	if (err != TR_OK)
		set_error(error, "the spool cannot be opened: %s", why ? why : tr_err_text(err));
	free(why);
	return err;
}

/* The node's UUID is made once and kept beside the log, so that records of one node can be told from those of
 * another. */
static int
name_node(struct tr_server *server, char **error)
{
	char *path, *text = NULL, uuid_text[37];
	uint8_t uuid[16];
	size_t len = 0;
	int err;

	if (asprintf(&path, "%s/nodeid", server->run.meta_path) < 0)
		return TR_ENOMEM;
	err = tr_file_slurp(path, &text, &len);
	if (err < 0 && err != -ENOENT) { /* another one would be another node's */
		set_error(error, "%s cannot be read: %s", path, tr_errno_text(err));
		free(path);
		return TR_EIO;
	}
	if (err == 0 && len >= 36 && tr_uuid_from_hex((struct tr_str){text, 36}, uuid) == TR_OK) {
		tr_uuid_hyphenated(uuid, uuid_text);
	} else {
		int fd;
		tr_uuid4(uuid);
		tr_uuid_hyphenated(uuid, uuid_text);
		fd = tr_file->open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
		err = fd < 0 ? fd : tr_file_write_all(fd, uuid_text, 36, 0);
		if (err == 0)
			err = tr_file->fdatasync(fd);
		if (fd >= 0)
			tr_file->close(fd);
		if (err < 0)
			set_error(error, "%s cannot be written: %s", path, tr_errno_text(err));
	}
	tr_recorder_set_nodeid(server->recorder, uuid_text);
	free(text);
	free(path);
	return err < 0 ? TR_EIO : TR_OK;
}

static int
start_engine(struct tr_server *server, char **error)
{
	struct tr_loop **loops = calloc(server->workers, sizeof *loops);
	struct tr_engine_config config = {
		.spool = server->spool,
		.loops = loops,
		.workers = server->workers,
		.ops = &server->ops,
		.ops_arg = server,
		.seed = server->seed,
		.shaping = server->shaping,
	};
	struct tr_recovery stats = {0};
	int err;

	if (loops == NULL)
		return TR_ENOMEM;
	for (uint32_t i = 0; i < server->workers; i++)
		loops[i] = server->worker[i].loop;
	tr_queue_lua_ops(&server->ops);
	server->ops.resolve_site = tr_server_resolve_site;
	server->ops.emit = emit;
	server->ops.decide = decide;
	server->ops.decide_room = decide_room;
	server->ops.wants_enumerated = wants_enumerated;
	err = tr_recorder_attach(server->recorder, server->spool);
	if (err == TR_OK)
		err = tr_engine_new(&config, &server->engine);
	free(loops);
	if (err == TR_OK)
		tr_recorder_set_dead(server->recorder, tr_engine_dead(server->engine));
	if (err == TR_OK)
		err = tr_spool_recover(server->spool, recovered, server, &stats);
	if (err != TR_OK) {
		set_error(error, "the spool in %s cannot be recovered: %s", server->run.meta_path, tr_err_text(err));
		return err;
	}
	if (stats.messages > 0 || stats.damaged_frames > 0)
		tr_log(TR_LEVEL_INFO, "spool",
			"recovered %llu messages from %llu segments in %.3f s; %llu damaged frames set aside, %llu "
			"bytes of a torn tail cut",
			(unsigned long long)stats.messages, (unsigned long long)stats.segments,
			(double)stats.took_ns / 1e9, (unsigned long long)stats.damaged_frames,
			(unsigned long long)stats.torn_bytes);
	for (uint32_t i = 0; i < server->workers; i++)
		give_services(server, i);
	return TR_OK;
}

/* Under the virtual clock nothing else tells the local logs that time has passed. */
static void
tick_logs(struct tr_turn_hook *hook)
{
	tr_recorder_tick(tr_container_of(hook, struct tr_server, tick)->recorder);
}

static int
boot(struct tr_server *server, const struct tr_server_config *config, char **error)
{
	struct tr_host *host;
	int err = tr_recorder_new(NULL, &server->record_ops, server, &server->recorder);

	if (err == TR_OK && server->tap != NULL)
		tr_recorder_set_tap(server->recorder, server->tap, server->tap_arg);
	if (err == TR_OK)
		err = tr_shaping_new(&server->shaping);
	if (err == TR_OK)
		err = tr_resolvers_new(&server->resolvers);
	if (err != TR_OK)
		return err;
	for (uint32_t i = 0; i < server->workers; i++) {
		err = make_worker(server, i, error);
		if (err != TR_OK)
			return err;
	}
	host = server->worker[0].host;
	tr_loop_enter(server->worker[0].loop);
	tr_host_set_service(host, TR_SERVICE_RUN, &server->run);
	tr_host_set_service(host, TR_SERVICE_OFFLINE, server->spool_dir);
	if (config->prepared != NULL)
		config->prepared(config->prepared_arg, server);
	err = load_policy(host, error);
	server->run.configuring = true;
	server->run.validating = server->spool_dir != NULL;
	if (err == TR_OK)
		err = fire(host, "pre_init", error);
	if (err == TR_OK)
		err = fire(host, "init", error);
	if (err == TR_OK)
		err = tr_check_hooks(host, error);
	server->run.configuring = false;
	if (err == TR_OK && config->repl_socket != NULL) {
		struct tr_repl_socket_config socket = {config->repl_socket, TR_REPL_RUN_NS, TR_REPL_TIMEOUT_NS};
		char *why = NULL;

		err = tr_repl_socket_open(server, &socket, &why);
		if (err != TR_OK)
			set_error(error, "--repl-socket: %s", why ? why : tr_err_text(err));
		free(why);
	}
	for (uint32_t i = 1; err == TR_OK && i < server->workers; i++) {
		tr_loop_enter(server->worker[i].loop);
		err = load_policy(server->worker[i].host, error);
	}
	tr_loop_enter(server->worker[0].loop);
	if (err == TR_OK && server->user != NULL)
		err = tr_drop_privileges(server->user, error);
	if (err == TR_OK)
		err = open_spool(server, error);
	if (err == TR_OK)
		err = name_node(server, error);
	if (err == TR_OK)
		err = start_engine(server, error);
	if (err != TR_OK)
		return err;
	for (uint32_t i = 1; i < server->workers; i++) {
		server->worker[i].index = i;
		if (pthread_create(&server->worker[i].thread, NULL, worker_thread, &server->worker[i]) != 0) {
			set_error(error, "thread of worker %u cannot be started", i);
			return TR_ENOMEM;
		}
		server->worker[i].running = true;
	}
	if (tr_clock_is_virtual()) {
		server->tick.fn = tick_logs;
		tr_loop_add_turn_hook(server->worker[0].loop, &server->tick);
	}
	tr_engine_start(server->engine);
	return TR_OK;
}

static bool
is_quiet(void *arg)
{
	return tr_hold_count() == 0 && !tr_spool_under_way(((const struct tr_server *)arg)->spool);
}

/* The workers' threads have ended. What is still under way for their loops (answers of the spool, mail between them) is
 * run here, so that nothing of it finds its loop gone. A disk that does not answer must not keep the process:
 * bounded. */
static void
quiesce(struct tr_server *server)
{
	int64_t until_ns = tr_mono_ns() + QUIET_LIMIT_NS;

	while (!is_quiet(server) && (tr_clock_is_virtual() || tr_mono_ns() < until_ns)) {
		bool moved = false;
		for (uint32_t i = 0; i < server->workers; i++) {
			if (server->worker[i].loop == NULL)
				continue;
			tr_loop_enter(server->worker[i].loop);
			moved |= tr_loop_run_until(server->worker[i].loop, is_quiet, server, TR_NS_PER_MS);
		}
		if (tr_clock_is_virtual() && !moved)
			break;
	}
}

/* From the top down: listeners, tasks (which give back what they hold), records, queues, and what they wait with. */
static void
dispose(struct tr_server *server)
{
	tr_run_fini(&server->run);
	if (server->tick.fn != NULL)
		tr_loop_remove_turn_hook(server->worker[0].loop, &server->tick);
	for (uint32_t i = 0; i < server->workers; i++)
		tr_host_free(server->worker[i].host);
	if (server->spool != NULL) {
		quiesce(server);
		if (!is_quiet(server)) { /* the disk fails: what waits for it must be told while its loops are there */
			tr_spool_finish(server->spool);
			quiesce(server);
		}
	}
	tr_recorder_free(server->recorder);
	if (server->engine != NULL)
		tr_engine_free(server->engine);
	tr_shaping_free(server->shaping);
	for (uint32_t i = 0; i < server->workers; i++)
		tr_transports_fini(&server->worker[i].transports);
	tr_resolvers_unref(server->resolvers);
	for (uint32_t i = 0; i < server->workers; i++) {
		if (server->borrowed && i == 0)
			continue;
		if (server->worker[i].loop != NULL)
			tr_loop_turn(server->worker[i].loop); /* closed streams are freed at the end of a turn */
		tr_loop_free(server->worker[i].loop);
	}
	free(server->policy);
	free(server->share_dir);
	free(server->user);
	free(server->spool_dir);
	free(server->worker);
	free(server);
}

struct tr_server *
tr_server_boot(const struct tr_server_config *config, char **error)
{
	struct tr_server *server = calloc(1, sizeof *server);
	long cores = sysconf(_SC_NPROCESSORS_ONLN);
	int err = TR_ENOMEM;

	*error = NULL;
	if (server == NULL)
		return NULL;
	server->workers = config->workers ? config->workers : cores > 0 ? (uint32_t)cores : 1;
	if (tr_clock_is_virtual())
		server->workers = 1;
	server->seed = config->seed ? config->seed : (uint64_t)tr_wall_ns() ^ ((uint64_t)getpid() << 48);
	server->jit = config->jit;
	server->segment_bytes = config->segment_bytes;
	server->handler_limit_ns = config->handler_limit_ns;
	server->lua_memory = config->lua_memory;
	server->spool_sizes = config->spool_sizes;
	server->policy = config->policy ? strdup(config->policy) : NULL;
	server->share_dir = strdup(config->share_dir ? config->share_dir : tr_share_dir());
	server->user = config->user ? strdup(config->user) : NULL;
	server->spool_dir = config->spool_dir ? strdup(config->spool_dir) : NULL;
	server->worker = calloc(server->workers, sizeof *server->worker);
	if (config->loop != NULL && server->worker != NULL) {
		server->borrowed = true;
		server->worker[0].loop = config->loop;
	}
	server->run.scripted = config->scripted;
	server->tap = config->record;
	server->tap_arg = config->record_arg;
	tr_record_lua_ops(&server->record_ops);
	if ((config->policy != NULL && server->policy == NULL) ||
		(config->spool_dir != NULL && server->spool_dir == NULL) || server->share_dir == NULL ||
		server->worker == NULL || (err = boot(server, config, error)) != TR_OK) {
		set_error(error, "%s", tr_err_text(err));
		if (server->worker == NULL)
			server->workers = 0;
		tr_server_stop_workers(server);
		struct tr_spool *spool = server->spool;
		dispose(server);
		if (spool != NULL)
			tr_spool_close(spool);
		return NULL;
	}
	server->spool_sizes = NULL;
	return server;
}

/* --- end ------------------------------------------------------------------------------------------------ */

int
tr_server_free(struct tr_server *server, struct tr_buf *table)
{
	struct tr_spool *spool = server->spool;
	struct tr_ledger ledger = {0};
	struct tr_buf differences = {0};
	int err = TR_OK;

	tr_server_stop_workers(server);
	dispose(server);
	if (tr_spool_ledger(spool, &ledger) == TR_OK) {
		if (!tr_ledger_balances(&ledger, &differences)) {
			tr_log(TR_LEVEL_ERROR, "ledger", "does not balance: %.*s", (int)differences.len,
				differences.data);
			err = TR_ECORRUPT;
		}
		if (table != NULL)
			tr_ledger_print(&ledger, table);
		tr_ledger_fini(&ledger);
	}
	tr_buf_free(&differences);
	tr_spool_close(spool);
	return err;
}

struct tr_loop *
tr_server_loop(struct tr_server *server)
{
	return server->worker[0].loop;
}

struct tr_host *
tr_server_host(struct tr_server *server)
{
	return server->worker[0].host;
}

struct tr_engine *
tr_server_engine(struct tr_server *server)
{
	return server->engine;
}

struct tr_spool *
tr_server_spool(struct tr_server *server)
{
	return server->spool;
}
