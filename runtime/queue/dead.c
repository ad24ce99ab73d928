/* The store of dead letters: which slots they have, by account, and how a record becomes one. */
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/diag.h"
#include "base/json.h"
#include "queue/dead_internal.h"
#include "queue/outcome.h"

#define TRIM_MAX 500 /* letters dropped in one change */

const struct tr_dead_bounds tr_dead_default = {1000000, UINT64_C(1) << 30, INT64_C(30) * 86400 * 1000, false};

int
tr_dead_new(struct tr_spool *spool, struct tr_dead_store **out)
{
	struct tr_dead_store *store = calloc(1, sizeof *store);

	*out = store;
	if (store == NULL)
		return TR_ENOMEM;
	store->spool = spool;
	pthread_mutex_init(&store->lock, NULL);
	store->refused = tr_metric_get(TR_COUNTER, "tailrace_dead_letters_refused",
		"dead letters whose replay or purge the disk refused; they stay", NULL);
	for (uint32_t i = 0; i < TR_ACCOUNTS_MAX; i++) {
		store->accounts[i].list = SLOT_LIST_EMPTY;
		store->accounts[i].bounds = tr_dead_default;
		store->accounts[i].other = NO_ACCOUNT;
		store->accounts[i].last = &store->accounts[i].first;
	}
	return TR_OK;
}

void
tr_dead_free(struct tr_dead_store *store)
{
	if (store == NULL)
		return;
	pthread_mutex_destroy(&store->lock);
	tr_metric_unref(store->refused);
	for (uint32_t i = 0; i < store->queues.count; i++)
		free(store->queues.names[i]);
	free(store);
}

void
dead_attach(struct tr_dead_store *store, struct tr_engine *engine)
{
	store->engine = engine;
}

/* --- accounts ----------------------------------------------------------------------------------------------- */

/* The dead account of a hook's, and the reverse. */
int
dead_other(struct tr_dead_store *store, uint16_t account, uint16_t *out)
{
	char name[64], other[64 + sizeof PREFIX];
	int err;

	pthread_mutex_lock(&store->lock);
	*out = store->accounts[account].other;
	pthread_mutex_unlock(&store->lock);
	if (*out != NO_ACCOUNT)
		return TR_OK;
	if (!tr_spool_account_name(store->spool, account, name))
		return TR_ENOENT;
	if (strncmp(name, PREFIX, sizeof PREFIX - 1) == 0)
		snprintf(other, sizeof other, "%s", name + sizeof PREFIX - 1);
	else
		snprintf(other, sizeof other, PREFIX "%s", name);
	other[63] = '\0'; /* an account's name has so much room */
	err = tr_spool_account(store->spool, other, out);
	if (err != TR_OK)
		return err;
	pthread_mutex_lock(&store->lock);
	store->accounts[account].other = *out;
	store->accounts[*out].other = account;
	pthread_mutex_unlock(&store->lock);
	return TR_OK;
}

bool
dead_hook_name(struct tr_dead_store *store, uint16_t account, char out[64])
{
	char name[64];

	if (!tr_spool_account_name(store->spool, account, name))
		return false;
	snprintf(out, 64, "%s", name + (strncmp(name, PREFIX, sizeof PREFIX - 1) == 0 ? sizeof PREFIX - 1 : 0));
	return true;
}

bool
dead_is_of(struct tr_dead_store *store, uint16_t account, const char *hook)
{
	char name[64];

	return dead_hook_name(store, account, name) && strcmp(name, hook) == 0;
}

void
tr_dead_configure(struct tr_dead_store *store, uint16_t hook_account, const struct tr_dead_bounds *bounds)
{
	pthread_mutex_lock(&store->lock);
	store->accounts[hook_account].bounds = *bounds;
	pthread_mutex_unlock(&store->lock);
}

bool
tr_dead_wanted(struct tr_dead_store *store, const struct tr_message *message)
{
	bool off;

	if (!(message->flags & TR_MSG_LOG_RECORD) || message->account == TR_ACCOUNT_MAIL ||
		message->account >= TR_ACCOUNTS_MAX)
		return false;
	pthread_mutex_lock(&store->lock);
	off = store->accounts[message->account].bounds.off;
	pthread_mutex_unlock(&store->lock);
	return !off;
}

