/* Jobs over dead letters: looking at them, replaying and purging them, a page at a time. */
#include <stdlib.h>

#include "base/clock.h"
#include "base/diag.h"
#include "base/json.h"
#include "queue/dead_internal.h"

#define PAGE 4096                    /* letters gone through, and moved in one change, at once */
#define PAGE_BYTES (4 * 1024 * 1024) /* of those that must be read, but at least one */

struct dead_work {
	struct tr_dead_store *store;
	struct tr_loop *loop;
	struct tr_dead_job *job;
	struct dead_work *next; /* in the line for an account */
	struct tr_mail mail;    /* it is this one's turn */
	uint32_t account;       /* being gone through; 0, the mail's, has none */
	bool owns;              /* that account */
	uint32_t left;          /* of it, as it was when this began */
	struct slot_list keep;  /* of it: looked at, to be put back */
	/* the page, which is also made while the change with the one before is being committed */
	uint32_t count, slots[PAGE];
	struct tr_load load; /* of those of it that must be read, in the same order */
	uint32_t read[PAGE];
	struct tr_message *messages[PAGE];
	int status[PAGE];
	bool loading, ready, committing; /* ready: read, and the commit of the page before is awaited */
	/* the change */
	struct tr_change change;
	uint32_t acted[PAGE], acted_count; /* all that are in it */
	uint32_t moved[PAGE], moved_count; /* of those: that keep their slots */
	uint32_t parked;                   /* of those */
	struct tr_message *replayed;       /* by next: new ones */
	struct tr_defer defer;
};

static void next_page(struct dead_work *work);
static void process(struct dead_work *work);
static void read_ahead(struct dead_work *work);

static void
finish(struct tr_defer *defer)
{
	struct dead_work *work = tr_container_of(defer, struct dead_work, defer);
	struct tr_engine *engine = work->store->engine;
	struct tr_dead_job *job = work->job;

	job->work = NULL;
	free(work);
	job->done(job); /* without an engine this may free the store */
	if (engine != NULL)
		busy_drop(engine);
}

/* --- one letter --------------------------------------------------------------------------------------------- */

