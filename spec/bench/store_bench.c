/* What other stores take for a queue's work: `store_bench append|lmdb|rocksdb COUNT BYTES BATCH [BACKLOG]`.
 *
 * Each synced commit puts BATCH new records and deletes those of the commit before; with BACKLOG, so many records were
 * put and deleted first, which is not measured. `append` is the raw limit: the same bytes, and a mark of 16 bytes for
 * each deletion, appended to a file with fdatasync, 64 MiB a file. Works in $TMPDIR or /tmp and removes what it made.
 * One line of key=value; CPU is that of all threads. One thread of our own. */
#include <dirent.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#ifdef WITH_LMDB
#include <lmdb.h>
#endif
#ifdef WITH_ROCKSDB
#include <rocksdb/c.h>
#endif

#include "base/clock.h"
#include "measure.h"

enum { KEY_BYTES = 8, MARK_BYTES = 16, FILE_BYTES = 64 << 20 };

static char dir[4096], *value;
static long count, value_bytes, batch, backlog;

static void
fail(const char *what, const char *why)
{
	fprintf(stderr, "store_bench: %s: %s\n", what, why ? why : "failed");
	exit(1);
}

/* Big-endian, so that keys sort as they were made. */
static void
make_key(long number, char key[KEY_BYTES])
{
	for (int i = 0; i < KEY_BYTES; i++)
		key[i] = (char)((unsigned long)number >> 8 * (KEY_BYTES - 1 - i));
}

/* Values differ and do not compress. */
static void
fill_value(void)
{
	unsigned long state = 88172645463325252ul;

	value = malloc((size_t)value_bytes);
	if (value == NULL)
		fail("malloc", NULL);
	for (long i = 0; i < value_bytes; i++) {
		state ^= state << 13;
		state ^= state >> 7;
		state ^= state << 17;
		value[i] = (char)state;
	}
}

struct store {
	const char *name;
	void (*open)(void);
	/* One synced commit: puts numbers [from, from + puts), deletes [oldest, oldest + deletes). */
	void (*commit)(long from, long puts, long oldest, long deletes);
	void (*close)(void);
};

/* --- append ------------------------------------------------------------------------------------------------- */

static int fd = -1;
static long file_number;
static char *group;

static void
append_next(void)
{
	char path[4200];

	if (fd >= 0) {
		close(fd);
		snprintf(path, sizeof path, "%s/%ld", dir, file_number++);
		unlink(path);
	}
	snprintf(path, sizeof path, "%s/%ld", dir, file_number);
	fd = open(path, O_CREAT | O_WRONLY | O_APPEND, 0600);
	if (fd < 0)
		fail(path, "cannot be made");
}

static void
append_open(void)
{
	group = malloc((size_t)(batch * (value_bytes + KEY_BYTES + MARK_BYTES)));
	if (group == NULL)
		fail("malloc", NULL);
	append_next();
}

static void
append_commit(long from, long puts, long oldest, long deletes)
{
	size_t len = 0;

	for (long i = 0; i < puts; i++) {
		make_key(from + i, group + len);
		memcpy(group + len + KEY_BYTES, value, (size_t)value_bytes);
		len += (size_t)(KEY_BYTES + value_bytes);
	}
	for (long i = 0; i < deletes; i++) {
		make_key(oldest + i, group + len);
		memset(group + len + KEY_BYTES, 0, MARK_BYTES - KEY_BYTES);
		len += MARK_BYTES;
	}
	for (size_t at = 0; at < len;) {
		ssize_t wrote = write(fd, group + at, len - at);

		if (wrote <= 0)
			fail("write", NULL);
		at += (size_t)wrote;
	}
	if (fdatasync(fd) != 0)
		fail("fdatasync", NULL);
	if (lseek(fd, 0, SEEK_CUR) > FILE_BYTES)
		append_next();
}

static void
append_close(void)
{
	close(fd);
	free(group);
}

/* --- LMDB ----------------------------------------------------------------------------------------------------- */
#ifdef WITH_LMDB
static MDB_env *env;
static MDB_dbi dbi;

static void
lmdb_check(const char *what, int err)
{
	if (err != 0)
		fail(what, mdb_strerror(err));
}

static void
lmdb_open(void)
{
	MDB_txn *txn;

	lmdb_check("mdb_env_create", mdb_env_create(&env));
	lmdb_check("mdb_env_set_mapsize", mdb_env_set_mapsize(env, (size_t)32 << 30));
	lmdb_check("mdb_env_open", mdb_env_open(env, dir, 0, 0600));
	lmdb_check("mdb_txn_begin", mdb_txn_begin(env, NULL, 0, &txn));
	lmdb_check("mdb_dbi_open", mdb_dbi_open(txn, NULL, 0, &dbi));
	lmdb_check("mdb_txn_commit", mdb_txn_commit(txn));
}

