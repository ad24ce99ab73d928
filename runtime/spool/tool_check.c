/* `tailrace spool check` and `stat`: reads a stopped spool as a start would, and writes nothing. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/json.h"
#include "spool/internal.h"
#include "spool/tool.h"

struct check {
	struct tr_spool *spool;
	struct tr_buf *out;
	bool json;
	uint64_t bad_bodies, bad_frames;
};

static void
damage_line(void *arg, const struct segment *segment, uint64_t offset, uint64_t len)
{
	struct check *check = arg;

	if (check->json)
		tr_buf_addf(check->out, "{\"damage\":{\"file\":\"%s\",\"offset\":%" PRIu64 ",\"bytes\":%" PRIu64 "}}\n",
			segment->name, offset, len);
	else
		tr_buf_addf(check->out, "damage: %s, %" PRIu64 " bytes at offset %" PRIu64 "\n", segment->name, len,
			offset);
}

static int
open_stopped(const char *meta_path, const char *data_path, struct tr_spool **out, char **error)
{
	struct tr_spool_config config = {.meta_path = meta_path, .data_path = data_path};
	int err = spool_open(&config, true, out, error);

	if (err != TR_OK && error != NULL && *error == NULL &&
		asprintf(error, "%s: %s", meta_path, tr_err_text(err)) < 0)
		*error = NULL;
	return err;
}

static int
fail(struct tr_spool *spool, int err, char **error)
{
	if (error != NULL && asprintf(error, "%s: %s", spool->meta, tr_err_text(err)) < 0)
		*error = NULL;
	tr_spool_close(spool);
	return err;
}

static void
check_body(struct check *check, uint64_t seq, const struct put_prefix *prefix)
{
	struct tr_blob *body = NULL;
	char name[40];
	int err = body_read(check->spool, prefix->body_file, prefix->body_len, &body);

	tr_blob_unref(body);
	if (err == TR_OK)
		return;
	check->bad_bodies++;
	body_name(prefix->body_file, name);
	tr_buf_addf(check->out,
		check->json ? "{\"damage\":{\"file\":\"%s\",\"seq\":%" PRIu64 "}}\n"
			    : "damage: body %s of message %" PRIu64 " is missing or damaged\n",
		name, seq);
}

static void
check_one(void *arg, const struct tr_recovered *message)
{
	struct check *check = arg;
	struct put_prefix prefix;
	struct tr_str payload, queue, opaque;
	struct tr_message *decoded = NULL;
	struct tr_blob *blob = NULL;
	char *data;
	int err = load_payload(check->spool, message->slot, &data, &payload);

	if (err == TR_OK)
		err = put_parse(payload, &prefix, &queue, &opaque) ? TR_OK : TR_ECORRUPT;
	if (err == TR_OK) {
		blob = tr_blob_new(opaque.data, opaque.len);
		err = blob == NULL ? TR_ENOMEM
				   : tr_message_decode(blob, (struct tr_str){blob->data, blob->len}, &decoded);
	}
	tr_message_free(decoded);
	tr_blob_unref(blob);
	free(data);
	if (err != TR_OK) {
		check->bad_frames++;
		tr_buf_addf(check->out,
			check->json ? "{\"damage\":{\"seq\":%" PRIu64 ",\"error\":\"%s\"}}\n"
				    : "damage: message %" PRIu64 " cannot be read: %s\n",
			tr_spool_stub(check->spool, message->slot)->seq,
			check->json ? tr_err_name(err) : tr_err_text(err));
	}
	if (err == TR_OK && prefix.body_file != 0)
		check_body(check, tr_spool_stub(check->spool, message->slot)->seq, &prefix);
}

static void
summary(struct check *check, const struct tr_recovery *stats, int64_t ledger_loss)
{
	const struct tr_spool *spool = check->spool;

	tr_buf_addf(check->out,
		check->json ? "{\"segments\":%" PRIu64 ",\"missing_segments\":%" PRIu64 ",\"frames\":%" PRIu64
			      ",\"messages\":%" PRIu64 ",\"damaged_frames\":%" PRIu64 ",\"damaged_bytes\":%" PRIu64
			      ",\"torn_bytes\":%" PRIu64 ",\"orphan_bodies\":%" PRIu64 ",\"ledger_difference\":%" PRId64
			      "}\n"
			    : "%" PRIu64 " segments (%" PRIu64 " missing), %" PRIu64 " frames, %" PRIu64
			      " messages waiting\n%" PRIu64 " damaged frames, %" PRIu64 " damaged bytes\n%" PRIu64
			      " bytes of a group that was never committed (no damage), %" PRIu64
			      " body files that nobody names\nledger: %" PRId64
			      " messages or recipients unaccounted for\n",
		stats->segments, spool->missing, stats->frames, stats->messages,
		stats->damaged_frames + check->bad_frames, stats->damaged_bytes, stats->torn_bytes,
		stats->orphan_bodies, ledger_loss);
}

int
tr_spool_check(const char *meta_path, const char *data_path, bool json, struct tr_buf *out, char **error)
{
	struct check check = {.out = out, .json = json};
	struct tr_recovery stats = {0};
	int64_t loss = 0;
	bool sound;
	int err = open_stopped(meta_path, data_path, &check.spool, error);

	if (err != TR_OK)
		return err;
	check.spool->on_damage = damage_line;
	check.spool->on_damage_arg = &check;
	err = tr_spool_recover(check.spool, check_one, &check, &stats);
	if (err != TR_OK)
		return fail(check.spool, err, error);
	for (uint32_t i = 0; i < check.spool->account_count; i++)
		loss += llabs(check.spool->accounts[i].settled);
	summary(&check, &stats, loss);
	sound = stats.damaged_frames == 0 && check.bad_bodies == 0 && check.bad_frames == 0 && loss == 0;
	if (!json)
		tr_buf_addz(out, sound ? "sound\n"
				       : "damaged: a start sets the damage aside; `tailrace spool repair` writes "
					 "a clean log\n");
	tr_spool_close(check.spool);
	return sound ? TR_OK : TR_ECORRUPT;
}

/* --- stat -------------------------------------------------------------------------------------------------- */

