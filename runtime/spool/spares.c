/* Spare segment files, zero-filled ahead by a thread of its own so that the commit thread never waits for one
 * in good times. The last ones are the reserve: with a full disk outcomes still find a place. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "spool/internal.h"

#define STEP_BYTES (UINT64_C(4) << 20) /* so that a stop is seen while a file is filled */
#define SPARES_MORE 3                  /* kept beyond the reserve; others are unlinked */

static bool
stopping(struct tr_spool *spool)
{
	bool stop;

	pthread_mutex_lock(&spool->spare_mu);
	stop = spool->keeper_stop;
	pthread_mutex_unlock(&spool->spare_mu);
	return stop;
}

static int
fill(struct tr_spool *spool, struct segment *segment)
{
	uint64_t size = 0, full = SEG_HEADER + segment->bytes;
	int err = 0;

	while (size < full && err == 0) {
		if (stopping(spool))
			return -ECANCELED;
		tr_pulse_work();
		size += STEP_BYTES;
		if (size > full)
			size = full;
		err = tr_file->allocate(segment->fd, (off_t)size);
	}
	tr_pulse_work();
	return err < 0 ? err : tr_file->fdatasync(segment->fd);
}

/* Makes one file with room for `bytes`; the result is a tr_err. */
static int
make(struct tr_spool *spool, uint64_t bytes, struct segment **out)
{
	char name[40];
	struct segment *segment;
	uint64_t serial;
	char *path;
	int err;

	*out = NULL;
	pthread_mutex_lock(&spool->spare_mu);
	serial = spool->spare_serial++;
	pthread_mutex_unlock(&spool->spare_mu);
	snprintf(name, sizeof name, "spare-%016" PRIx64 ".seg", serial);
	segment = segment_new(name);
	path = spool_path(spool->meta, name);
	if (segment == NULL || path == NULL) {
		free(segment);
		free(path);
		return TR_ENOMEM;
	}
	segment->bytes = bytes;
	err = segment->fd = tr_file->open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (err >= 0)
		err = fill(spool, segment);
	if (err >= 0)
		err = tr_file->sync_dir(spool->meta);
	if (err < 0) {
		if (segment->fd >= 0)
			tr_file->unlink(path);
		segment_unref(spool, segment);
		free(path);
		return err == -ECANCELED ? TR_ECANCELED : disk_error(err);
	}
	free(path);
	*out = segment;
	return TR_OK;
}

/* A directory that was moved away or removed: the open segments can still be written, but nobody would find them. */
static void
place_check(struct tr_spool *spool)
{
	const char *dirs[] = {spool->meta, spool->data};
	bool gone = false;

	for (int i = 0; i < 2 && !gone; i++) {
		char *path = spool_path(dirs[i], "lock");
		const struct file_id *id = &spool->lock_files[i];
		struct stat st;
		int err = path == NULL || id->ino == 0 ? -ENOMEM : tr_file->stat(path, &st);

		free(path);
		gone = err == -ENOENT || err == -ENOTDIR ||
		       (err == 0 && (st.st_dev != id->dev || st.st_ino != id->ino));
		if (gone && !atomic_load(&spool->gone))
			tr_log(TR_LEVEL_ERROR, "spool",
				"%s is gone (moved, removed or mounted over): nothing new is taken until it is back",
				dirs[i]);
	}
	if (!gone && atomic_load(&spool->gone))
		tr_log(TR_LEVEL_INFO, "spool", "%s is back: mail is taken", spool->meta);
	atomic_store(&spool->gone, gone);
}

int
tr_spool_watch(struct tr_spool *spool, const char *dir, const struct tr_space_limit *space,
	const struct tr_space_limit *inodes)
{
	struct watched *watched = calloc(1, sizeof *watched);

	if (watched == NULL)
		return TR_ENOMEM;
	watched->dir = strdup(dir);
	if (watched->dir == NULL) {
		free(watched);
		return TR_ENOMEM;
	}
	watched->space = *space;
	watched->inodes = *inodes;
	watched->next = spool->watched;
	spool->watched = watched;
	return TR_OK;
}

