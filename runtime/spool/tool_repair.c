/* `tailrace spool repair`: a new log of what is live. The damaged one is only read, and kept. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "spool/internal.h"
#include "spool/tool.h"

#define BATCH 256

struct repair {
	struct tr_spool *from, *to;
	bool copy_bodies;
	struct moved moved[BATCH];
	char *data[BATCH]; /* in which their payloads lie */
	uint32_t count;
	uint64_t bytes, kept, lost;
	int err;
};

static void
write_batch(struct repair *repair)
{
	if (repair->count > 0 && repair->err == TR_OK)
		repair->err = group_write(repair->to, NULL, repair->moved, repair->count, true);
	for (uint32_t i = 0; i < repair->count; i++)
		free(repair->data[i]);
	repair->count = 0;
	repair->bytes = 0;
}

/* The message is not in the new log: its units are dropped{damaged}. */
static void
lose(struct repair *repair, const struct tr_stub *stub, uint32_t slot)
{
	struct tr_spool *to = repair->to;

	repair->lost++;
	pthread_mutex_lock(&to->ledger_mu);
	ledger_count(to, stub->account, TR_COL_DROPPED, TR_REASON_DAMAGED, slot_units(repair->from, slot));
	pthread_mutex_unlock(&to->ledger_mu);
}

static int
copy_body(struct repair *repair, uint64_t id, uint64_t len)
{
	struct tr_blob *body;
	char name[40], *path;
	int fd, err = body_read(repair->from, id, len, &body);

	if (err != TR_OK || !repair->copy_bodies) {
		if (err == TR_OK)
			tr_blob_unref(body);
		return err;
	}
	body_name(id, name);
	path = spool_path(repair->to->data, name);
	fd = path == NULL ? -ENOMEM : tr_file->open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	err = fd < 0 ? fd : tr_file_write_all(fd, body->data, body->len, 0);
	if (err >= 0)
		err = body_seal(fd, body->len, tr_crc32c(0, body->data, body->len));
	if (err >= 0)
		err = tr_file->fdatasync(fd);
	if (fd >= 0)
		tr_file->close(fd);
	free(path);
	tr_blob_unref(body);
	return err < 0 ? TR_EIO : TR_OK;
}

static void
keep(void *arg, const struct tr_recovered *message)
{
	struct repair *repair = arg;
	const struct tr_stub *stub = tr_spool_stub(repair->from, message->slot);
	struct moved *moved;
	struct put_prefix prefix;
	struct tr_str payload, queue, opaque;
	char *data;
	int err;

	if (repair->err != TR_OK)
		return;
	err = load_payload(repair->from, message->slot, &data, &payload);
	if (err == TR_OK && !put_parse(payload, &prefix, &queue, &opaque))
		err = TR_ECORRUPT;
	if (err == TR_OK && prefix.body_file != 0)
		err = copy_body(repair, prefix.body_file, prefix.body_len);
	if (err == TR_ECORRUPT) {
		free(data);
		lose(repair, stub, message->slot);
		return;
	}
	if (err == TR_OK && repair->count > 0 &&
		repair->bytes + payload.len + 4 * PUT_ALIGN > repair->to->config.segment_bytes / 2)
		write_batch(repair);
	moved = &repair->moved[repair->count];
	if (err == TR_OK) {
		*moved = (struct moved){
			.slot = slot_new(repair->to), .from = LOC_NONE, .seq = stub->seq, .payload = payload};
		err = moved->slot == TR_NO_SLOT ? TR_ENOMEM : repair->err;
	}
	if (err != TR_OK) {
		free(data);
		repair->err = err;
		return;
	}
	prefix.due_ms = tr_stub_due_ms(stub);
	prefix.flags = tr_stub_flags(stub);
	prefix.attempts = tr_stub_attempts(stub);
	prefix.account = tr_stub_account(stub);
	prefix.created_ms = tr_stub_created_ms(stub);
	prefix.column = TR_COL_NONE;
	memcpy((char *)payload.data, &prefix, sizeof prefix); /* in data, which is ours */
	moved->crc = tr_crc32c(0, payload.data, payload.len);
	tr_spool_stub(repair->to, moved->slot)->seq = stub->seq;
	repair->data[repair->count++] = data;
	repair->bytes += frame_bytes(payload.len) + 2 * PUT_ALIGN;
	repair->kept++;
	if (repair->count == BATCH)
		write_batch(repair);
}

/* Before the messages come, the new log gets the old one's accounts, as the pass found them. */
static int
copy_ledger(struct repair *repair)
{
	struct tr_spool *from = repair->from, *to = repair->to;
	uint64_t bytes;
	uint32_t count = ledger_bounds(from, &bytes);
	struct tr_account *accounts = malloc(count * sizeof *accounts);

	if (accounts == NULL)
		return TR_ENOMEM;
	memcpy(accounts, from->accounts, count * sizeof *accounts);
	free(to->accounts);
	to->accounts = accounts;
	to->account_count = count;
	to->account_bytes = bytes;
	return TR_OK;
}

static int
visit(struct repair *repair)
{
	struct tr_spool *from = repair->from;

	for (uint64_t number = from->oldest; number <= from->newest; number++) {
		struct segment *segment = from->ring[number & (from->ring_cap - 1)];

		for (uint32_t i = 0; segment != NULL && i < segment->puts; i++) {
			struct tr_recovered message = {.slot = segment->slots[i]};

			if (message.slot != TR_NO_SLOT)
				keep(repair, &message);
		}
	}
	write_batch(repair);
	if (repair->err == TR_OK) /* what was lost is counted; it also proves the groups before it */
		repair->err = group_write(repair->to, NULL, NULL, 0, true);
	if (repair->err == TR_OK && tr_file->sync_dir(repair->to->data) < 0)
		repair->err = TR_EIO;
	return repair->err;
}