struct tally {
	struct names queues;
	uint64_t *messages, *bytes;
	uint32_t cap;
	struct tr_spool *spool;
	int64_t oldest_ms;
	bool failed;
};

static void
tally_one(void *arg, const struct tr_recovered *message)
{
	struct tally *tally = arg;
	const struct tr_stub *stub = tr_spool_stub(tally->spool, message->slot);
	uint32_t queue = names_intern(&tally->queues, message->queue);

	if (queue != UINT32_MAX && queue >= tally->cap) {
		uint32_t cap = tally->queues.cap;
		uint64_t *messages = realloc(tally->messages, cap * sizeof *messages), *bytes;

		tally->messages = messages != NULL ? messages : tally->messages;
		bytes = messages == NULL ? NULL : realloc(tally->bytes, cap * sizeof *bytes);
		tally->bytes = bytes != NULL ? bytes : tally->bytes;
		if (bytes == NULL) {
			tally->failed = true;
			return;
		}
		memset(messages + tally->cap, 0, (cap - tally->cap) * sizeof *messages);
		memset(bytes + tally->cap, 0, (cap - tally->cap) * sizeof *bytes);
		tally->cap = cap;
	}
	if (queue == UINT32_MAX) {
		tally->failed = true;
		return;
	}
	tally->messages[queue]++;
	tally->bytes[queue] += stub->size;
	if (tally->oldest_ms == 0 || tr_stub_created_ms(stub) < tally->oldest_ms)
		tally->oldest_ms = tr_stub_created_ms(stub);
}

static void
print_tally(const struct tally *tally, const struct tr_recovery *stats, bool json, struct tr_buf *out)
{
	struct tr_spool_figures figures;
	char oldest[32] = "";

	tr_spool_figures(tally->spool, &figures);
	if (tally->oldest_ms > 0)
		tr_rfc3339(tally->oldest_ms * TR_NS_PER_MS, oldest);
	tr_buf_addf(out,
		json ? "{\"messages\":%" PRIu64 ",\"live_bytes\":%" PRIu64 ",\"log_bytes\":%" PRIu64
		       ",\"segments\":%" PRIu64 ",\"damaged_frames\":%" PRIu64 ",\"oldest\":\"%s\"}\n"
		     : "messages waiting %" PRIu64 "\nlive bytes       %" PRIu64 "\nlog bytes        %" PRIu64
		       "\nsegments         %" PRIu64 "\ndamaged frames   %" PRIu64 "\noldest message   %s\n",
		figures.live_messages, figures.live_bytes, figures.log_bytes, figures.segments, stats->damaged_frames,
		oldest);
	for (uint32_t i = 0; i < tally->queues.count; i++) {
		struct tr_str name = tally->queues.names[i];

		if (json) {
			tr_buf_addz(out, "{\"queue\":");
			tr_json_add_string(out, name);
			tr_buf_addf(out, ",\"messages\":%" PRIu64 ",\"bytes\":%" PRIu64 "}\n", tally->messages[i],
				tally->bytes[i]);
		} else {
			tr_buf_addf(out, "%10" PRIu64 " messages %14" PRIu64 " bytes  %s\n", tally->messages[i],
				tally->bytes[i], name.len > 0 ? name.data : "(undecided)");
		}
	}
}

int
tr_spool_stat(const char *meta_path, const char *data_path, bool json, struct tr_buf *out, char **error)
{
	struct tally tally = {0};
	struct tr_recovery stats = {0};
	struct tr_ledger ledger = {0};
	int err = open_stopped(meta_path, data_path, &tally.spool, error);

	if (err != TR_OK)
		return err;
	err = tr_spool_recover(tally.spool, tally_one, &tally, &stats);
	if (err == TR_OK && tally.failed)
		err = TR_ENOMEM;
	if (err == TR_OK)
		err = tr_spool_ledger(tally.spool, &ledger);
	if (err == TR_OK) {
		print_tally(&tally, &stats, json, out);
		if (json) {
			tr_buf_addz(out, "{\"ledger\":");
			tr_ledger_json(&ledger, out);
			tr_buf_addz(out, "}\n");
		} else {
			tr_ledger_print(&ledger, out);
		}
	}
	tr_ledger_fini(&ledger);
	names_fini(&tally.queues);
	free(tally.messages);
	free(tally.bytes);
	if (err != TR_OK)
		return fail(tally.spool, err, error);
	tr_spool_close(tally.spool);
	return stats.damaged_frames == 0 ? TR_OK : TR_ECORRUPT;
}