void
watched_free(struct tr_spool *spool)
{
	while (spool->watched != NULL) {
		struct watched *watched = spool->watched;

		spool->watched = watched->next;
		free(watched->dir);
		free(watched);
	}
}

static bool
has_space(const char *dir, const struct tr_space_limit *bytes, const struct tr_space_limit *inodes)
{
	struct tr_file_space space;

	if (tr_file->space(dir, &space) < 0)
		return true; /* a write will tell */
	return tr_space_ok(bytes, space.free_bytes, space.total_bytes) &&
	       (space.total_inodes == 0 || /* some file systems have no such limit */
		       tr_space_ok(inodes, space.free_inodes, space.total_inodes));
}

void
space_check(struct tr_spool *spool)
{
	bool ok = has_space(spool->meta, &spool->config.min_free_space, &spool->config.min_free_inodes) &&
		  has_space(spool->data, &spool->config.min_free_space, &spool->config.min_free_inodes);

	place_check(spool);
	for (const struct watched *watched = spool->watched; ok && watched != NULL; watched = watched->next)
		ok = has_space(watched->dir, &watched->space, &watched->inodes);
	if (ok == atomic_load(&spool->no_space))
		tr_log(ok ? TR_LEVEL_INFO : TR_LEVEL_WARN, "spool",
			ok ? "enough free space again: mail is taken" : "too little free space: nothing new is taken");
	atomic_store(&spool->no_space, !ok);
}

static void
add_spare(struct tr_spool *spool, struct segment *segment)
{
	segment->next = spool->spares;
	spool->spares = segment;
	spool->spare_count++;
	atomic_store_explicit(&spool->n.free_segments, spool->spare_count, memory_order_relaxed);
	if (spool->spare_count > spool->reserve)
		atomic_store(&spool->full, false);
}

static void
unlink_dropped(struct tr_spool *spool)
{
	struct segment *segment;

	while ((segment = spool->dropped) != NULL) { /* spare_mu is held here, and let go for the work */
		char *path;

		spool->dropped = segment->next;
		pthread_mutex_unlock(&spool->spare_mu);
		path = spool_path(spool->meta, segment->name);
		if (path != NULL)
			tr_file->unlink(path); /* if it fails, the next start finds the file */
		free(path);
		segment_unref(spool, segment);
		pthread_mutex_lock(&spool->spare_mu);
	}
}

/* One more, with spare_mu held but for the work. */
static void
make_one(struct tr_spool *spool)
{
	struct segment *segment;
	int err;

	pthread_mutex_unlock(&spool->spare_mu);
	err = make(spool, spool->config.segment_bytes, &segment);
	pthread_mutex_lock(&spool->spare_mu);
	if (err != TR_OK && err != TR_ECANCELED && spool->spare_error == TR_OK)
		tr_log(TR_LEVEL_WARN, "spool", "%s: no segment can be made ahead: %s", spool->meta, tr_err_text(err));
	spool->spare_error = err;
	spool->spare_tries++;
	if (segment != NULL)
		add_spare(spool, segment);
	pthread_cond_broadcast(&spool->spare_wake);
}

static void
make_missing(struct tr_spool *spool)
{
	do {
		make_one(spool);
	} while (spool->spare_error == TR_OK && spool->spare_count <= spool->reserve);
}

void
spares_make(struct tr_spool *spool)
{
	pthread_mutex_lock(&spool->spare_mu);
	unlink_dropped(spool);
	if (spool->spare_count <= spool->reserve)
		make_missing(spool);
	pthread_mutex_unlock(&spool->spare_mu);
}

void
spares_make_if_well(struct tr_spool *spool)
{
	pthread_mutex_lock(&spool->spare_mu);
	unlink_dropped(spool);
	if (spool->spare_count <= spool->reserve && spool->spare_error == TR_OK)
		make_missing(spool);
	pthread_mutex_unlock(&spool->spare_mu);
}