/* --- dying -------------------------------------------------------------------------------------------------- */

static int
set_info(struct tr_message *message, const char *hook, const char *reason, struct tr_str line)
{
	struct tr_buf json = {0};
	char at[32];
	int err;

	tr_rfc3339(tr_wall_ms() * TR_NS_PER_MS, at);
	tr_buf_addc(&json, '{');
	tr_json_add_key(&json, "hook");
	tr_json_add_string(&json, tr_str(hook));
	tr_buf_addc(&json, ',');
	tr_json_add_key(&json, "queue");
	tr_json_add_string(&json, tr_str(message->queue != NULL ? message->queue : ""));
	tr_buf_addc(&json, ',');
	tr_json_add_key(&json, "reason");
	tr_json_add_string(&json, tr_str(reason));
	tr_buf_addc(&json, ',');
	tr_json_add_key(&json, "answer");
	tr_json_add_string(&json, line);
	tr_buf_addc(&json, ',');
	tr_json_add_key(&json, "attempts");
	/* the attempt that was refused is not counted in the message any more: it has ended */
	tr_buf_addf(&json, "%u,", message->attempts + (strcmp(reason, "rejected") == 0 ? 1u : 0u));
	tr_json_add_key(&json, "at");
	tr_json_add_string(&json, tr_str(at));
	tr_buf_addc(&json, '}');
	err = json.failed ? TR_ENOMEM
			  : tr_meta_set(&message->meta, TR_STR("dead_letter"), (struct tr_str){json.data, json.len});
	tr_buf_free(&json);
	return err;
}

int
tr_dead_put(struct tr_dead_store *store, struct tr_change *change, struct tr_message *message, const char *reason,
	struct tr_str line)
{
	uint16_t account, was_account = message->account, was_flags = message->flags;
	uint32_t was_slot = message->slot;
	uint64_t was_seq = message->seq;
	int64_t was_due_ms = message->due_ms;
	char hook[64];
	int err = dead_other(store, message->account, &account);

	if (err == TR_OK && !tr_spool_account_name(store->spool, message->account, hook))
		err = TR_ENOENT;
	if (err == TR_OK)
		err = set_info(message, hook, reason, line);
	if (err != TR_OK)
		return err;
	message->slot = TR_NO_SLOT;
	message->seq = 0;
	message->account = account;
	message->due_ms = tr_wall_ms(); /* when it died: its stub tells that without a read */
	message->flags = (uint16_t)((message->flags | TR_MSG_DEAD) & ~TR_MSG_DIRTY);
	err = tr_change_put(change, message, tr_str(message->queue != NULL ? message->queue : ""), TR_COL_ACCEPTED, 1);
	if (err != TR_OK) { /* first, as it is the larger: so nothing is done */
		message->slot = was_slot;
		message->seq = was_seq;
		message->account = was_account;
		message->due_ms = was_due_ms;
		message->flags = was_flags;
		tr_meta_remove(&message->meta, TR_STR("dead_letter"));
		return err;
	}
	if (tr_change_done(change, was_slot, TR_COL_DEAD, TR_REASON_NONE, 1) != TR_OK)
		change->failed = true; /* one without the other must not be stored */
	return TR_OK;
}

/* --- the letters -------------------------------------------------------------------------------------------- */

/* lock held: for stub->order. 0: there are too many, or no memory, or it is none to wait in */
static uint32_t
queue_place(struct dead_queues *queues, struct tr_str name)
{
	uint32_t at = (uint32_t)tr_hash(name.data, name.len) % TR_COUNT(queues->table);

	if (queues->last < queues->count && tr_str_eq(tr_str(queues->names[queues->last]), name))
		return queues->last + 1; /* neighbours mostly share it */
	while (queues->table[at] != 0 && !tr_str_eq(tr_str(queues->names[queues->table[at] - 1]), name))
		at = (at + 1) % TR_COUNT(queues->table);
	if (queues->table[at] == 0) {
		if (queues->count == DEAD_QUEUES_MAX || name.len == 0 || tr_str_eq(name, TR_STR("null")))
			return 0;
		queues->names[queues->count] = strndup(name.data, name.len);
		if (queues->names[queues->count] == NULL)
			return 0;
		queues->table[at] = (uint16_t)++queues->count;
	}
	queues->last = queues->table[at] - 1u;
	return queues->table[at];
}

