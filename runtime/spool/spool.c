/* Opening, recovering and closing; figures. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "spool/internal.h"

static void
set_default(uint64_t *value, uint64_t standard)
{
	if (*value == 0)
		*value = standard;
}

static bool
config_init(struct tr_spool_config *config)
{
	set_default(&config->segment_bytes, UINT64_C(64) << 20);
	set_default(&config->change_bytes, UINT64_C(256) << 20);
	set_default(&config->group_bytes, UINT64_C(4) << 20);
	set_default(&config->pending_bytes, UINT64_C(64) << 20);
	set_default(&config->reserve_bytes, 2 * config->segment_bytes);
	set_default(&config->floor_bytes, 4 * config->segment_bytes);
	set_default(&config->first_segment, 1);
	if (config->pace_ns == 0)
		config->pace_ns = 10 * TR_NS_PER_MS;
	if (config->urgent_gap_ns == 0)
		config->urgent_gap_ns = TR_NS_PER_MS;
	if (config->body_file_bytes == 0)
		config->body_file_bytes = 256 << 10;
	if (config->loaders == 0)
		config->loaders = 2;
	if (config->first_generation == 0)
		config->first_generation = 1;
	if (config->min_free_space.percent == 0 && config->min_free_space.bytes == 0)
		config->min_free_space.percent = 10;
	if (config->min_free_inodes.percent == 0 && config->min_free_inodes.bytes == 0)
		config->min_free_inodes.percent = 10;
	return config->segment_bytes >= 4096 && config->segment_bytes <= SEG_MAX &&
	       (config->segment_bytes & (config->segment_bytes - 1)) == 0 && config->change_bytes <= CHANGE_MAX &&
	       config->loaders <= 64;
}

static int
complain(char **error, int err, const char *path, const char *what)
{
	if (asprintf(error, "%s: %s", path, what) < 0)
		*error = NULL;
	return err;
}

/* Takes the lock of one directory. */
static int
lock_dir(const char *dir, int *fd, struct file_id *id, char **error)
{
	char *path = spool_path(dir, "lock");
	struct stat st;
	int err;

	if (path == NULL)
		return TR_ENOMEM;
	*fd = tr_file->open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (*fd < 0) {
		err = complain(error, tr_err_from_errno(-*fd), path, tr_errno_text(*fd));
		*fd = -1;
	} else if ((err = tr_file->lock(*fd)) == -EWOULDBLOCK) {
		err = complain(error, TR_EAGAIN, path,
			"locked: another tailrace uses this spool; stop it first, or give this one a spool of its own");
	} else if (err < 0 || (err = tr_file->stat(path, &st)) < 0) {
		err = complain(error, TR_EIO, path, tr_errno_text(err));
	} else {
		*id = (struct file_id){st.st_dev, st.st_ino};
	}
	free(path);
	return err;
}

/* mkdir -p whose names survive a power cut. 0 or -errno. */
static int
make_dir(const char *path)
{
	const char *slash = strrchr(path, '/');
	char *parent = slash == NULL   ? strdup(".")
		       : slash == path ? strdup("/")
				       : strndup(path, (size_t)(slash - path));
	struct stat st;
	int err = parent == NULL ? -ENOMEM : tr_file->stat(path, &st);

	if (err == -ENOENT && *path != '\0') {
		err = make_dir(parent);
		if (err >= 0)
			err = tr_file->mkdir(path, 0700);
		if (err == -EEXIST)
			err = 0;
		if (err >= 0)
			err = tr_file->sync_dir(parent);
	}
	free(parent);
	return err;
}

static int
open_dirs(struct tr_spool *spool, char **error)
{
	const char *dirs[] = {spool->meta, spool->data};
	int err;

	for (int i = 0; i < 2; i++) {
		struct stat st;

		err = spool->read_only ? tr_file->stat(dirs[i], &st) : make_dir(dirs[i]);
		if (err < 0)
			return complain(
				error, err == -ENOENT ? TR_ENOENT : disk_error(err), dirs[i], tr_errno_text(err));
	}
	err = lock_dir(spool->meta, &spool->meta_lock, &spool->lock_files[0], error);
	if (err == TR_OK && strcmp(spool->meta, spool->data) != 0)
		err = lock_dir(spool->data, &spool->data_lock, &spool->lock_files[1], error);
	return err;
}

