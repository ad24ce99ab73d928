/* The ledger: counts of each account, stored whole at the head of each segment. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/json.h"
#include "spool/internal.h"

static const char *const column_names[TR_COLUMNS] = {"none", "offered", "filtered", "accepted", "moved_in", "delivered",
	"bounced", "dead", "dropped", "expired", "moved_out"};
static const char *const reason_names[TR_REASONS] = {
	"none", "policy", "admin_bounce", "null_queue", "removed", "damaged", "unwound", "dead_bound", "shed"};

int64_t
tr_account_expected(const struct tr_account *account)
{
	const int64_t *n = account->columns;

	return n[TR_COL_ACCEPTED] + n[TR_COL_MOVED_IN] - n[TR_COL_DELIVERED] - n[TR_COL_BOUNCED] - n[TR_COL_DEAD] -
	       n[TR_COL_DROPPED] - n[TR_COL_EXPIRED] - n[TR_COL_MOVED_OUT];
}

bool
tr_ledger_balances(const struct tr_ledger *ledger, struct tr_buf *out)
{
	bool balances = true;

	for (uint32_t i = 0; i < ledger->count; i++) {
		const struct tr_account *account = &ledger->accounts[i];
		const int64_t *n = account->columns;
		int64_t expected = tr_account_expected(account);

		if (expected != account->waiting) {
			balances = false;
			tr_buf_addf(out, "%s: %" PRId64 " should be waiting, %" PRId64 " are\n", account->name,
				expected, account->waiting);
		}
		if (n[TR_COL_OFFERED] != 0 && n[TR_COL_OFFERED] != n[TR_COL_ACCEPTED] + n[TR_COL_FILTERED]) {
			balances = false;
			tr_buf_addf(out, "%s: %" PRId64 " offered, %" PRId64 " accepted or filtered\n", account->name,
				n[TR_COL_OFFERED], n[TR_COL_ACCEPTED] + n[TR_COL_FILTERED]);
		}
	}
	return balances;
}

static void
print_reasons(const char *what, const int64_t *reasons, struct tr_buf *out)
{
	for (int i = 1; i < TR_REASONS; i++)
		if (reasons[i] != 0)
			tr_buf_addf(out, "    %s{%s} %" PRId64 "\n", what, reason_names[i], reasons[i]);
}

void
tr_ledger_print(const struct tr_ledger *ledger, struct tr_buf *out)
{
	for (uint32_t i = 0; i < ledger->count; i++) {
		const struct tr_account *account = &ledger->accounts[i];

		tr_buf_addf(out, "%s\n", account->name);
		for (int c = 1; c < TR_COLUMNS; c++)
			if (account->columns[c] != 0)
				tr_buf_addf(out, "  %-10s %12" PRId64 "\n", column_names[c], account->columns[c]);
		print_reasons("dropped", account->dropped, out);
		print_reasons("filtered", account->filtered, out);
		tr_buf_addf(out, "  %-10s %12" PRId64 "%s\n", "waiting", account->waiting,
			tr_account_expected(account) == account->waiting ? "" : "  (does not balance)");
	}
}

static void
json_reasons(const char *key, const int64_t *reasons, struct tr_buf *out)
{
	tr_buf_addf(out, ",\"%s\":{", key);
	for (int i = 1, first = 1; i < TR_REASONS; i++) {
		if (reasons[i] == 0)
			continue;
		tr_buf_addf(out, "%s\"%s\":%" PRId64, first ? "" : ",", reason_names[i], reasons[i]);
		first = 0;
	}
	tr_buf_addc(out, '}');
}

void
tr_ledger_json(const struct tr_ledger *ledger, struct tr_buf *out)
{
	tr_buf_addc(out, '{');
	for (uint32_t i = 0; i < ledger->count; i++) {
		const struct tr_account *account = &ledger->accounts[i];

		if (i > 0)
			tr_buf_addc(out, ',');
		tr_json_add_string(out, tr_str(account->name));
		tr_buf_addz(out, ":{");
		for (int c = 1; c < TR_COLUMNS; c++)
			tr_buf_addf(out, "\"%s\":%" PRId64 ",", column_names[c], account->columns[c]);
		tr_buf_addf(out, "\"waiting\":%" PRId64, account->waiting);
		json_reasons("dropped_by", account->dropped, out);
		json_reasons("filtered_by", account->filtered, out);
		tr_buf_addc(out, '}');
	}
	tr_buf_addc(out, '}');
}

void
tr_ledger_fini(struct tr_ledger *ledger)
{
	free(ledger->accounts);
	ledger->accounts = NULL;
	ledger->count = 0;
}

/* --- in the spool ------------------------------------------------------------------------------------- */