const char *
dead_queue(struct tr_dead_store *store, const struct tr_stub *letter)
{
	const char *name;

	pthread_mutex_lock(&store->lock);
	name = letter->order == 0 ? NULL : store->queues.names[letter->order - 1];
	pthread_mutex_unlock(&store->lock);
	return name;
}

void
tr_dead_add(struct tr_dead_store *store, uint32_t slot, struct tr_str queue)
{
	struct tr_stub *stub = tr_spool_stub(store->spool, slot);
	struct dead_account *account = &store->accounts[stub->account % TR_ACCOUNTS_MAX];

	tr_stub_set_queue(stub, NO_SCHED);
	pthread_mutex_lock(&store->lock);
	stub->order = dead_is_letter(stub) ? queue_place(&store->queues, queue) : 0;
	if (account->list.count > 0 && tr_spool_stub(store->spool, account->list.tail)->seq > stub->seq)
		account->unsorted = true; /* two workers' changes, or one that was copied forward in the log */
	slots_add(store->spool, &account->list, slot);
	account->bytes += stub->size;
	store->count += dead_is_letter(stub);
	pthread_mutex_unlock(&store->lock);
}

void
dead_sort(struct tr_dead_store *store, struct dead_account *account)
{
	if (account->unsorted && slots_sort(store->spool, &account->list))
		account->unsorted = false;
}

uint64_t
tr_dead_count(const struct tr_dead_store *store)
{
	uint64_t count;

	pthread_mutex_lock((pthread_mutex_t *)&store->lock);
	count = store->count;
	pthread_mutex_unlock((pthread_mutex_t *)&store->lock);
	return count;
}

/* After a start: whose letters these are, so that their bounds are known. */
static void
find_hooks(struct tr_dead_store *store)
{
	pthread_mutex_lock(&store->lock);
	for (uint16_t i = 0; i < TR_ACCOUNTS_MAX && store->count > 0; i++) {
		uint16_t hook;

		if (store->accounts[i].list.count == 0 || store->accounts[i].other != NO_ACCOUNT ||
			!dead_is_letter(tr_spool_stub(store->spool, store->accounts[i].list.head)))
			continue;
		pthread_mutex_unlock(&store->lock);
		(void)dead_other(store, i, &hook); /* else the usual bounds hold */
		pthread_mutex_lock(&store->lock);
	}
	pthread_mutex_unlock(&store->lock);
}

void
tr_dead_hooks(struct tr_dead_store *store, struct tr_buf *out)
{
	bool first = true;

	find_hooks(store);
	tr_buf_addc(out, '[');
	for (uint16_t i = 0; i < TR_ACCOUNTS_MAX; i++) {
		char name[64];
		bool any;

		pthread_mutex_lock(&store->lock);
		any = store->accounts[i].list.count > 0;
		if (any && dead_is_letter(tr_spool_stub(store->spool, store->accounts[i].list.head)) &&
			store->accounts[i].other != NO_ACCOUNT &&
			store->accounts[store->accounts[i].other].list.count > 0)
			any = false; /* what is parked of it names it */
		pthread_mutex_unlock(&store->lock);
		if (!any || !dead_hook_name(store, i, name))
			continue;
		if (!first)
			tr_buf_addc(out, ',');
		first = false;
		tr_json_add_string(out, tr_str(name));
	}
	tr_buf_addc(out, ']');
}

/* lock held */
uint32_t
dead_pop(struct tr_dead_store *store, struct dead_account *account)
{
	uint32_t slot = slots_pop(store->spool, &account->list);

	if (slot == TR_NO_SLOT)
		return slot;
	account->bytes -= tr_spool_stub(store->spool, slot)->size;
	store->count -= dead_is_letter(tr_spool_stub(store->spool, slot));
	return slot;
}

/* lock held */
void
dead_put_back(struct tr_dead_store *store, struct dead_account *account, uint32_t slot)
{
	if (account->list.count > 0 &&
		tr_spool_stub(store->spool, account->list.head)->seq < tr_spool_stub(store->spool, slot)->seq)
		account->unsorted = true;
	slots_add_front(store->spool, &account->list, slot);
	account->bytes += tr_spool_stub(store->spool, slot)->size;
	store->count += dead_is_letter(tr_spool_stub(store->spool, slot));
}