/* --- dump --------------------------------------------------------------------------------------------------- */

struct dump {
	struct tr_spool *spool;
	bool bodies;
	int (*emit)(void *arg, struct tr_str line);
	void *arg;
	struct tr_buf line;
	int err;
};

static void
add_base64(struct tr_buf *out, struct tr_str bytes)
{
	static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
	const unsigned char *at = (const unsigned char *)bytes.data;

	for (size_t i = 0; i < bytes.len; i += 3) {
		size_t left = bytes.len - i;
		uint32_t word =
			(uint32_t)at[i] << 16 | (left > 1 ? (uint32_t)at[i + 1] << 8 : 0) | (left > 2 ? at[i + 2] : 0);

		tr_buf_addc(out, digits[word >> 18]);
		tr_buf_addc(out, digits[word >> 12 & 63]);
		tr_buf_addc(out, left > 1 ? digits[word >> 6 & 63] : '=');
		tr_buf_addc(out, left > 2 ? digits[word & 63] : '=');
	}
}

static void
add_message(struct dump *dump, const struct tr_message *message, uint32_t slot)
{
	struct tr_buf *out = &dump->line;
	const struct tr_stub *stub = tr_spool_stub(dump->spool, slot);
	char hex[33], due[32] = "", created[32] = "";

	tr_uuid_hex(message->id, hex);
	tr_rfc3339(message->due_ms * TR_NS_PER_MS, due);
	tr_rfc3339(tr_stub_created_ms(stub) * TR_NS_PER_MS, created);
	tr_buf_addf(out, "{\"id\":\"%s\",\"seq\":%" PRIu64 ",\"queue\":", hex, stub->seq);
	tr_json_add_string(out, tr_str(message->queue != NULL ? message->queue : ""));
	tr_buf_addf(out,
		",\"created\":\"%s\",\"due\":\"%s\",\"attempts\":%u,\"flags\":%u,\"size\":%" PRIu32 ",\"account\":",
		created, due, message->attempts, message->flags, stub->size);
	tr_json_add_string(
		out, tr_str(message->account < dump->spool->account_count ? dump->spool->accounts[message->account].name
									  : ""));
	tr_buf_addz(out, ",\"sender\":");
	tr_json_add_string(out, tr_addr_str(&message->sender));
	tr_buf_addz(out, ",\"recipients\":[");
	for (uint32_t i = 0; i < message->rcpt_count; i++) {
		if (i > 0)
			tr_buf_addc(out, ',');
		tr_json_add_string(out, tr_addr_str(&message->rcpts[i]));
	}
	tr_buf_addz(out, "],\"meta\":");
	tr_meta_json(&message->meta, out);
	if (dump->bodies) {
		struct tr_bytes data = {0};

		tr_buf_addz(out, ",\"body_base64\":\"");
		if (tr_message_data(message, &data) == TR_OK)
			add_base64(out, tr_bytes_str(&data));
		tr_bytes_fini(&data);
		tr_buf_addc(out, '"');
	}
	tr_buf_addc(out, '}');
}

static void
dump_one(void *arg, const struct tr_recovered *recovered)
{
	struct dump *dump = arg;
	struct tr_message *message;
	int err;

	if (dump->err != TR_OK)
		return;
	tr_buf_clear(&dump->line);
	err = load_message(dump->spool, recovered->slot, !dump->bodies, &message);
	if (err == TR_OK) {
		add_message(dump, message, recovered->slot);
		tr_message_free(message);
	} else {
		tr_buf_addf(&dump->line, "{\"seq\":%" PRIu64 ",\"error\":\"%s\"}",
			tr_spool_stub(dump->spool, recovered->slot)->seq, tr_err_name(err));
	}
	dump->err =
		dump->line.failed ? TR_ENOMEM : dump->emit(dump->arg, (struct tr_str){dump->line.data, dump->line.len});
}

int
tr_spool_dump(const char *meta_path, const char *data_path, bool bodies, int (*emit)(void *arg, struct tr_str line),
	void *arg, char **error)
{
	struct dump dump = {.bodies = bodies, .emit = emit, .arg = arg};
	struct tr_recovery stats = {0};
	int err = open_stopped(meta_path, data_path, &dump.spool, error);

	if (err != TR_OK)
		return err;
	err = tr_spool_recover(dump.spool, dump_one, &dump, &stats);
	if (err == TR_OK)
		err = dump.err;
	tr_buf_free(&dump.line);
	if (err != TR_OK)
		return fail(dump.spool, err, error);
	tr_spool_close(dump.spool);
	return stats.damaged_frames == 0 ? TR_OK : TR_ECORRUPT;
}
