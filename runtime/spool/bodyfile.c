/* Bodies of their own file, DATA/body-ID.bin: the body and a trailer that tells damage. Counted by the messages that
 * name them, unlinked with the last. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "spool/internal.h"

#define SUFFIX ".bin"

void
body_name(uint64_t id, char out[40])
{
	snprintf(out, 40, "body-%016" PRIx64 SUFFIX, id);
}

bool
body_id(const char *name, uint64_t *id)
{
	char again[40];

	if (strncmp(name, "body-", 5) != 0)
		return false;
	*id = strtoull(name + 5, NULL, 16);
	body_name(*id, again);
	return *id != 0 && strcmp(name, again) == 0;
}

static char *
body_path(const struct tr_spool *spool, uint64_t id)
{
	char name[40];

	body_name(id, name);
	return spool_path(spool->data, name);
}

/* --- references: open addressing by id ------------------------------------------------------------------ */

static uint32_t
home(const struct tr_spool *spool, uint64_t id)
{
	return (uint32_t)(id * UINT64_C(0x9e3779b97f4a7c15) >> 32) & (spool->body_cap - 1);
}

static struct body_ref *
lookup(const struct tr_spool *spool, uint64_t id)
{
	uint32_t i = home(spool, id);

	while (spool->bodies[i].id != 0 && spool->bodies[i].id != id)
		i = (i + 1) & (spool->body_cap - 1);
	return &spool->bodies[i];
}

static int
grow(struct tr_spool *spool)
{
	uint32_t old_cap = spool->body_cap;
	struct body_ref *old = spool->bodies, *bodies = calloc(old_cap == 0 ? 64 : (size_t)old_cap * 2, sizeof *bodies);

	if (bodies == NULL)
		return TR_ENOMEM;
	spool->bodies = bodies;
	spool->body_cap = old_cap == 0 ? 64 : old_cap * 2;
	for (uint32_t i = 0; i < old_cap; i++)
		if (old[i].id != 0)
			*lookup(spool, old[i].id) = old[i];
	free(old);
	return TR_OK;
}

static void
forget(struct tr_spool *spool, struct body_ref *ref)
{
	uint32_t mask = spool->body_cap - 1, hole = (uint32_t)(ref - spool->bodies), i;

	spool->bodies[hole] = (struct body_ref){0};
	spool->body_used--;
	for (i = (hole + 1) & mask; spool->bodies[i].id != 0; i = (i + 1) & mask) {
		if (((i - home(spool, spool->bodies[i].id)) & mask) >= ((i - hole) & mask)) {
			spool->bodies[hole] = spool->bodies[i];
			spool->bodies[i] = (struct body_ref){0};
			hole = i;
		}
	}
}

int
body_hold(struct tr_spool *spool, uint64_t id, uint64_t bytes, bool committed)
{
	struct body_ref *ref;
	int err = TR_OK;

	pthread_mutex_lock(&spool->body_mu);
	if (spool->body_used * 2 >= spool->body_cap)
		err = grow(spool);
	if (err == TR_OK) {
		ref = lookup(spool, id);
		if (ref->id == 0) {
			ref->id = id;
			spool->body_used++;
		}
		ref->refs++;
		ref->committed |= committed;
		if (bytes != 0)
			ref->bytes = bytes;
	}
	pthread_mutex_unlock(&spool->body_mu);
	return err;
}

void
body_commit(struct tr_spool *spool, uint64_t id)
{
	struct body_ref *ref;

	pthread_mutex_lock(&spool->body_mu);
	ref = lookup(spool, id);
	ref->committed |= ref->id != 0;
	pthread_mutex_unlock(&spool->body_mu);
}

uint64_t
body_bytes(struct tr_spool *spool, uint64_t id)
{
	uint64_t bytes = 0;

	pthread_mutex_lock(&spool->body_mu);
	if (spool->body_cap > 0)
		bytes = lookup(spool, id)->bytes;
	pthread_mutex_unlock(&spool->body_mu);
	return bytes;
}

struct unlink_task {
	struct task task;
	uint64_t id;
};

static void
unlink_body(struct tr_spool *spool, uint64_t id)
{
	char *path = body_path(spool, id);

	if (path != NULL)
		tr_file->unlink(path); /* what stays is swept at the next start */
	free(path);
}

static void
unlink_run(struct tr_spool *spool, struct task *task)
{
	struct unlink_task *unlink_task = tr_container_of(task, struct unlink_task, task);

	unlink_body(spool, unlink_task->id);
	free(unlink_task);
}

