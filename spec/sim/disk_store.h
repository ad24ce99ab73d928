/* What the parts of the disk in memory share: files that know what of them is durable, and names that do. No locks: the
 * caller holds the disk's. */
#ifndef SIM_DISK_STORE_H
#define SIM_DISK_STORE_H

#include "base/file.h"
#include "disk.h"

#define SECTOR 512

enum { CLEAN, DIRTY, LOST }; /* a sector: as on the disk, not synced, not synced and a sync of it has failed */

struct file {
	uint64_t number;
	uint32_t refs;     /* names, descriptors, name changes that may be undone */
	bool is_dir, gone; /* gone: it has no name, and its bytes do not count */
	int mode;
	int lock_fd; /* -1: nobody */
	size_t cap;  /* of now, safe; a multiple of SECTOR */
	char *now, *safe;
	size_t len, safe_len; /* zeros behind, up to cap */
	uint8_t *sectors;
	size_t dirty_from, dirty_to; /* sectors that are not CLEAN lie in here */
	struct file *copy;           /* while a world is copied */
};

struct name {
	char *path;
	struct file *file;
};

/* A change of names since the last sync of `dir`. Undone in reverse order. */
struct change {
	enum { NAME_MADE, NAME_MOVED, NAME_GONE } kind;
	char *dir, *path;
	char *from;          /* moved: where it was */
	struct file *before; /* what stood at `path` before; NULL: nothing */
};

struct world {
	struct name *names; /* sorted by path */
	size_t name_count, name_cap;
	struct change *changes;
	size_t change_count, change_cap;
};

void check(bool ok, const char *what);
void *must(void *memory);
char *copy_text(const char *text);
uint64_t next_random(uint64_t *state);
struct file *file_new(bool is_dir, int mode);
void file_unref(struct file *file);
struct file *file_ref(struct file *file);
void file_touched(struct file *file, size_t at, size_t end);
void file_resize(struct file *file, size_t len);
void file_synced(struct file *file);
void file_sync_failed(struct file *file);
void file_cut(struct file *file, uint64_t *random);
struct file *find(const struct world *world, const char *path);
void set_name(struct world *world, const char *path, struct file *file);
char *clean_path(const char *path);
bool has_dir(const struct world *world, const char *path);
void add_change(struct world *world, int kind, const char *path, const char *from, struct file *before);
void forget_change(struct change *change);
void move_names(struct world *world, const char *from, const char *to);
void world_free(struct world *world);
void world_copy(struct world *from, struct world *to);
void cut_names(struct world *world, uint64_t *random);
uint64_t bytes_of(const struct world *world);

/* --- disk.c -------------------------------------------------------------------------------------------------- */

struct descriptor {
	struct file *file; /* NULL: free, or dead */
	bool used, writes;
};

/* One disk a process; all of it under a lock that disk_begin() takes and disk_end() lets go. */
extern struct world disk_world;
extern uint64_t disk_bytes, disk_bound, disk_random; /* bytes of all files that have a name; how many may be */
extern uint64_t disk_next_number;                    /* of a file */
extern struct descriptor *disk_fds;
extern int disk_fd_count;

struct verdict {
	int err;      /* 0 or -errno */
	bool brief;   /* comes short */
	bool dies;    /* the process is killed within it */
	bool cut;     /* by the power going */
	bool written; /* the image has what it does */
};

/* Counts the call and says what becomes of it. Takes the lock in any case. */
struct verdict disk_begin(enum disk_op op);
/* Lets go of the lock; passes on the result. */
int disk_end(struct verdict verdict, int result);
/* With the lock: the image is what the disk is now; only the first time. */
void disk_die(bool cut, uint64_t seed);
bool disk_dead(void); /* with the lock: there is an image */

extern const struct tr_file_ops disk_table; /* disk_ops.c */

#endif
