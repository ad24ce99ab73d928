/* Jobs over dead letters: looking at them, replaying and purging them, a page at a time. */
#include <stdlib.h>

#include "base/json.h"
#include "queue/dead_internal.h"

#define PAGE 2048                    /* letters loaded, and moved in one change: a commit is waited for each time */
#define PAGE_BYTES (4 * 1024 * 1024) /* of them, but at least one */

struct dead_work {
	struct tr_dead_store *store;
	struct tr_loop *loop;
	struct tr_dead_job *job;
	uint32_t account;      /* being gone through */
	uint32_t left;         /* of it, as it was when this began */
	struct slot_list keep; /* of it: looked at, to be put back */
	struct tr_load load;
	struct tr_change change;
	struct tr_defer defer;
	uint64_t bytes; /* of the page */
	uint32_t slots[PAGE];
	struct tr_message *messages[PAGE];
	struct tr_message *replayed; /* by next: in the change */
	int status[PAGE];
};

static void next_page(struct dead_work *work);

static void
finish(struct tr_defer *defer)
{
	struct dead_work *work = tr_container_of(defer, struct dead_work, defer);
	struct tr_engine *engine = work->store->engine;
	struct tr_dead_job *job = work->job;

	job->work = NULL;
	free(work);
	tr_hold_drop();
	job->done(job); /* without an engine this may free the store */
	if (engine != NULL)
		busy_drop(engine);
}

/* --- one letter --------------------------------------------------------------------------------------------- */

static bool
fits(const struct tr_dead_job *job, const struct tr_message *message, struct tr_str info)
{
	bool found = job->ids == NULL;

	for (uint32_t i = 0; i < job->id_count && !found; i++)
		found = memcmp(job->ids[i], message->id, 16) == 0;
	if (!found)
		return false;
	if (job->reason != NULL) {
		struct tr_str value = info.data != NULL ? tr_json_get(info, "reason") : (struct tr_str){NULL, 0};
		size_t len = strlen(job->reason);

		if (value.data == NULL || value.len != len + 2 || memcmp(value.data + 1, job->reason, len) != 0)
			return false;
	}
	return true;
}

/* The record as it was before, with an id of its own: its age starts again. */
static struct tr_message *
revive(struct dead_work *work, const struct tr_message *letter)
{
	struct tr_message *record = tr_message_split(letter);
	uint16_t account;

	if (record == NULL)
		return NULL;
	record->flags = (uint16_t)(letter->flags & ~(TR_MSG_DEAD | TR_MSG_DIRTY));
	tr_meta_remove(&record->meta, TR_STR("dead_letter"));
	if (dead_other(work->store, letter->account, &account) != TR_OK ||
		(letter->queue != NULL && tr_message_set_queue(record, tr_str(letter->queue)) != TR_OK)) {
		tr_message_free(record);
		return NULL;
	}
	record->account = account;
	record->due_ms = 0;
	record->attempts = 0;
	if (record->schedule != NULL) /* a moment to expire at has passed, or else it will too soon */
		record->schedule->expires_ms = 0;
	return record;
}

/* Adds it to the change. False: it cannot be; it stays. */
static bool
act(struct dead_work *work, const struct tr_message *letter)
{
	struct tr_message *record;

	if (work->job->action == TR_DEAD_PURGE)
		return tr_change_done(&work->change, letter->slot, TR_COL_DROPPED, TR_REASON_REMOVED, 1) == TR_OK;
	record = revive(work, letter);
	if (record == NULL)
		return false;
	if (tr_change_put(&work->change, record, tr_str(record->queue != NULL ? record->queue : ""), TR_COL_MOVED_IN,
		    1) != TR_OK) {
		tr_message_free(record);
		return false;
	}
	if (tr_change_done(&work->change, letter->slot, TR_COL_MOVED_OUT, TR_REASON_NONE, 1) != TR_OK)
		work->change.failed = true;
	record->next = work->replayed;
	work->replayed = record;
	return true;
}

/* --- pages -------------------------------------------------------------------------------------------------- */

static void
keep(struct dead_work *work, uint32_t slot)
{
	slots_add(work->store->spool, &work->keep, slot);
}

static void
committed(struct tr_change *change, int status)
{
	struct dead_work *work = tr_container_of(change, struct dead_work, change);
	struct tr_message *list = work->replayed, *ordered = NULL;

	work->replayed = NULL;
	while (list != NULL) { /* in the order of the letters */
		struct tr_message *next = list->next;

		list->next = ordered;
		ordered = list;
		list = next;
	}
	while (ordered != NULL) {
		struct tr_message *record = ordered;

		ordered = record->next;
		record->next = NULL;
		if (status == TR_OK)
			work->job->replayed(work->job, record);
		else
			tr_message_free(record);
	}
	if (status != TR_OK)
		tr_log(TR_LEVEL_ERROR, "queue", "dead letters could not be moved (%s): a restart sees them again",
			tr_err_text(status));
	next_page(work);
}

