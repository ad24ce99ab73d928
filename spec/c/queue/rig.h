/* A real spool and a real engine under the virtual clock, with the doubles of rig_doubles.h. */
#ifndef QUEUE_RIG_H
#define QUEUE_RIG_H

#include <unistd.h>

#include "rig_doubles.h"

static inline void
rig_recovered(void *arg, const struct tr_recovered *message)
{
	tr_engine_recovered(arg, message);
}

static inline void
rig_open(struct rig *rig)
{
	struct tr_spool_config spool_config = {.meta_path = rig->sub,
		.data_path = rig->sub,
		.segment_bytes = 4 << 20,
		.min_free_space = {.bytes = 1},
		.min_free_inodes = {.bytes = 1}};
	struct tr_engine_config config = {.loops = rig->loops, .ops = &rig_ops, .ops_arg = rig, .seed = rig->seed};
	struct tr_recovery recovery;
	char *error = NULL;

	assert_int_equal(tr_spool_open(&spool_config, &rig->spool, &error), TR_OK);
	if (rig->workers == 0)
		rig->workers = 1;
	for (uint32_t i = 0; i < rig->workers; i++)
		assert_int_equal(tr_loop_new(&rig->loops[i]), TR_OK);
	tr_loop_enter(rig->loops[0]);
	config.spool = rig->spool;
	config.workers = rig->workers;
	config.shaping = rig->shaping;
	assert_int_equal(tr_engine_new(&config, &rig->engine), TR_OK);
	assert_int_equal(tr_spool_recover(rig->spool, rig_recovered, rig->engine, &recovery), TR_OK);
	tr_engine_start(rig->engine);
	rig->stopped = false;
}

static inline void
rig_init(struct rig *rig)
{
	memset(rig, 0, sizeof *rig);
	tr_clock_virtual(WALL0);
	snprintf(rig->dir, sizeof rig->dir, "/tmp/tr-queue-XXXXXX");
	assert_non_null(mkdtemp(rig->dir));
	snprintf(rig->sub, sizeof rig->sub, "%s/spool", rig->dir);
}

static inline void
rig_run(struct rig *rig, int64_t ns)
{
	tr_loop_advance(rig->loops[0], ns);
}

static inline void
rig_stopped(void *arg)
{
	((struct rig *)arg)->stopped = true;
}

static inline bool
rig_is_stopped(void *arg)
{
	return ((struct rig *)arg)->stopped;
}

/* Every message is counted once, and the committed ledger balances with what is live. */
static inline uint64_t
rig_check(struct rig *rig)
{
	struct tr_queue_figures figures;
	struct tr_spool_figures spool;
	struct tr_ledger ledger;
	struct tr_buf text = {0};
	uint64_t all;

	tr_engine_figures(rig->engine, &figures);
	tr_spool_figures(rig->spool, &spool);
	all = figures.line + figures.timers + figures.ready + figures.in_flight + figures.undecided + figures.parked +
	      tr_dead_count(tr_engine_dead(rig->engine));
	if (all != spool.live_messages)
		print_message("line %lu timers %lu ready %lu flight %lu undecided %lu parked %lu, live %lu\n",
			figures.line, figures.timers, figures.ready, figures.in_flight, figures.undecided,
			figures.parked, spool.live_messages);
	assert_int_equal(all, spool.live_messages);
	assert_int_equal(tr_spool_ledger(rig->spool, &ledger), TR_OK);
	if (!tr_ledger_balances(&ledger, &text))
		fail_msg("ledger: %.*s", (int)text.len, text.data);
	tr_ledger_fini(&ledger);
	tr_buf_free(&text);
	return all;
}

static inline int64_t
rig_column(struct rig *rig, enum tr_column column)
{
	struct tr_ledger ledger;
	int64_t value;

	assert_int_equal(tr_spool_ledger(rig->spool, &ledger), TR_OK);
	value = ledger.accounts[TR_ACCOUNT_MAIL].columns[column];
	tr_ledger_fini(&ledger);
	return value;
}

static inline void
rig_close(struct rig *rig)
{
	tr_engine_stop(rig->engine, tr_mono_ns() + 20 * TR_NS_PER_S, rig_stopped, rig);
	assert_true(tr_loop_run_until(rig->loops[0], rig_is_stopped, rig, 60 * TR_NS_PER_S));
	rig_check(rig);
	tr_spool_close(rig->spool);
	tr_engine_free(rig->engine);
	tr_loop_enter(NULL);
	for (uint32_t i = 0; i < rig->workers; i++)
		tr_loop_free(rig->loops[i]);
}

static inline void
rig_fini(struct rig *rig)
{
	char command[128];

	rig_close(rig);
	snprintf(command, sizeof command, "rm -rf %s", rig->dir);
	assert_int_equal(system(command), 0);
	tr_clock_real();
}

/* --- putting ------------------------------------------------------------------------------------------- */

struct rig_put {
	struct tr_outbox outbox;
	struct rig *rig;
	struct tr_message *message;
};

static inline void
rig_put_done(struct tr_outbox *outbox, int status)
{
	struct rig_put *put = tr_container_of(outbox, struct rig_put, outbox);

	assert_int_equal(status, TR_OK);
	put->rig->under_way--;
	tr_queue_insert(outbox->worker, put->message, "Received");
	free(put);
}

static inline void
rig_put_message(struct rig *rig, struct tr_worker *worker, struct tr_message *message)
{
	struct rig_put *put = calloc(1, sizeof *put);

	put->rig = rig;
	put->message = message;
	rig->under_way++;
	tr_outbox_init(&put->outbox, worker, rig_put_done, put);
	assert_int_equal(tr_change_put(&put->outbox.change, message, tr_str(message->queue), TR_COL_ACCEPTED,
				 message_units(message)),
		TR_OK);
	tr_outbox_submit(&put->outbox);
}

static inline void
rig_put(struct rig *rig, const char *queue, uint32_t number)
{
	rig_put_message(rig, tr_engine_worker(rig->engine, 0), rig_message(queue, number));
}

static inline struct tr_queue_figures
rig_figures(struct rig *rig)
{
	struct tr_queue_figures figures;

	tr_engine_figures(rig->engine, &figures);
	return figures;
}

/* Script parts. */
static inline void
rig_fail(struct tr_outcome *outcome, int code)
{
	outcome->kind = code >= 500 ? TR_OUT_BOUNCED : TR_OUT_TRANSIENT;
	outcome->response.code = code;
	outcome->response.content = TR_STR("try later");
}
#endif