static void
locks_init(struct tr_spool *spool)
{
	pthread_condattr_t attr;

	pthread_mutex_init(&spool->segs_mu, NULL);
	pthread_mutex_init(&spool->spare_mu, NULL);
	pthread_mutex_init(&spool->slots_mu, NULL);
	pthread_mutex_init(&spool->extra_mu, NULL);
	pthread_mutex_init(&spool->body_mu, NULL);
	pthread_mutex_init(&spool->ledger_mu, NULL);
	pthread_mutex_init(&spool->nap_mu, NULL);
	pthread_mutex_init(&spool->port_mu, NULL);
	pthread_mutex_init(&spool->task_mu, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&spool->spare_wake, &attr);
	pthread_cond_init(&spool->nap_cond, &attr);
	pthread_cond_init(&spool->task_wake, &attr);
	pthread_condattr_destroy(&attr);
}

static void
locks_fini(struct tr_spool *spool)
{
	pthread_mutex_destroy(&spool->segs_mu);
	pthread_mutex_destroy(&spool->spare_mu);
	pthread_mutex_destroy(&spool->slots_mu);
	pthread_mutex_destroy(&spool->extra_mu);
	pthread_mutex_destroy(&spool->body_mu);
	pthread_mutex_destroy(&spool->ledger_mu);
	pthread_mutex_destroy(&spool->nap_mu);
	pthread_mutex_destroy(&spool->port_mu);
	pthread_mutex_destroy(&spool->task_mu);
	pthread_cond_destroy(&spool->spare_wake);
	pthread_cond_destroy(&spool->nap_cond);
	pthread_cond_destroy(&spool->task_wake);
}

static void
spool_free(struct tr_spool *spool)
{
	struct port *port;

	spares_stop(spool); /* it looks at the directories */
	inline_stop(spool);
	watched_free(spool);
	if (spool->ring != NULL)
		for (uint64_t i = 0; i < spool->ring_cap; i++)
			segment_unref(spool, spool->ring[i]);
	while (spool->retired != NULL) {
		struct segment *segment = spool->retired;

		spool->retired = segment->next;
		segment_unref(spool, segment);
	}
	while ((port = spool->ports) != NULL) {
		spool->ports = port->next;
		port_free_spare(port);
		free(port);
	}
	if (spool->meta_lock >= 0)
		tr_file->close(spool->meta_lock);
	if (spool->data_lock >= 0)
		tr_file->close(spool->data_lock);
	slots_fini(spool);
	bodies_fini(spool);
	locks_fini(spool);
	free(spool->ring);
	free(spool->accounts);
	free(spool->group_buf);
	free(spool->iov);
	free(spool->meta);
	free(spool->data);
	free(spool);
}

int
spool_open(const struct tr_spool_config *config, bool read_only, struct tr_spool **out, char **error)
{
	static _Atomic uint64_t ids = 1;
	struct tr_spool *spool = calloc(1, sizeof *spool);
	char *text = NULL;
	uint16_t mail;
	int err = TR_ENOMEM;

	*out = NULL;
	if (error != NULL)
		*error = NULL;
	if (spool == NULL)
		return TR_ENOMEM;
	locks_init(spool);
	spool->config = *config;
	spool->meta_lock = spool->data_lock = -1;
	spool->read_only = read_only;
	spool->id = atomic_fetch_add(&ids, 1);
	spool->oldest = 1; /* and newest 0: empty */
	spool->meta = strdup(config->meta_path);
	spool->data = strdup(config->data_path != NULL ? config->data_path : config->meta_path);
	if (spool->meta == NULL || spool->data == NULL || slots_init(spool) != TR_OK)
		goto fail;
	spool->config.meta_path = spool->meta;
	spool->config.data_path = spool->data;
	if (!config_init(&spool->config)) {
		err = complain(&text, TR_EINVAL, spool->meta,
			"segment_bytes must be a power of two from 4 KiB to 64 MiB, change_bytes at most 512 MiB, "
			"loaders at "
			"most 64");
		goto fail;
	}
	spool->reserve = (uint32_t)((spool->config.reserve_bytes + spool->config.segment_bytes - 1) /
				    spool->config.segment_bytes);
	err = open_dirs(spool, &text);
	if (err == TR_OK)
		err = tr_spool_account(spool, "mail", &mail);
	if (err == TR_OK)
		err = listing_read(spool, &spool->headless, &text);
	if (err != TR_OK)
		goto fail;
	if (spool->newest < spool->oldest) {
		spool->oldest = spool->next_number;
		spool->newest = spool->oldest - 1;
	}
	*out = spool;
	return TR_OK;
fail:
	spool_free(spool);
	if (error != NULL)
		*error = text;
	else
		free(text);
	return err;
}