void
tr_dead_json(struct tr_buf *out, const struct tr_message *letter, struct tr_str info, bool payload)
{
	char id[33];

	tr_uuid_hex(letter->id, id);
	tr_buf_addf(out, "{\"id\":\"%s\",\"seq\":%llu,\"size\":%zu,\"letter\":", id, (unsigned long long)letter->seq,
		letter->body.len);
	tr_buf_add_str(out, info.data != NULL ? info : TR_STR("{}"));
	if (payload) {
		tr_buf_addz(out, ",\"payload\":");
		tr_json_add_string(out, tr_bytes_str(&letter->body));
	}
	tr_buf_addc(out, '}');
}

/* --- bounds ------------------------------------------------------------------------------------------------- */

struct trim {
	struct tr_change change;
	struct tr_dead_store *store;
	uint32_t count;
};

static void
trimmed(struct tr_change *change, int status)
{
	struct trim *trim = tr_container_of(change, struct trim, change);
	struct tr_dead_store *store = trim->store;
	bool more = status == TR_OK && trim->count == TRIM_MAX && !dead_stopping(store);
	uint64_t dropped = 0;

	pthread_mutex_lock(&store->lock);
	store->trimming = false;
	if (status == TR_OK)
		store->trimmed += trim->count;
	if (!more) {
		dropped = store->trimmed;
		store->trimmed = 0;
	}
	pthread_mutex_unlock(&store->lock);
	if (status != TR_OK)
		tr_log(TR_LEVEL_ERROR, "queue", "%u dead letters could not be dropped (%s): a restart sees them again",
			trim->count, tr_err_text(status));
	if (dropped > 0)
		tr_log(TR_LEVEL_WARN, "queue", "%llu dead letters beyond the bounds of their hooks are dropped",
			(unsigned long long)dropped);
	if (more)
		tr_dead_trim(store, change->loop);
	free(trim);
	dead_busy_drop(store);
}

/* lock held: the oldest letter of it is beyond a bound */
static bool
is_beyond(struct tr_dead_store *store, const struct dead_account *account, const struct tr_dead_bounds *bounds)
{
	if (account->list.count == 0 || account->owner != NULL ||
		!dead_is_letter(tr_spool_stub(store->spool, account->list.head)))
		return false; /* what is parked has no bound */
	return (bounds->max_count > 0 && account->list.count > bounds->max_count) ||
	       (bounds->max_bytes > 0 && account->bytes > bounds->max_bytes) ||
	       (bounds->max_age_ms > 0 &&
		       tr_stub_due_ms(tr_spool_stub(store->spool, account->list.head)) + bounds->max_age_ms <
			       tr_wall_ms());
}

void
tr_dead_trim(struct tr_dead_store *store, struct tr_loop *loop)
{
	struct trim *trim = NULL;

	find_hooks(store);
	pthread_mutex_lock(&store->lock);
	for (uint32_t i = 0; i < TR_ACCOUNTS_MAX && store->count > 0 && !store->trimming; i++) {
		struct dead_account *account = &store->accounts[i];
		const struct tr_dead_bounds *bounds =
			account->other != NO_ACCOUNT ? &store->accounts[account->other].bounds : &tr_dead_default;

		while (is_beyond(store, account, bounds) && (trim == NULL || trim->count < TRIM_MAX)) {
			uint32_t slot;

			if (trim == NULL) {
				trim = malloc(sizeof *trim);
				if (trim == NULL)
					break; /* in ten seconds */
				trim->store = store;
				trim->count = 0;
				tr_change_init(&trim->change, store->spool, loop, trimmed, trim);
			}
			slot = dead_pop(store, account);
			if (tr_change_done(&trim->change, slot, TR_COL_DROPPED, TR_REASON_DEAD_BOUND, 1) != TR_OK)
				trim->change.failed = true;
			trim->count++;
		}
	}
	if (trim != NULL)
		store->trimming = true;
	pthread_mutex_unlock(&store->lock);
	if (trim == NULL)
		return;
	dead_busy_add(store);
	tr_spool_submit(&trim->change);
}