static void
loaded(struct tr_load *load)
{
	struct dead_work *work = tr_container_of(load, struct dead_work, load);
	struct tr_dead_job *job = work->job;
	uint32_t acted = 0;

	if (job->action != TR_DEAD_LOOK)
		tr_change_init(&work->change, work->store->spool, work->loop, committed, work);
	for (uint32_t i = 0; i < load->count; i++) {
		struct tr_message *letter = work->messages[i];
		struct tr_str info;

		if (work->status[i] < 0 || letter == NULL) {
			job->unreadable++;
			keep(work, work->slots[i]);
			continue;
		}
		info = tr_meta_get(&letter->meta, TR_STR("dead_letter"));
		if ((job->limit > 0 && job->matched >= job->limit) || !fits(job, letter, info)) {
			keep(work, work->slots[i]);
		} else if (job->action == TR_DEAD_LOOK) {
			job->matched++;
			job->each(job, letter, info);
			keep(work, work->slots[i]);
		} else if (act(work, letter)) {
			job->matched++;
			acted++;
		} else {
			job->unreadable++;
			keep(work, work->slots[i]);
		}
		tr_message_free(letter);
	}
	if (job->action != TR_DEAD_LOOK && acted > 0) {
		work->change.urgent = true; /* a person waits, and the next page */
		tr_spool_submit(&work->change);
		return;
	}
	if (job->action != TR_DEAD_LOOK)
		tr_change_abandon(&work->change);
	next_page(work);
}

/* lock held: the account's letters that were looked at are its oldest again */
static void
put_back(struct dead_work *work)
{
	struct dead_account *account = &work->store->accounts[work->account];

	while (work->keep.count > 0) {
		uint32_t slot = work->keep.tail;

		slots_remove(work->store->spool, &work->keep, slot);
		dead_put_back(work->store, account, slot);
	}
}

static void
next_page(struct dead_work *work)
{
	struct tr_dead_store *store = work->store;
	struct tr_dead_job *job = work->job;

	work->load = (struct tr_load){.loop = work->loop,
		.done = loaded,
		.owner = work,
		.slots = work->slots,
		.messages = work->messages,
		.status = work->status};
	work->bytes = 0;
	pthread_mutex_lock(&store->lock);
	if (dead_stopping(store) && work->account < TR_ACCOUNTS_MAX) {
		job->cut = true;
		put_back(work);
		work->account = TR_ACCOUNTS_MAX;
	}
	while (work->load.count < PAGE && work->bytes < PAGE_BYTES && work->account < TR_ACCOUNTS_MAX) {
		struct dead_account *account = &store->accounts[work->account];
		uint32_t slot = work->left > 0 && (job->limit == 0 || job->matched < job->limit)
					? dead_pop(store, account)
					: TR_NO_SLOT;
		const struct tr_stub *stub;

		if (slot == TR_NO_SLOT) {
			if (work->load.count > 0)
				break; /* what is loaded belongs to this account */
			put_back(work);
			do {
				work->account++;
			} while (work->account < TR_ACCOUNTS_MAX && store->accounts[work->account].list.count == 0);
			if (work->account == TR_ACCOUNTS_MAX)
				break;
			dead_sort(store, &store->accounts[work->account]);
			work->left = store->accounts[work->account].list.count;
			if (job->hook != NULL) {
				bool is_of;

				pthread_mutex_unlock(&store->lock);
				is_of = dead_is_of(store, (uint16_t)work->account, job->hook);
				pthread_mutex_lock(&store->lock);
				work->left = is_of ? work->left : 0;
			}
			continue;
		}
		work->left--;
		stub = tr_spool_stub(store->spool, slot);
		if (stub->seq <= job->after_seq || (job->since_ms > 0 && tr_stub_due_ms(stub) < job->since_ms) ||
			(job->until_ms > 0 && tr_stub_due_ms(stub) > job->until_ms)) {
			keep(work, slot);
		} else {
			work->slots[work->load.count++] = slot;
			work->bytes += stub->size;
		}
	}
	pthread_mutex_unlock(&store->lock);
	if (work->load.count > 0)
		tr_spool_load(store->spool, &work->load);
	else
		tr_loop_defer(work->loop, &work->defer, finish);
}

int
tr_dead_start(struct tr_dead_store *store, struct tr_loop *loop, struct tr_dead_job *job)
{
	struct dead_work *work;

	if (dead_stopping(store))
		return TR_ECANCELED;
	work = calloc(1, sizeof *work);
	if (work == NULL)
		return TR_ENOMEM;
	work->store = store;
	work->loop = loop;
	work->job = job;
	work->keep = SLOT_LIST_EMPTY;
	job->work = work;
	dead_busy_add(store); /* until done() */
	tr_hold_take();
	next_page(work);
	return TR_OK;
}