static void *
keeper_main(void *arg)
{
	struct tr_spool *spool = arg;
	struct tr_pulse pulse;

	pthread_setname_np(pthread_self(), "spool-keeper");
	tr_pulse_enter(&pulse, "the keeper of spare segments", STUCK_AT);
	pthread_mutex_lock(&spool->spare_mu);
	while (!spool->keeper_stop) {
		struct timespec until;

		tr_pulse_work();
		unlink_dropped(spool);
		if (spool->spare_count <= spool->reserve && !spool->keeper_stop && !spool->keeper_rests) {
			make_one(spool);
			if (spool->spare_error == TR_OK)
				continue;
		}
		clock_gettime(CLOCK_MONOTONIC, &until); /* threads wait in real time */
		until.tv_sec += 1;
		tr_pulse_rest();
		if (!spool->keeper_stop && spool->dropped == NULL)
			pthread_cond_timedwait(&spool->spare_wake, &spool->spare_mu, &until);
		tr_pulse_work();
		pthread_mutex_unlock(&spool->spare_mu);
		space_check(spool);
		pthread_mutex_lock(&spool->spare_mu);
	}
	unlink_dropped(spool);
	pthread_mutex_unlock(&spool->spare_mu);
	tr_pulse_leave(&pulse);
	return NULL;
}

int
spares_start(struct tr_spool *spool)
{
	if (spool->config.inline_io)
		return TR_OK;
	if (pthread_create(&spool->keeper, NULL, keeper_main, spool) != 0)
		return TR_ENOMEM;
	spool->keeper_runs = true;
	return TR_OK;
}

void
spares_stop(struct tr_spool *spool)
{
	struct segment *segment;

	if (spool->keeper_runs) {
		pthread_mutex_lock(&spool->spare_mu);
		spool->keeper_stop = true;
		pthread_cond_broadcast(&spool->spare_wake);
		pthread_mutex_unlock(&spool->spare_mu);
		tr_pulse_join(spool->keeper);
		spool->keeper_runs = false;
	}
	while ((segment = spool->spares) != NULL) {
		spool->spares = segment->next;
		segment_unref(spool, segment);
	}
	while ((segment = spool->dropped) != NULL) {
		spool->dropped = segment->next;
		segment_unref(spool, segment);
	}
}

/* How many spares must stay; with spare_mu held. */
static uint32_t
to_keep(const struct tr_spool *spool, bool outcome)
{
	/* the first segment after a start may use what the keeper is still filling up */
	return outcome || spool->current == NULL ? 0 : spool->reserve;
}

/* Until there are `count` spares, with spare_mu held. TR_OK, or why there are not. */
static int
wait_for(struct tr_spool *spool, uint32_t count, bool outcome)
{
	uint64_t tries = spool->spare_tries;
	int err = TR_OK;

	if (spool->config.inline_io && spool->spare_count < count && (outcome || !atomic_load(&spool->full))) {
		make_missing(spool);
		tries = 0;
	}
	while (spool->spare_count < count) {
		/* a full disk is tried once a second by the keeper, not once a group */
		if (spool->spare_tries > tries || (atomic_load(&spool->full) && !outcome)) {
			err = spool->spare_error != TR_OK ? spool->spare_error : TR_ENOSPC;
			if (spool->spare_error != TR_OK || atomic_load(&spool->full) || spool->config.inline_io)
				break;
		}
		tries = spool->spare_tries;
		pthread_cond_broadcast(&spool->spare_wake);
		tr_pulse_rest(); /* the keeper has a pulse */
		pthread_cond_wait(&spool->spare_wake, &spool->spare_mu);
		tr_pulse_work();
	}
	if (spool->spare_count >= count)
		return TR_OK;
	if (!outcome) {
		atomic_store(&spool->full_error, err);
		atomic_store(&spool->full, true);
	}
	return err;
}

/* With spare_mu held, and one there. */
static struct segment *
pop(struct tr_spool *spool)
{
	struct segment *segment = spool->spares;

	spool->spares = segment->next;
	segment->next = NULL;
	spool->spare_count--;
	atomic_store_explicit(&spool->n.free_segments, spool->spare_count, memory_order_relaxed);
	return segment;
}