/* What an account takes in a ledger frame at most. */
static uint64_t
stored_bytes(size_t name_len)
{
	return 2 + name_len + 3 + UINT64_C(11) * (TR_COLUMNS + 2 * TR_REASONS);
}

/* Under ledger_mu. Grows the array to `count` accounts. */
static int
grow(struct tr_spool *spool, uint32_t count)
{
	struct tr_account *accounts;

	if (count <= spool->account_count)
		return TR_OK;
	accounts = realloc(spool->accounts, count * sizeof *accounts);
	if (accounts == NULL)
		return TR_ENOMEM;
	memset(accounts + spool->account_count, 0, (count - spool->account_count) * sizeof *accounts);
	spool->accounts = accounts;
	spool->account_count = count;
	return TR_OK;
}

static int
set_name(struct tr_spool *spool, uint32_t index, struct tr_str name)
{
	struct tr_account *account;

	if (index >= TR_ACCOUNTS_MAX || name.len >= sizeof account->name || grow(spool, index + 1) != TR_OK)
		return TR_ENOMEM;
	account = &spool->accounts[index];
	if (account->name[0] == '\0')
		spool->account_bytes += stored_bytes(name.len);
	memset(account->name, 0, sizeof account->name);
	memcpy(account->name, name.data, name.len);
	return TR_OK;
}

int
tr_spool_account(struct tr_spool *spool, const char *name, uint16_t *out)
{
	struct tr_str cut = {name, strnlen(name, sizeof spool->accounts->name - 1)};
	int err = TR_OK;
	uint32_t i;

	pthread_mutex_lock(&spool->ledger_mu);
	for (i = 0; i < spool->account_count; i++)
		if (tr_str_eq(tr_str(spool->accounts[i].name), cut))
			break;
	if (i == spool->account_count) {
		err = i >= TR_ACCOUNTS_MAX ? TR_EAGAIN : set_name(spool, i, cut);
	}
	*out = (uint16_t)i;
	pthread_mutex_unlock(&spool->ledger_mu);
	return err;
}

bool
tr_spool_account_name(struct tr_spool *spool, uint16_t account, char out[64])
{
	out[0] = '\0';
	pthread_mutex_lock(&spool->ledger_mu);
	if (account < spool->account_count)
		memcpy(out, spool->accounts[account].name, sizeof spool->accounts->name);
	pthread_mutex_unlock(&spool->ledger_mu);
	return out[0] != '\0';
}

int
tr_spool_ledger(struct tr_spool *spool, struct tr_ledger *out)
{
	pthread_mutex_lock(&spool->ledger_mu);
	out->count = spool->account_count;
	out->accounts = malloc((out->count + !out->count) * sizeof *out->accounts);
	if (out->accounts != NULL)
		memcpy(out->accounts, spool->accounts, out->count * sizeof *out->accounts);
	pthread_mutex_unlock(&spool->ledger_mu);
	if (out->accounts == NULL)
		out->count = 0;
	return out->accounts == NULL ? TR_ENOMEM : TR_OK;
}

void
ledger_count(struct tr_spool *spool, uint16_t index, uint8_t column, uint8_t reason, int64_t units)
{
	struct tr_account *account;

	if (column == TR_COL_NONE || column >= TR_COLUMNS || reason >= TR_REASONS || index >= TR_ACCOUNTS_MAX ||
		grow(spool, index + 1u) != TR_OK)
		return;
	account = &spool->accounts[index];
	account->columns[column] += units;
	if (column == TR_COL_DROPPED)
		account->dropped[reason] += units;
	if (column == TR_COL_FILTERED)
		account->filtered[reason] += units;
}

