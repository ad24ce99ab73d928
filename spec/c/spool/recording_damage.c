/* Included by spool_campaign_test.c: what may happen to the files of a spool. */
__attribute__((format(printf, 2, 3))) static void
did(struct campaign *campaign, const char *fmt, ...)
{
	size_t len = strlen(campaign->what);
	va_list args;

	va_start(args, fmt);
	vsnprintf(campaign->what + len, sizeof campaign->what - len, fmt, args);
	va_end(args);
}

/* A random file whose name begins so; NULL: none. */
static struct rec_file *
pick(struct campaign *campaign, struct rec_dir *dir, const char *prefix)
{
	uint32_t start = (uint32_t)rec_random(&campaign->random, dir->count + 1);

	for (uint32_t i = 0; i < dir->count; i++) {
		struct rec_file *file = &dir->files[(start + i) % dir->count];

		if (strncmp(file->name, prefix, strlen(prefix)) == 0 && !file->dir)
			return file;
	}
	return NULL;
}

/* A place in the file, mostly where something is. */
static uint64_t
place(struct campaign *campaign, const struct rec_file *file)
{
	uint64_t used = file->len;

	if (file->len == 0)
		return 0;
	while (used > 1 && file->bytes[used - 1] == 0)
		used--;
	if (rec_random(&campaign->random, 8) == 0)
		return rec_random(&campaign->random, file->len);
	if (rec_random(&campaign->random, 6) == 0) /* header and ledger */
		return rec_random(&campaign->random, used < 4400 ? used : 4400);
	return used <= HEADER ? rec_random(&campaign->random, used)
			      : HEADER + rec_random(&campaign->random, used - HEADER);
}

static void
damage_bytes(struct campaign *campaign, struct rec_file *file)
{
	uint64_t kind = rec_random(&campaign->random, 4), at = place(campaign, file), len;

	if (file->len == 0)
		return;
	if (kind == 0) {
		for (uint64_t i = 0, count = 1 + rec_random(&campaign->random, 8); i < count; i++) {
			at = place(campaign, file);
			file->bytes[at] ^= (unsigned char)(1u << rec_random(&campaign->random, 8));
			did(campaign, "  %s: a bit flipped at %llu\n", file->name, (unsigned long long)at);
		}
		return;
	}
	len = 1 + rec_random(&campaign->random, kind == 1 ? 64 : 8192);
	if (kind == 3)
		at = at / 512 * 512, len = (len + 511) / 512 * 512;
	if (len > file->len - at)
		len = file->len - at;
	for (uint64_t i = 0; i < len; i++)
		file->bytes[at + i] = kind == 1 ? (unsigned char)rec_random(&campaign->random, 256) : 0;
	did(campaign, "  %s: %llu bytes %s at %llu\n", file->name, (unsigned long long)len,
		kind == 1 ? "overwritten" : "zeroed", (unsigned long long)at);
}

static void
cut_or_extend(struct campaign *campaign, struct rec_dir *dir, struct rec_file *file)
{
	uint64_t len = rec_random(&campaign->random, file->len + 1);
	unsigned char *bytes;

	(void)dir;
	if (rec_random(&campaign->random, 3) > 0) {
		did(campaign, "  %s: cut to %llu\n", file->name, (unsigned long long)len);
		file->len = len;
		return;
	}
	len = 1 + rec_random(&campaign->random, 9000);
	bytes = realloc(file->bytes, file->len + len);
	NEED(bytes != NULL);
	file->bytes = bytes;
	for (uint64_t i = 0; i < len; i++)
		bytes[file->len + i] = (unsigned char)rec_random(&campaign->random, 256);
	file->len += len;
	did(campaign, "  %s: %llu bytes of junk behind its end\n", file->name, (unsigned long long)len);
}

static void
swap(struct campaign *campaign, struct rec_dir *dir, const char *prefix)
{
	struct rec_file *a = pick(campaign, dir, prefix), *b = pick(campaign, dir, prefix);
	char name[64];

	if (a == NULL || b == NULL)
		return;
	did(campaign, "  %s and %s swapped\n", a->name, b->name);
	memcpy(name, a->name, sizeof name);
	memcpy(a->name, b->name, sizeof name);
	memcpy(b->name, name, sizeof name);
}

/* A copy under a name that was free; of the segment as it is, or as it was some time before. */
static void
copy(struct campaign *campaign, struct rec_dir *dir)
{
	bool older = rec_random(&campaign->random, 2) == 0;
	struct rec_file *file = pick(campaign, older ? &campaign->rec->older : dir, "log-");
	char name[64];

	if (file == NULL || dir->count + 1 >= TR_COUNT(dir->files))
		return;
	if (rec_random(&campaign->random, 2) == 0)
		snprintf(name, sizeof name, "log-%016llx.seg",
			(unsigned long long)rec_random(
				&campaign->random, rec_random(&campaign->random, 2) ? 100 : 1u << 30));
	else
		snprintf(name, sizeof name, "%.40s of old.seg", file->name);
	if (rec_dir_find(dir, false, name) != NULL)
		return;
	did(campaign, "  %s: a copy of %s%s\n", name, older ? "the older " : "", file->name);
	campaign->unread = campaign->unread || rec_dir_find(&campaign->rec->dir, false, file->name) == NULL;
	rec_dir_add(dir, false, name, file->bytes, file->len);
}