void
body_release(struct tr_spool *spool, uint64_t id)
{
	struct body_ref *ref;
	bool gone = false;

	pthread_mutex_lock(&spool->body_mu);
	ref = lookup(spool, id);
	if (ref->id != 0 && ref->refs > 0 && --ref->refs == 0 && ref->committed) {
		forget(spool, ref);
		gone = true;
	} /* refused before it was ever stored: its writer puts it again or forgets it */
	pthread_mutex_unlock(&spool->body_mu);
	if (gone) {
		struct unlink_task *task = malloc(sizeof *task);

		if (task == NULL)
			return; /* swept at the next start */
		task->task.fn = unlink_run;
		task->id = id;
		task_post(spool, &task->task);
	}
}

void
tr_body_file_forget(struct tr_spool *spool, uint64_t id)
{
	struct body_ref *ref;

	pthread_mutex_lock(&spool->body_mu);
	if (spool->body_cap > 0 && (ref = lookup(spool, id))->id != 0) {
		if (ref->refs > 0) { /* stored by somebody else: it is not ours to end */
			pthread_mutex_unlock(&spool->body_mu);
			return;
		}
		forget(spool, ref);
	}
	pthread_mutex_unlock(&spool->body_mu);
	unlink_body(spool, id);
}

void
bodies_fini(struct tr_spool *spool)
{
	free(spool->bodies);
}

/* Behind the body: the log's frames do not cover it. */
struct trailer {
	uint64_t len; /* of the body */
	uint32_t crc; /* of it */
	uint32_t trailer_crc;
};
_Static_assert(sizeof(struct trailer) == 16, "layout");

/* 0 or -errno */
int
body_seal(int fd, uint64_t len, uint32_t crc)
{
	struct trailer trailer = {.len = len, .crc = crc};

	trailer.trailer_crc = tr_crc32c(0, &trailer, offsetof(struct trailer, trailer_crc));
	return tr_file_write_all(fd, &trailer, sizeof trailer, (off_t)len);
}

/* TR_OK, TR_ECORRUPT, or TR_EIO: a trailer that cannot be read now says nothing of the body. */
static int
check_trailer(int fd, const struct tr_blob *body)
{
	struct trailer trailer;
	ssize_t n = tr_file_read_all(fd, &trailer, sizeof trailer, (off_t)body->len);

	if (n < 0)
		return TR_EIO;
	return n == sizeof trailer && trailer.len == body->len &&
			       trailer.trailer_crc == tr_crc32c(0, &trailer, offsetof(struct trailer, trailer_crc)) &&
			       trailer.crc == tr_crc32c(0, body->data, body->len)
		       ? TR_OK
		       : TR_ECORRUPT;
}

int
body_read(struct tr_spool *spool, uint64_t id, uint64_t len, struct tr_blob **out)
{
	char *path = body_path(spool, id);
	struct stat st;
	ssize_t n;
	int fd, err;

	*out = NULL;
	if (path == NULL)
		return TR_ENOMEM;
	n = tr_file->stat(path, &st);
	fd = n < 0 ? (int)n : !S_ISREG(st.st_mode) ? -ENOENT : tr_file->open(path, O_RDONLY | O_CLOEXEC, 0);
	free(path);
	if (fd < 0)
		return fd == -ENOENT ? TR_ECORRUPT : disk_error(fd);
	if ((uint64_t)st.st_size < len) { /* cut */
		tr_file->close(fd);
		return TR_ECORRUPT;
	}
	*out = tr_blob_new(NULL, (size_t)len);
	if (*out == NULL) {
		tr_file->close(fd);
		return TR_ENOMEM;
	}
	n = tr_file_read_all(fd, (*out)->data, (*out)->len, 0);
	err = n < 0 ? TR_EIO : (size_t)n < (*out)->len ? TR_ECORRUPT : TR_OK;
	if (err == TR_OK && (uint64_t)st.st_size != len) /* earlier versions wrote no trailer */
		err = check_trailer(fd, *out);
	tr_file->close(fd);
	if (err == TR_OK)
		return TR_OK;
	tr_blob_unref(*out);
	*out = NULL;
	return err;
}

/* --- writing one ------------------------------------------------------------------------------------------ */

struct tr_body_file {
	struct task task;
	struct tr_mail mail;
	struct tr_spool *spool;
	struct tr_loop *loop;
	void (*done)(void *arg, int status, uint64_t id);
	void *arg;
	uint64_t id, len;
	uint32_t crc; /* of what was written */
	int fd, status;
};