static bool
fits(const struct tr_dead_job *job, const struct tr_message *message, struct tr_str info)
{
	bool found = job->ids == NULL;

	if (job->kind != TR_DEAD_ALL && (job->kind == TR_DEAD_LETTERS) != ((message->flags & TR_MSG_DEAD) != 0))
		return false;
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

/* What is to be said of a parked record, as the metadata `dead_letter` says it of a letter. */
static void
parked_info(struct dead_work *work, const struct tr_message *record, struct tr_buf *info)
{
	char hook[64] = "", at[32];
	struct tr_buf text = {0};

	(void)dead_hook_name(work->store, record->account, hook);
	(void)tr_meta_get_string(&record->meta, TR_STR("policy_error"), &text);
	tr_rfc3339(record->created_ns / TR_NS_PER_MS * TR_NS_PER_MS, at);
	info->len = 0;
	tr_buf_addz(info, "{\"hook\":");
	tr_json_add_string(info, tr_str(hook));
	tr_buf_addz(info, ",\"queue\":");
	tr_json_add_string(info, tr_str(record->queue != NULL ? record->queue : ""));
	tr_buf_addz(info, ",\"reason\":\"policy_error\",\"answer\":");
	tr_json_add_string(info, (struct tr_str){text.len > 0 ? text.data : "", text.len});
	tr_buf_addf(info, ",\"attempts\":%u,\"at\":\"%s\"}", record->attempts, at);
	tr_buf_free(&text);
}

/* A letter becomes the record that it was by a word in the log: it is not read, and not written again. With an order
 * its place is behind what has come since, and so is that of its bytes. */
static bool
can_move(const struct dead_work *work, const struct tr_stub *letter)
{
	return (tr_stub_flags(letter) & TR_MSG_ORDERED) == 0 && (letter->order != 0 || work->job->moved == NULL);
}

static bool
must_read(const struct dead_work *work, const struct tr_stub *stub)
{
	const struct tr_dead_job *job = work->job;

	return job->action == TR_DEAD_LOOK || job->ids != NULL || job->reason != NULL ||
	       (job->action == TR_DEAD_REPLAY && dead_is_letter(stub) && !can_move(work, stub));
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

static void
keep(struct dead_work *work, uint32_t slot)
{
	slots_add(work->store->spool, &work->keep, slot);
}

static bool
move(struct dead_work *work, uint32_t slot)
{
	const struct tr_stub *stub = tr_spool_stub(work->store->spool, slot);
	uint16_t account, flags = (uint16_t)((tr_stub_flags(stub) & ~TR_MSG_DEAD) | TR_MSG_RENEWED);

	if (dead_other(work->store, stub->account, &account) != TR_OK ||
		tr_change_move(&work->change, slot, account, tr_wall_ms(), 0, flags) != TR_OK)
		return false;
	work->moved[work->moved_count++] = slot;
	work->acted[work->acted_count++] = slot;
	return true;
}

static bool
put_again(struct dead_work *work, const struct tr_message *letter)
{
	struct tr_message *record = revive(work, letter);

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
	work->acted[work->acted_count++] = letter->slot;
	return true;
}

/* Does what the job says, or adds it to the change. letter: NULL if it was not read. False: it cannot be; it stays. */
static bool
act(struct dead_work *work, uint32_t slot, const struct tr_message *letter)
{
	const struct tr_stub *stub = tr_spool_stub(work->store->spool, slot);

	if (work->job->action == TR_DEAD_PURGE) {
		if (tr_change_done(&work->change, slot, TR_COL_DROPPED, TR_REASON_REMOVED, 1) != TR_OK)
			return false;
		work->parked += !dead_is_letter(stub);
		work->acted[work->acted_count++] = slot;
		return true;
	}
	if (dead_is_letter(stub))
		return can_move(work, stub) ? move(work, slot) : letter != NULL && put_again(work, letter);
	work->job->parked++;
	if (work->job->again != NULL)
		work->job->again(work->job, slot);
	else
		keep(work, slot); /* the next start decides it again anyway */
	return true;
}

/* --- pages -------------------------------------------------------------------------------------------------- */

/* They go to their queues: neighbours mostly to the same one. */
static void
hand_moved(struct dead_work *work)
{
	struct tr_dead_store *store = work->store;
	uint32_t first = 0;

	for (uint32_t i = 1; i <= work->moved_count && work->job->moved != NULL; i++) {
		const struct tr_stub *stub = tr_spool_stub(store->spool, work->moved[first]);

		if (i < work->moved_count && tr_spool_stub(store->spool, work->moved[i])->order == stub->order)
			continue;
		work->job->moved(work->job, dead_queue(store, stub), &work->moved[first], i - first);
		first = i;
	}
}

static void
hand_replayed(struct dead_work *work, int status)
{
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
}

static void
committed(struct tr_change *change, int status)
{
	struct dead_work *work = tr_container_of(change, struct dead_work, change);

	if (status == TR_OK)
		hand_moved(work);
	hand_replayed(work, status);
	if (status != TR_OK) {
		tr_metric_add(work->store->refused, work->acted_count);
		tr_log(TR_LEVEL_ERROR, "queue", "%u dead letters could not be moved (%s): they stay, and the job ends",
			work->acted_count, tr_err_text(status));
		for (uint32_t i = 0; i < work->acted_count; i++)
			keep(work, work->acted[i]);
		work->job->matched -= work->acted_count;
		work->job->refused += work->acted_count;
		work->job->refused_err = status;
	} else if (work->job->action == TR_DEAD_PURGE) {
		work->job->parked += work->parked;
		if (work->store->engine != NULL)
			count_add(work->store->engine, IN_PARKED, -(int64_t)work->parked);
	}
	work->acted_count = work->moved_count = work->parked = 0;
	work->committing = false;
	if (work->ready)
		process(work);
	else if (!work->loading)
		next_page(work);
}

static void
page_read(struct tr_load *load)
{
	struct dead_work *work = tr_container_of(load, struct dead_work, load);

	work->loading = false;
	work->ready = work->committing;
	if (!work->ready)
		process(work);
}

static void
page_made(struct tr_defer *defer)
{
	process(tr_container_of(defer, struct dead_work, defer));
}

/* A page is there: process() is called once what must be read of it is, and the change before is committed. */
static void
begin_page(struct dead_work *work)
{
	if (work->load.count > 0) {
		work->loading = true;
		tr_spool_load(work->store->spool, &work->load);
	} else if (work->committing) {
		work->ready = true;
	} else {
		tr_loop_defer(work->loop, &work->defer, page_made);
	}
}

/* The job ends: what was made ready ahead stays as it is. */
static void
keep_page(struct dead_work *work)
{
	for (uint32_t i = 0; i < work->count; i++)
		keep(work, work->slots[i]);
	for (uint32_t i = 0; i < work->load.count; i++)
		tr_message_free(work->messages[i]);
}

/* letter: NULL if it need not be read. info: room for what is told of a parked one. */
static void
process_one(struct dead_work *work, uint32_t slot, const struct tr_message *letter, struct tr_buf *parked)
{
	struct tr_dead_job *job = work->job;
	struct tr_str info = {NULL, 0};

	if (letter != NULL && (letter->flags & TR_MSG_DEAD)) {
		info = tr_meta_get(&letter->meta, TR_STR("dead_letter"));
	} else if (letter != NULL) {
		parked_info(work, letter, parked);
		info = (struct tr_str){parked->data, parked->len};
	}
	if ((job->limit > 0 && job->matched >= job->limit) || (letter != NULL && !fits(job, letter, info))) {
		keep(work, slot);
	} else if (job->action == TR_DEAD_LOOK && letter != NULL) { /* which reads all */
		job->matched++;
		job->parked += (letter->flags & TR_MSG_DEAD) == 0;
		job->each(job, letter, info);
		keep(work, slot);
	} else if (act(work, slot, letter)) {
		job->matched++;
	} else {
		job->unreadable++;
		keep(work, slot);
	}
}

/* Does with the page what the job says. */
static void
process(struct dead_work *work)
{
	struct tr_load *load = &work->load;
	struct tr_dead_job *job = work->job;
	struct tr_buf parked = {0};
	uint32_t read = 0;

	work->ready = false;
	if (job->refused > 0) {
		keep_page(work);
		next_page(work);
		return;
	}
	if (job->action != TR_DEAD_LOOK)
		tr_change_init(&work->change, work->store->spool, work->loop, committed, work);
	work->change.intake = job->action == TR_DEAD_REPLAY; /* it makes the log larger: a full disk may refuse it */
	for (uint32_t i = 0; i < work->count; i++) {
		bool was_read = read < load->count && work->read[read] == work->slots[i];
		struct tr_message *letter = was_read ? work->messages[read] : NULL;

		if (was_read && (work->status[read] < 0 || letter == NULL)) {
			job->unreadable++;
			keep(work, work->slots[i]);
		} else {
			process_one(work, work->slots[i], letter, &parked);
		}
		tr_message_free(letter);
		read += was_read;
	}
	tr_buf_free(&parked);
	if (work->acted_count > 0) {
		work->change.urgent = true; /* a person waits, and the next page */
		work->committing = true;
		read_ahead(work);
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

/* lock held: the account is given to the next in its line. */
static void
let_go(struct dead_work *work)
{
	struct dead_account *account = &work->store->accounts[work->account];
	struct dead_work *next = account->first;

	put_back(work);
	if (!work->owns)
		return;
	work->owns = false;
	account->owner = next;
	if (next == NULL)
		return;
	account->first = next->next;
	if (account->first == NULL)
		account->last = &account->first;
	next->owns = true;
	tr_loop_post(next->loop, &next->mail);
}

static void
begin_account(struct dead_work *work)
{
	struct dead_account *account = &work->store->accounts[work->account];

	dead_sort(work->store, account);
	work->left = account->list.count;
}

static void
turn_came(struct tr_mail *mail)
{
	struct dead_work *work = tr_container_of(mail, struct dead_work, mail);

	pthread_mutex_lock(&work->store->lock);
	begin_account(work);
	pthread_mutex_unlock(&work->store->lock);
	next_page(work);
}

/* lock held: it is this one's now, or it waits for it and turn_came() goes on. */
static bool
claim(struct dead_work *work)
{
	struct dead_account *account = &work->store->accounts[work->account];

	if (account->owner == NULL) {
		account->owner = work;
		work->owns = true;
		return true;
	}
	work->next = NULL;
	*account->last = work;
	account->last = &work->next;
	work->mail.fn = turn_came;
	return false;
}

/* lock held: goes on to the next account that is of interest. False: another job goes through it, and it waits. */
static bool
next_account(struct dead_work *work)
{
	struct tr_dead_store *store = work->store;
	const char *hook = work->job->hook;
	bool is_of = true;

	let_go(work);
	work->left = 0;
	do {
		work->account++;
	} while (work->account < TR_ACCOUNTS_MAX && store->accounts[work->account].list.count == 0 &&
		 store->accounts[work->account].owner == NULL);
	if (work->account == TR_ACCOUNTS_MAX)
		return true;
	if (hook != NULL) {
		pthread_mutex_unlock(&store->lock);
		is_of = dead_is_of(store, (uint16_t)work->account, hook);
		pthread_mutex_lock(&store->lock);
	}
	if (!is_of)
		return true;
	if (!claim(work))
		return false;
	begin_account(work);
	return true;
}

static bool
may_fit(const struct tr_dead_job *job, const struct tr_stub *stub)
{
	int64_t when_ms = dead_when_ms(stub);

	return stub->seq > job->after_seq && (job->since_ms == 0 || when_ms >= job->since_ms) &&
	       (job->until_ms == 0 || when_ms <= job->until_ms) &&
	       (job->kind == TR_DEAD_ALL || (job->kind == TR_DEAD_LETTERS) == dead_is_letter(stub));
}

/* lock held: takes a page of the account. */
static void
fill_page(struct dead_work *work)
{
	struct tr_dead_store *store = work->store;
	struct tr_dead_job *job = work->job;
	uint64_t bytes = 0, most = PAGE;

	work->load = (struct tr_load){.loop = work->loop,
		.done = page_read,
		.owner = work,
		.slots = work->read,
		.messages = work->messages,
		.status = work->status};
	work->count = 0;
	if (job->limit > 0 && job->limit <= job->matched)
		return;
	if (job->limit > 0 && job->ids == NULL && job->reason == NULL && job->limit - job->matched < most)
		most = job->limit - job->matched; /* all will do */
	while (work->count < most && bytes < PAGE_BYTES && work->left > 0) {
		uint32_t slot = dead_pop(store, &store->accounts[work->account]);
		const struct tr_stub *stub;

		if (slot == TR_NO_SLOT)
			break;
		work->left--;
		stub = tr_spool_stub(store->spool, slot);
		if (!may_fit(job, stub)) {
			keep(work, slot);
			continue;
		}
		work->slots[work->count++] = slot;
		if (!must_read(work, stub))
			continue;
		work->read[work->load.count++] = slot;
		bytes += stub->size;
	}
}

/* More of the same account, while the change with the page before is being committed. */
static void
read_ahead(struct dead_work *work)
{
	work->count = work->load.count = 0;
	pthread_mutex_lock(&work->store->lock);
	if (!dead_stopping(work->store))
		fill_page(work);
	pthread_mutex_unlock(&work->store->lock);
	if (work->count > 0)
		begin_page(work);
}

static void
next_page(struct dead_work *work)
{
	struct tr_dead_store *store = work->store;
	struct tr_dead_job *job = work->job;
	bool waits = false;

	work->count = work->load.count = 0;
	pthread_mutex_lock(&store->lock);
	if ((dead_stopping(store) || job->refused > 0) && work->account < TR_ACCOUNTS_MAX) {
		job->cut = job->refused == 0;
		let_go(work);
		work->account = TR_ACCOUNTS_MAX;
	}
	while (work->account < TR_ACCOUNTS_MAX && !waits) {
		fill_page(work);
		if (work->count > 0)
			break;
		waits = !next_account(work);
	}
	pthread_mutex_unlock(&store->lock);
	if (waits)
		return;
	if (work->count > 0)
		begin_page(work);
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
	next_page(work);
	return TR_OK;
}