/* The content of some time before in place of that of now. */
static void
set_back(struct campaign *campaign, struct rec_dir *dir)
{
	bool body = rec_random(&campaign->random, 4) == 0;
	struct rec_file *was = pick(campaign, &campaign->rec->older, body ? "body-" : "log-");

	if (was == NULL || rec_dir_find(dir, was->data, was->name) == NULL)
		return;
	did(campaign, "  %s: as it was before\n", was->name);
	rec_dir_add(dir, was->data, was->name, was->bytes, was->len);
}

static void
rename_one(struct campaign *campaign, struct rec_dir *dir)
{
	struct rec_file *file = pick(campaign, dir, "log-");
	char name[64];

	snprintf(name, sizeof name, "log-%016llx.seg", (unsigned long long)rec_random(&campaign->random, 1u << 20));
	if (file == NULL || rec_dir_find(dir, false, name) != NULL)
		return;
	did(campaign, "  %s: renamed to %s\n", file->name, name);
	memcpy(file->name, name, sizeof name);
}

static void
stray(struct campaign *campaign, struct rec_dir *dir)
{
	static const char *const names[] = {"log-00000000000000ff.seg", "log-zzz.seg", "spare-x.seg",
		"spare-00000000000000ff.seg", "notes.txt", "log-0000000000000002", "log-ffffffffffffffff.seg",
		"log-0000000000000000.seg", "body-1.bin", "body-00000000000000aa.bin", "body-0000000000000000.bin",
		".seg", "x.seg"};
	const char *name = names[rec_random(&campaign->random, TR_COUNT(names))];
	size_t len = rec_random(&campaign->random, 2) == 0 ? 0 : rec_random(&campaign->random, 20000);
	bool data = rec_random(&campaign->random, 2) == 0;
	struct rec_file *file;

	if (rec_dir_find(dir, data, name) != NULL)
		return;
	file = rec_dir_add(dir, data, name, NULL, 0);
	file->dir = rec_random(&campaign->random, 4) == 0;
	if (!file->dir) {
		free(file->bytes);
		file->bytes = malloc(len + 1);
		NEED(file->bytes != NULL);
		file->len = len;
		for (size_t i = 0; i < len; i++)
			file->bytes[i] = (unsigned char)rec_random(&campaign->random, 256);
	}
	did(campaign, "  %s/%s: a strange %s of %zu bytes\n", data ? "data" : "meta", name,
		file->dir ? "directory" : "file", len);
}

static void
remove_one(struct campaign *campaign, struct rec_dir *dir, const char *prefix)
{
	struct rec_file *file = pick(campaign, dir, prefix);

	if (file == NULL)
		return;
	did(campaign, "  %s: removed\n", file->name);
	rec_dir_remove(dir, file);
}

/* A segment of another spool, as long as ours are more. */
static void
foreign(struct campaign *campaign, struct rec_dir *dir)
{
	struct rec_file *file = campaign->other.count > 0 ? pick(campaign, &campaign->other, "log-") : NULL;
	uint32_t ours = 0;
	char name[64];

	for (uint32_t i = 0; i < campaign->rec->segment_count; i++) {
		const struct rec_segment *segment = &campaign->rec->segments[i];
		const struct rec_file *here = rec_dir_find(dir, false, segment->file->name);

		ours += here != NULL && !here->dir && same(segment->file, here, 0, 128);
	}
	if (file == NULL || ours < 2)
		return;
	snprintf(name, sizeof name, "%.40s%s", file->name,
		rec_dir_find(dir, false, file->name) == NULL ? "" : " (other).seg");
	if (rec_dir_find(dir, false, name) != NULL)
		return;
	did(campaign, "  %s: a segment of another spool\n", name);
	rec_dir_add(dir, false, name, file->bytes, file->len);
}

static void
damage(struct campaign *campaign, struct rec_dir *dir)
{
	uint64_t count = rec_random(&campaign->random, 10) == 0 ? 0 : 1 + rec_random(&campaign->random, 4);

	for (uint64_t i = 0; i < count; i++) {
		uint64_t dice = rec_random(&campaign->random, 100);
		struct rec_file *file = pick(campaign, dir, dice % 7 == 0 ? "body-" : "log-");

		if (file == NULL)
			continue;
		if (dice < 50)
			damage_bytes(campaign, file);
		else if (dice < 58)
			cut_or_extend(campaign, dir, file);
		else if (dice < 64)
			remove_one(campaign, dir, dice % 7 == 0 ? "body-" : "log-");
		else if (dice < 70)
			swap(campaign, dir, dice % 5 == 0 ? "body-" : "log-");
		else if (dice < 77)
			copy(campaign, dir);
		else if (dice < 84)
			set_back(campaign, dir);
		else if (dice < 90)
			rename_one(campaign, dir);
		else
			stray(campaign, dir);
	}
	if (rec_random(&campaign->random, 10) == 0)
		foreign(campaign, dir);
}