void
ledger_wait(struct tr_spool *spool, uint16_t index, int64_t units)
{
	if (index < TR_ACCOUNTS_MAX && grow(spool, index + 1u) == TR_OK)
		spool->accounts[index].waiting += units;
}

static uint64_t
zigzag(int64_t n)
{
	return (uint64_t)n << 1 ^ (uint64_t)(n >> 63);
}

static int64_t
unzigzag(uint64_t n)
{
	return (int64_t)(n >> 1) ^ -(int64_t)(n & 1);
}

/* Which of a row of counts are not zero (as a bit mask), then those. */
static void
put_counts(struct tr_buf *out, const int64_t *counts, int n)
{
	uint64_t mask = 0;

	for (int i = 0; i < n; i++)
		/* NOLINTNEXTLINE(clang-analyzer-core.NullDereference): there are accounts, or nobody calls */
		mask |= (uint64_t)(counts[i] != 0) << i;
	tr_buf_put_varint(out, mask);
	for (int i = 0; i < n; i++)
		if (counts[i] != 0)
			tr_buf_put_varint(out, zigzag(counts[i]));
}

static void
read_counts(struct tr_reader *reader, int64_t *counts, int n)
{
	uint64_t mask = tr_read_varint(reader);

	if (mask >> n != 0)
		reader->failed = true;
	for (int i = 0; i < n; i++) {
		counts[i] = mask >> i & 1 ? unzigzag(tr_read_varint(reader)) : 0;
		if (!count_is_sane(counts[i], LEDGER_COUNT_MAX))
			reader->failed = true;
	}
}

uint32_t
ledger_bounds(struct tr_spool *spool, uint64_t *bytes)
{
	uint32_t count;

	pthread_mutex_lock(&spool->ledger_mu);
	count = spool->account_count;
	*bytes = spool->account_bytes;
	pthread_mutex_unlock(&spool->ledger_mu);
	return count;
}

void
ledger_encode(struct tr_spool *spool, struct tr_buf *out)
{
	tr_buf_put_varint(out, spool->account_count);
	for (uint32_t i = 0; i < spool->account_count; i++) {
		const struct tr_account *account = &spool->accounts[i];

		tr_buf_put_bytes(out, tr_str(account->name));
		put_counts(out, account->columns, TR_COLUMNS);
		put_counts(out, account->dropped, TR_REASONS);
		put_counts(out, account->filtered, TR_REASONS);
	}
}

bool
ledger_decode(struct tr_spool *spool, struct tr_str payload)
{
	struct tr_reader reader = {payload.data, payload.data + payload.len, false};
	uint64_t count;

	tr_read_u64(&reader); /* the segment's number */
	count = tr_read_varint(&reader);
	if (reader.failed || count > TR_ACCOUNTS_MAX)
		return false;
	for (uint32_t i = 0; i < count; i++) {
		struct tr_str name = tr_read_bytes(&reader);
		struct tr_account read = {0};

		read_counts(&reader, read.columns, TR_COLUMNS);
		read_counts(&reader, read.dropped, TR_REASONS);
		read_counts(&reader, read.filtered, TR_REASONS);
		if (reader.failed || set_name(spool, i, name) != TR_OK)
			return false;
		memcpy(spool->accounts[i].columns, read.columns, sizeof read.columns);
		memcpy(spool->accounts[i].dropped, read.dropped, sizeof read.dropped);
		memcpy(spool->accounts[i].filtered, read.filtered, sizeof read.filtered);
	}
	return true;
}

void
account_encode(struct tr_spool *spool, uint32_t index, struct tr_buf *out)
{
	tr_buf_put_u16(out, (uint16_t)index);
	tr_buf_put_bytes(out, tr_str(spool->accounts[index].name));
}

bool
account_decode(struct tr_spool *spool, struct tr_str payload)
{
	struct tr_reader reader = {payload.data, payload.data + payload.len, false};
	uint16_t index = tr_read_u16(&reader);
	struct tr_str name = tr_read_bytes(&reader);

	return !reader.failed && set_name(spool, index, name) == TR_OK;
}