int
tr_spool_open(const struct tr_spool_config *config, struct tr_spool **out, char **error)
{
	return spool_open(config, false, out, error);
}

/* What damage has done to an account: what was offered to a hook is what it has taken or filtered. */
static void
settle_offered(struct tr_account *account)
{
	int64_t *n = account->columns, all = n[TR_COL_ACCEPTED] + n[TR_COL_FILTERED];

	if (n[TR_COL_OFFERED] == 0 || n[TR_COL_OFFERED] == all)
		return;
	tr_log(TR_LEVEL_ERROR, "spool",
		"ledger of %s: %" PRId64 " offered, %" PRId64 " accepted or filtered: the damage has hit a count; "
		"offered is set right",
		account->name, n[TR_COL_OFFERED], all);
	n[TR_COL_OFFERED] = all;
}

/* What the live messages are worth against what the ledger expects. */
static void
settle(struct tr_spool *spool)
{
	pthread_mutex_lock(&spool->ledger_mu);
	for (uint32_t i = 0; i < spool->account_count; i++) {
		struct tr_account *account = &spool->accounts[i];
		int64_t lost = tr_account_expected(account) - account->waiting;

		settle_offered(account);
		if (lost == 0)
			continue;
		tr_log(TR_LEVEL_ERROR, "spool",
			"ledger of %s: %" PRId64 " should be waiting, the log holds %" PRId64
			": the difference is counted as dropped{damaged}",
			account->name, tr_account_expected(account), account->waiting);
		account->settled = lost;
		account->columns[TR_COL_DROPPED] += lost;
		account->dropped[TR_REASON_DAMAGED] += lost;
	}
	pthread_mutex_unlock(&spool->ledger_mu);
}

typedef void each_fn(void *arg, const struct tr_recovered *message);

static int
for_each_live(struct tr_spool *spool, const struct names *queues, each_fn *each, void *arg)
{
	for (uint64_t number = spool->oldest; number <= spool->newest; number++) {
		struct segment *segment = spool->ring[number & (spool->ring_cap - 1)];

		for (uint32_t i = 0; segment != NULL && i < segment->puts; i++) {
			uint32_t slot = segment->slots[i];
			struct tr_stub *stub;
			struct tr_recovered message;
			struct extra extra;

			if (slot == TR_NO_SLOT)
				continue;
			stub = tr_spool_stub(spool, slot);
			message = (struct tr_recovered){slot, queues->names[stub->queue], tr_stub_flags(stub)};
			stub->queue = 0;
			ledger_wait(spool, stub->account, slot_units(spool, slot));
			if (extra_get(spool, slot, &extra) && extra.body_file != 0) {
				uint64_t bytes = stub->size > extra.frame ? stub->size - extra.frame : 0;

				if (body_hold(spool, extra.body_file, bytes, true) != TR_OK)
					return TR_ENOMEM;
			}
			if (each != NULL)
				each(arg, &message);
		}
	}
	return TR_OK;
}

int
tr_spool_recover(struct tr_spool *spool, void (*each)(void *arg, const struct tr_recovered *message), void *arg,
	struct tr_recovery *stats)
{
	struct tr_recovery own = {0};
	struct names queues = {0};
	int64_t start_ns = tr_mono_ns();
	int err = recover_pass(spool, &own, &queues);