uint64_t
tr_spool_body_file_bytes(const struct tr_spool *spool)
{
	return spool->config.body_file_bytes;
}

int
tr_body_file_new(struct tr_spool *spool, struct tr_body_file **out)
{
	struct tr_body_file *file = calloc(1, sizeof *file);
	char *path;

	*out = NULL;
	if (file == NULL)
		return TR_ENOMEM;
	file->spool = spool;
	file->id = atomic_fetch_add(&spool->next_body, 1);
	path = body_path(spool, file->id);
	file->fd = path == NULL ? -ENOMEM : tr_file->open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	free(path);
	if (file->fd < 0) {
		int err = disk_error(file->fd);

		free(file);
		return err;
	}
	*out = file;
	return TR_OK;
}

int
tr_body_file_add(struct tr_body_file *file, const void *data, size_t len)
{
	int err = tr_file_write_all(file->fd, data, len, (off_t)file->len);

	if (err < 0)
		return err == -ENOSPC ? TR_ENOSPC : TR_EIO;
	file->len += len;
	file->crc = tr_crc32c(file->crc, data, len);
	return TR_OK;
}

static void
finish_done(struct tr_mail *mail)
{
	struct tr_body_file *file = tr_container_of(mail, struct tr_body_file, mail);

	file->done(file->arg, file->status, file->status == TR_OK ? file->id : 0);
	free(file);
}

static void
finish_run(struct tr_spool *spool, struct task *task)
{
	struct tr_body_file *file = tr_container_of(task, struct tr_body_file, task);
	int err = body_seal(file->fd, file->len, file->crc);

	if (err >= 0 && !spool->config.no_flush)
		err = tr_file->fdatasync(file->fd);
	tr_file->close(file->fd);
	if (err >= 0 && !spool->config.no_flush)
		err = tr_file->sync_dir(spool->data);
	if (err < 0) {
		atomic_fetch_add_explicit(&spool->n.sync_errors, 1, memory_order_relaxed);
		file->status = err == -ENOSPC ? TR_ENOSPC : TR_EIO;
		unlink_body(spool, file->id);
	} else {
		file->status = body_hold(spool, file->id, file->len, false); /* its length is known from here on */
		if (file->status == TR_OK)
			body_release(spool, file->id);
	}
	file->mail.fn = finish_done;
	tr_loop_post(file->loop, &file->mail);
	tr_hold_drop();
}

void
tr_body_file_finish(
	struct tr_body_file *file, struct tr_loop *loop, void (*done)(void *arg, int status, uint64_t id), void *arg)
{
	file->loop = loop;
	file->done = done;
	file->arg = arg;
	file->task.fn = finish_run;
	tr_hold_take();
	task_post(file->spool, &file->task);
}

void
tr_body_file_drop(struct tr_body_file *file)
{
	tr_file->close(file->fd);
	unlink_body(file->spool, file->id);
	free(file);
}

/* --- what lies in DATA ---------------------------------------------------------------------------------------- */

struct listing {
	struct tr_spool *spool;
	uint64_t *ids;
	size_t count, cap;
};

static int
list_one(void *arg, const char *name)
{
	struct listing *listing = arg;
	uint64_t id;

	if (!body_id(name, &id))
		return 0;
	if (listing->count == listing->cap) {
		size_t cap = listing->cap * 2 + 64;
		uint64_t *ids = realloc(listing->ids, cap * sizeof *ids);

		if (ids == NULL)
			return -ENOMEM;
		listing->ids = ids;
		listing->cap = cap;
	}
	listing->ids[listing->count++] = id;
	return 0;
}

int
body_scan(struct tr_spool *spool, bool sweep, uint64_t *orphans)
{
	struct listing listing = {.spool = spool};
	/* never an id that was used before: a message that damage brings back must not find another one's body */
	uint64_t next = (uint64_t)tr_wall_ms() << 16;
	int err = tr_file->list(spool->data, list_one, &listing);

	*orphans = 0;
	for (size_t i = 0; err >= 0 && i < listing.count; i++) {
		uint64_t id = listing.ids[i];

		if (id >= next)
			next = id + 1;
		if (spool->body_cap > 0 && lookup(spool, id)->refs > 0)
			continue;
		++*orphans;
		if (sweep)
			unlink_body(spool, id);
	}
	free(listing.ids);
	atomic_store(&spool->next_body, next);
	return err < 0 ? TR_EIO : TR_OK;
}
