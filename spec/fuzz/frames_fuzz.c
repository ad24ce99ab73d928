/* The spool's log: segments whose frames are sealed as they ought to be and hold anything, and bytes that are no
 * frames. Recovery ends without an error, counts what it has read, and what it takes for a message can be loaded or is
 * refused.
 *
 * Input: pieces "KIND LENGTH BYTES". KIND: 0 to 7 a frame of that type, 8 the end of the group (sealed over what came
 * since the last), 9 bytes as they are, 10 the next segment. The high bits of KIND spoil it: 32 the payload's CRC, 64
 * the count of an end, 128 the header's CRC. */
#include <fcntl.h>
#include <ftw.h>
#include <sys/stat.h>
#include <unistd.h>

#include "spool/internal.h"

#include "fuzz.h"

#define SEGMENT_BYTES 8192
#define SEGMENTS_MAX 3

static char dir[64];

struct group {
	uint32_t count, crc, start;
};

struct log_file {
	char bytes[SEG_HEADER + SEGMENT_BYTES];
	struct seg_header header;
	uint64_t at; /* behind the header */
};

static void
begin(struct log_file *file, uint64_t number, uint64_t prev_end)
{
	memset(file, 0, sizeof *file);
	file->header = (struct seg_header){.version = SEG_VERSION,
		.number = number,
		.bytes = SEGMENT_BYTES,
		.prev = number - 1,
		.prev_end = number > 1 ? prev_end : 0,
		.oldest = 1,
		.created_ms = 1785000000000,
		.generation = 7,
		.salt = 0x5a175a17};
	memcpy(file->header.magic, "TAILLOG", 8);
	file->header.crc = 0;
	file->header.crc = tr_crc32c(0, &file->header, sizeof file->header);
	memcpy(file->bytes, &file->header, sizeof file->header);
}

static void
end(const struct log_file *file)
{
	char name[40], path[128];
	int fd;

	segment_log_name(file->header.number, name);
	snprintf(path, sizeof path, "%s/%s", dir, name);
	fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	need(fd >= 0 && write(fd, file->bytes, sizeof file->bytes) == (ssize_t)sizeof file->bytes);
	close(fd);
}

static void
add_frame(struct log_file *file, struct group *group, uint8_t kind, const uint8_t *payload, uint32_t len)
{
	struct frame_header header = {.type = kind & 15, .length = len, .generation = 7, .salt = 0x5a175a17};
	uint64_t bytes = frame_bytes(len);

	if (file->at + bytes > SEGMENT_BYTES)
		return;
	header.seq = (header.type <= FRAME_DONE || header.type == FRAME_MOVE) && len > 0 ? payload[0] % 8 + 1u : 0;
	header.payload_crc = tr_crc32c(0, payload, len) ^ (kind & 32 ? 1 : 0);
	if (header.type == FRAME_PUT) /* they stand at multiples of 64 */
		file->at = align_up(file->at, PUT_ALIGN);
	if (file->at + bytes > SEGMENT_BYTES)
		return;
	frame_seal(&header);
	if (kind & 128)
		header.header_crc ^= 1;
	group->crc = tr_crc32c(group->crc, &header.header_crc, sizeof header.header_crc);
	group->count++;
	memcpy(file->bytes + SEG_HEADER + file->at, &header, sizeof header);
	memcpy(file->bytes + SEG_HEADER + file->at + sizeof header, payload, len);
	file->at += bytes;
}

static void
end_group(struct log_file *file, struct group *group, uint8_t kind)
{
	struct end_payload payload = {
		.count = group->count + (kind & 64 ? 1 : 0), .crc = group->crc, .start = group->start, .oldest = 1};
	struct group nothing = {0};

	add_frame(file, &nothing, FRAME_END | (kind & 0xa0), (const uint8_t *)&payload, sizeof payload);
	*group = (struct group){.start = (uint32_t)file->at};
}

static int
remove_file(const char *path, const struct stat *info, int type, struct FTW *at)
{
	return at->level > 0 ? remove(path) : 0;
}

static void
write_log(struct fuzz_in in)
{
	static struct log_file file;
	struct group group = {0};
	uint64_t number = 1;

	begin(&file, number, 0);
	while (in.at < in.end) {
		uint8_t kind = fuzz_byte(&in);
		uint32_t len = fuzz_byte(&in);

		if (len > in.end - in.at)
			len = (uint32_t)(in.end - in.at);
		if ((kind & 15) < 8) {
			add_frame(&file, &group, kind, in.at, len);
		} else if ((kind & 15) == 8) {
			end_group(&file, &group, kind);
			continue; /* it has no bytes of its own */
		} else if ((kind & 15) == 10 && number < SEGMENTS_MAX) {
			uint64_t at = file.at;

			end(&file);
			begin(&file, ++number, at);
			group = (struct group){0};
			continue;
		} else if (file.at + align_up(len, 8) <= SEGMENT_BYTES) {
			memcpy(file.bytes + SEG_HEADER + file.at, in.at, len);
			file.at += align_up(len, 8);
		}
		in.at += len;
	}
	end(&file);
}

static void
load_all(struct tr_spool *spool)
{
	for (uint32_t slot = 0; slot < SLOT_CHUNK; slot++) {
		const struct tr_stub *stub = spool->chunk_count > 0 ? tr_spool_stub(spool, slot) : NULL;
		struct tr_message *message = NULL;

		if (stub == NULL || stub->seq == 0 || stub->loc >= LOC_LOST)
			continue;
		if (load_message(spool, slot, false, &message) == TR_OK)
			need(message != NULL);
		tr_message_free(message);
	}
}

static void
clean_up(void)
{
	rmdir(dir);
}

static void
each(void *arg, const struct tr_recovered *message)
{
	struct tr_queue_name parts;

	tr_queue_name_parse(message->queue, &parts);
}

static void
no_line(void *arg, enum tr_level level, const char *target, const char *text)
{
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct tr_recovery stats = {0};
	struct tr_spool *spool = NULL;
	char *error = NULL;
	struct tr_spool_config config = {.meta_path = dir, .data_path = dir, .segment_bytes = SEGMENT_BYTES};

	if (dir[0] == '\0') {
		tr_log_sink(no_line, NULL);
		snprintf(dir, sizeof dir, "%s/tr-frames-XXXXXX", access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
		need(mkdtemp(dir) != NULL);
		atexit(clean_up);
	}
	write_log((struct fuzz_in){data, data + len});
	need(spool_open(&config, true, &spool, &error) == TR_OK);
	need(tr_spool_recover(spool, each, NULL, &stats) == TR_OK);
	need(stats.frames <= SEGMENTS_MAX * SEGMENT_BYTES / FRAME_HEADER);
	load_all(spool);
	tr_spool_close(spool);
	free(error);
	nftw(dir, remove_file, 8, FTW_DEPTH | FTW_PHYS);
	return 0;
}