static void
lmdb_commit(long from, long puts, long oldest, long deletes)
{
	char bytes[KEY_BYTES];
	MDB_val key = {KEY_BYTES, bytes}, data = {(size_t)value_bytes, value};
	MDB_txn *txn;

	lmdb_check("mdb_txn_begin", mdb_txn_begin(env, NULL, 0, &txn));
	for (long i = 0; i < puts; i++) {
		make_key(from + i, bytes);
		lmdb_check("mdb_put", mdb_put(txn, dbi, &key, &data, MDB_APPEND));
	}
	for (long i = 0; i < deletes; i++) {
		make_key(oldest + i, bytes);
		lmdb_check("mdb_del", mdb_del(txn, dbi, &key, NULL));
	}
	lmdb_check("mdb_txn_commit", mdb_txn_commit(txn));
}

static void
lmdb_close(void)
{
	mdb_env_close(env);
}
#endif

/* --- RocksDB -------------------------------------------------------------------------------------------------- */
#ifdef WITH_ROCKSDB
static rocksdb_t *db;
static rocksdb_options_t *db_options;
static rocksdb_writeoptions_t *write_options;

static void
rocksdb_open_store(void)
{
	char *error = NULL;

	db_options = rocksdb_options_create();
	rocksdb_options_set_create_if_missing(db_options, 1);
	rocksdb_options_set_compression(db_options, rocksdb_no_compression); /* the values would not shrink */
	write_options = rocksdb_writeoptions_create();
	rocksdb_writeoptions_set_sync(write_options, 1);
	db = rocksdb_open(db_options, dir, &error);
	if (error != NULL)
		fail("rocksdb_open", error);
}

static void
rocksdb_commit(long from, long puts, long oldest, long deletes)
{
	rocksdb_writebatch_t *writes = rocksdb_writebatch_create();
	char *error = NULL, key[KEY_BYTES];

	for (long i = 0; i < puts; i++) {
		make_key(from + i, key);
		rocksdb_writebatch_put(writes, key, KEY_BYTES, value, (size_t)value_bytes);
	}
	for (long i = 0; i < deletes; i++) {
		make_key(oldest + i, key);
		rocksdb_writebatch_delete(writes, key, KEY_BYTES);
	}
	rocksdb_write(db, write_options, writes, &error);
	if (error != NULL)
		fail("rocksdb_write", error);
	rocksdb_writebatch_destroy(writes);
}

static void
rocksdb_close_store(void)
{
	rocksdb_close(db);
	rocksdb_writeoptions_destroy(write_options);
	rocksdb_options_destroy(db_options);
}
#endif

static const struct store stores[] = {
	{"append", append_open, append_commit, append_close},
#ifdef WITH_LMDB
	{"lmdb", lmdb_open, lmdb_commit, lmdb_close},
#endif
#ifdef WITH_ROCKSDB
	{"rocksdb", rocksdb_open_store, rocksdb_commit, rocksdb_close_store},
#endif
	{NULL, NULL, NULL, NULL},
};

static void
remove_dir(void)
{
	DIR *list = opendir(dir);
	struct dirent *entry;
	char path[4400];

	while (list != NULL && (entry = readdir(list)) != NULL) {
		snprintf(path, sizeof path, "%s/%s", dir, entry->d_name);
		unlink(path);
	}
	if (list != NULL)
		closedir(list);
	rmdir(dir);
}

static void
measure(const struct store *store)
{
	long next = 0, oldest = 0;
	int64_t began_ns;
	double cpu, seconds;

	for (; next < backlog; next += batch)
		store->commit(next, batch, 0, 0);
	for (; oldest < next; oldest += batch)
		store->commit(next, 0, oldest, batch);
	store->commit(next, batch, 0, 0);
	next += batch;
	began_ns = tr_mono_ns();
	cpu = measure_cpu_us();
	for (long done = 0; done < count; done += batch, next += batch, oldest += batch)
		store->commit(next, batch, oldest, batch);
	cpu = measure_cpu_us() - cpu;
	seconds = (double)(tr_mono_ns() - began_ns) / 1e9;
	printf("records=%ld seconds=%.3f rate=%.0f cpu_us=%.2f\n", count, seconds, (double)count / seconds,
		cpu / (double)count);
}

int
main(int argc, char **argv)
{
	const char *tmp = getenv("TMPDIR");
	const struct store *store = stores;

	while (argc >= 2 && store->name != NULL && strcmp(store->name, argv[1]) != 0)
		store++;
	count = argc >= 5 ? atol(argv[2]) : 0;
	value_bytes = argc >= 5 ? atol(argv[3]) : 0;
	batch = argc >= 5 ? atol(argv[4]) : 0;
	backlog = argc >= 6 ? atol(argv[5]) : 0;
	if (count < 1 || value_bytes < 1 || batch < 1 || backlog < 0) {
		fprintf(stderr, "usage: store_bench append|lmdb|rocksdb COUNT BYTES BATCH [BACKLOG]\n");
		return 64;
	}
	if (store->name == NULL)
		return 69; /* not compiled in */
	count = (count + batch - 1) / batch * batch;
	snprintf(dir, sizeof dir, "%s/store_bench.XXXXXX", tmp ? tmp : "/tmp");
	if (mkdtemp(dir) == NULL)
		fail(dir, "cannot be made");
	fill_value();
	store->open();
	measure(store);
	store->close();
	remove_dir();
	free(value);
	return 0;
}