int
spare_take(struct tr_spool *spool, bool outcome, struct segment **out)
{
	int err;

	*out = NULL;
	pthread_mutex_lock(&spool->spare_mu);
	err = wait_for(spool, to_keep(spool, outcome) + 1, outcome);
	if (err == TR_OK) {
		*out = pop(spool);
		pthread_cond_broadcast(&spool->spare_wake);
	}
	pthread_mutex_unlock(&spool->spare_mu);
	return err;
}

/* Is there space for so many bytes more, and for what is to be left free? */
static bool
leaves_space(const struct tr_spool *spool, uint64_t bytes)
{
	const struct tr_space_limit *limit = &spool->config.min_free_space;
	struct tr_file_space space;

	if (tr_file->space(spool->meta, &space) < 0)
		return true; /* a write will tell */
	return space.free_bytes >= bytes && tr_space_ok(limit, space.free_bytes - bytes, space.total_bytes);
}

/* A spare goes if there will be space for so many bytes when all have gone. */
static bool
make_way(struct tr_spool *spool, uint64_t bytes)
{
	struct tr_file_space space;
	struct segment *segment = NULL;

	if (tr_file->space(spool->meta, &space) < 0)
		return false;
	pthread_mutex_lock(&spool->spare_mu);
	if (spool->spare_count > 0 &&
		space.free_bytes + spool->spare_count * (SEG_HEADER + spool->config.segment_bytes) >= bytes)
		segment = pop(spool);
	if (segment != NULL) {
		segment->next = spool->dropped;
		spool->dropped = segment;
		unlink_dropped(spool);
	}
	pthread_mutex_unlock(&spool->spare_mu);
	return segment != NULL;
}

static void
rest_keeper(struct tr_spool *spool, bool rests)
{
	pthread_mutex_lock(&spool->spare_mu);
	spool->keeper_rests = rests;
	pthread_cond_broadcast(&spool->spare_wake);
	pthread_mutex_unlock(&spool->spare_mu);
}

int
spare_make_large(struct tr_spool *spool, uint64_t bytes, bool outcome, struct segment **out)
{
	uint64_t size = SEG_HEADER + bytes;
	int err;

	*out = NULL;
	pthread_mutex_lock(&spool->spare_mu);
	err = wait_for(spool, to_keep(spool, outcome), outcome);
	pthread_mutex_unlock(&spool->spare_mu);
	if (err == TR_OK && !outcome && !leaves_space(spool, size))
		err = TR_ENOSPC;
	if (err == TR_OK && outcome)
		rest_keeper(spool, true); /* it would take what spares leave */
	while (err == TR_OK) {
		err = make(spool, bytes, out);
		if (err == TR_ENOSPC && outcome && make_way(spool, size))
			err = TR_OK;
		else
			break;
	}
	if (outcome)
		rest_keeper(spool, false);
	if (err != TR_OK && !atomic_load(&spool->failing)) /* else it was told */
		tr_log(TR_LEVEL_WARN, "spool", "%s: no segment of %" PRIu64 " bytes can be made for one change: %s",
			spool->meta, bytes, tr_err_text(err));
	return err;
}

void
spare_give(struct tr_spool *spool, struct segment *segment)
{
	atomic_fetch_sub_explicit(&spool->n.slot_bytes, segment->cap * sizeof *segment->slots, memory_order_relaxed);
	free(segment->slots); /* loaders never look at it */
	segment->slots = NULL;
	segment->holds_log = false;
	segment->cap = segment->puts = segment->live = 0;
	segment->live_bytes = 0;
	pthread_mutex_lock(&spool->spare_mu);
	if (segment->failed || segment->bytes != spool->config.segment_bytes ||
		spool->spare_count >= spool->reserve + SPARES_MORE) {
		segment->next = spool->dropped;
		spool->dropped = segment;
	} else {
		add_spare(spool, segment);
	}
	pthread_cond_broadcast(&spool->spare_wake);
	pthread_mutex_unlock(&spool->spare_mu);
}