/* Of the new log as of the old one: the size that most of its segments have, or the next that may be configured. Some
 * may have been made for one group; one without a header is as large as its file, which may have been cut. */
static uint64_t
segment_bytes(const struct tr_spool *from)
{
	uint64_t best = 0, most = 0;

	for (uint64_t bytes = 4096; bytes <= SEG_MAX; bytes *= 2) {
		uint64_t count = 0;

		for (uint64_t number = from->oldest; number <= from->newest; number++) {
			const struct segment *segment = from->ring[number & (from->ring_cap - 1)];

			if (segment == NULL || (segment->bytes <= bytes / 2 && bytes > 4096) ||
				(segment->bytes > bytes && bytes < SEG_MAX))
				continue;
			count += segment->bytes == bytes ? 1000 : 1;
		}
		if (count > most) {
			most = count;
			best = bytes;
		}
	}
	return best;
}

static int
write_new(struct repair *repair, const char *meta, const char *data)
{
	struct tr_spool *from = repair->from;
	struct tr_spool_config config = {.meta_path = meta,
		.data_path = data,
		.first_segment = from->next_number,
		.segment_bytes = segment_bytes(from)};
	char *error = NULL;
	int err = spool_open(&config, false, &repair->to, &error);

	free(error);
	if (err != TR_OK)
		return err;
	repair->to->log = from->log;
	err = copy_ledger(repair);
	if (err == TR_OK)
		err = spares_start(repair->to);
	if (err == TR_OK)
		err = visit(repair);
	tr_spool_close(repair->to);
	return err;
}

/* --- in place: new segments into META, old ones aside ---------------------------------------------------- */

struct mover {
	const char *from, *to;
};

static int
move_one(void *arg, const char *name)
{
	struct mover *mover = arg;
	size_t len = strlen(name);
	char *from, *to;
	int err;

	if (len < 4 || strcmp(name + len - 4, ".seg") != 0)
		return 0;
	from = spool_path(mover->from, name);
	to = spool_path(mover->to, name);
	err = from == NULL || to == NULL ? -ENOMEM : tr_file->rename(from, to);
	free(from);
	free(to);
	return err;
}

static int
move_all(const char *from, const char *to)
{
	struct mover mover = {.from = from, .to = to};
	int err = tr_file->list(from, move_one, &mover);

	if (err >= 0)
		err = tr_file->sync_dir(to);
	if (err >= 0)
		err = tr_file->sync_dir(from);
	return err < 0 ? TR_EIO : TR_OK;
}

static int
swap_in(struct repair *repair, const char *fresh, int64_t now, struct tr_buf *out)
{
	const char *meta = repair->from->meta;
	char *before = NULL, *lock = NULL;
	int err = TR_ENOMEM;

	if (asprintf(&before, "%s/before-repair-%" PRId64, meta, now) < 0)
		return TR_ENOMEM;
	if (tr_file->mkdir(before, 0700) < 0) {
		err = TR_EIO;
		goto end;
	}
	err = move_all(meta, before);
	if (err == TR_OK)
		err = move_all(fresh, meta);
	if (err == TR_OK) {
		lock = spool_path(fresh, "lock");
		if (lock != NULL)
			tr_file->unlink(lock); /* the empty directory stays if this fails: nobody reads it */
		rmdir(fresh);
		tr_buf_addf(out, "the old segments are in %s\n", before);
	}
end:
	free(before);
	free(lock);
	return err;
}

static int
report(struct tr_spool *from, int err, const char *what, char **error)
{
	if (error != NULL && asprintf(error, "%s: %s", what, tr_err_text(err)) < 0)
		*error = NULL;
	tr_spool_close(from);
	return err;
}

int
tr_spool_repair(const char *meta_path, const char *data_path, const char *target, struct tr_buf *out, char **error)
{
	struct tr_spool_config config = {.meta_path = meta_path, .data_path = data_path};
	struct repair *repair;
	char *meta = NULL, *data = NULL;
	struct stat st;
	int64_t now = tr_wall_ms();
	int err;

	if (error != NULL)
		*error = NULL;
	if (target != NULL && tr_file->stat(target, &st) == 0) {
		if (error != NULL && asprintf(error, "%s: exists already; name a directory that does not", target) < 0)
			*error = NULL;
		return TR_EEXIST;
	}
	repair = calloc(1, sizeof *repair);
	if (repair == NULL)
		return TR_ENOMEM;
	err = spool_open(&config, true, &repair->from, error);
	if (err != TR_OK) {
		free(repair);
		return err;
	}
	err = tr_spool_recover(repair->from, NULL, NULL, NULL);
	if (err == TR_OK &&
		(target != NULL ? asprintf(&meta, "%s/meta", target) < 0 || asprintf(&data, "%s/data", target) < 0
				: asprintf(&meta, "%s/repair-%" PRId64, meta_path, now) < 0))
		err = TR_ENOMEM;
	repair->copy_bodies = target != NULL;
	if (err == TR_OK)
		err = write_new(repair, meta, data != NULL ? data : meta);
	if (err == TR_OK && target == NULL)
		err = swap_in(repair, meta, now, out);
	if (err == TR_OK) {
		tr_buf_addf(out, "%" PRIu64 " messages kept, %" PRIu64 " lost\n", repair->kept, repair->lost);
		tr_spool_close(repair->from);
	} else {
		report(repair->from, err, meta != NULL ? meta : meta_path, error);
	}
	free(meta);
	free(data);
	free(repair);
	return err;
}