	if (err == TR_OK)
		err = for_each_live(spool, &queues, each, arg);
	names_fini(&queues);
	if (err == TR_OK)
		err = body_scan(spool, !spool->read_only, &own.orphan_bodies);
	if (err != TR_OK)
		return err;
	if (spool->missing > 0)
		tr_log(TR_LEVEL_ERROR, "spool", "%s: %" PRIu64 " segments of the log are missing", spool->meta,
			spool->missing);
	settle(spool);
	own.took_ns = tr_mono_ns() - start_ns;
	if (stats != NULL)
		*stats = own;
	if (spool->read_only)
		return TR_OK;
	/* what a killed process, or one without flush, wrote and never synced is taken as committed now: it must stay
	 */
	for (uint64_t number = spool->oldest; number <= spool->newest; number++) {
		struct segment *segment = spool->ring[number & (spool->ring_cap - 1)];

		if (segment != NULL && !spool->config.no_flush &&
			segment_keep(spool, segment, number == spool->newest) < 0)
			return TR_EIO;
	}
	if (spool->config.no_flush && spool->oldest <= spool->newest)
		spool->unsynced = spool->oldest; /* a former process may have synced nothing */
	spool->compact_credit = 2 * atomic_load(&spool->n.log_bytes);
	space_check(spool);
	err = spares_start(spool);
	if (err == TR_OK)
		err = tasks_start(spool);
	if (err == TR_OK)
		err = commit_start(spool);
	spool->recovered = err == TR_OK;
	return err;
}

/* The answers of the last groups run on their loops and still use the spool. */
static bool
answers_over(struct tr_spool *spool)
{
	struct tr_loop *loop = tr_loop_current();
	struct timespec pause = {0, 100000};

	for (int i = 0; i < 100000; i++) { /* ten seconds at least */
		if (atomic_load_explicit(&spool->outstanding, memory_order_acquire) == 0)
			return true;
		if (loop != NULL)
			tr_loop_turn(loop);
		else
			nanosleep(&pause, NULL);
		if (loop != NULL && atomic_load(&spool->outstanding) > 0)
			nanosleep(&pause, NULL);
	}
	tr_log(TR_LEVEL_ERROR, "spool", "%" PRIu64 " changes are not answered: their loops do not run",
		atomic_load(&spool->outstanding));
	return false;
}

void
tr_spool_close(struct tr_spool *spool)
{
	if (spool == NULL)
		return;
	if (spool->recovered) {
		for (struct port *port = spool->ports; port != NULL; port = port->next)
			port_flush(port);
		commit_stop(spool);
		if (!answers_over(spool))
			return; /* with what they would use still in place */
		/* it proves that the groups before it were committed, so that damage in them is told from a torn tail
		 */
		if (spool->current != NULL)
			group_write(spool, NULL, NULL, 0, true);
	}
	tasks_stop(spool);
	spool_free(spool);
}

void
tr_spool_figures(const struct tr_spool *spool, struct tr_spool_figures *out)
{
	const struct counters *n = &spool->n;

	*out = (struct tr_spool_figures){
		.live_messages = atomic_load(&n->live_messages),
		.live_bytes = atomic_load(&n->live_bytes),
		.log_bytes = atomic_load(&n->log_bytes),
		.segments = atomic_load(&n->segments),
		.free_segments = atomic_load(&n->free_segments),
		.groups = atomic_load(&n->groups),
		.changes = atomic_load(&n->changes),
		.syncs = atomic_load(&n->syncs),
		.copied_bytes = atomic_load(&n->copied_bytes),
		.pending_bytes = atomic_load(&n->pending_bytes),
		.stub_bytes = atomic_load(&n->chunks) * sizeof(struct slot_chunk) + atomic_load(&n->slot_bytes),
		.write_errors = atomic_load(&n->write_errors),
		.sync_errors = atomic_load(&n->sync_errors),
		.refused = atomic_load(&n->refused),
		.damaged_frames = atomic_load(&n->damaged_frames),
	};
}
