#include "base/diag.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/clock.h"

#define REPEATS_MAX 20 /* lines of one kind in a second; the rest is counted */
#define REPEAT_SLOTS 64
#define LEVEL_OFF (TR_LEVEL_ERROR + 1)
#define TARGETS_MAX 32
#define TARGET_BYTES 32

static const char *const level_names[] = {"TRACE", "DEBUG", "INFO", "WARN", "ERROR"};

/* --- filter -------------------------------------------------------------------------------------------- */

struct filter {
	struct filter *older; /* never freed, for readers without a lock: filters change a few times a day */
	int lowest;           /* the least of all levels below */
	int lua, others;      /* targets that are not named */
	size_t count;
	struct {
		char target[TARGET_BYTES];
		int level;
	} named[TARGETS_MAX];
};

static struct filter filter_default = {.lowest = TR_LEVEL_INFO, .lua = TR_LEVEL_INFO, .others = TR_LEVEL_INFO};
static _Atomic(struct filter *) filter = &filter_default;

bool
tr_log_enabled(enum tr_level level, const char *target)
{
	const struct filter *f = atomic_load_explicit(&filter, memory_order_acquire);

	if ((int)level < f->lowest)
		return false;
	for (size_t i = 0; i < f->count; i++) {
		if (strcmp(f->named[i].target, target) == 0)
			return (int)level >= f->named[i].level;
	}
	return (int)level >= (strcmp(target, "lua") == 0 ? f->lua : f->others);
}

static int
parse_level(struct tr_str text)
{
	for (int level = 0; level < (int)TR_COUNT(level_names); level++) {
		if (tr_str_ieq(text, tr_str(level_names[level])))
			return level;
	}
	return tr_str_ieq(text, TR_STR("off")) ? LEVEL_OFF : -1;
}

static struct tr_str
trim(struct tr_str str)
{
	while (str.len > 0 && (*str.data == ' ' || *str.data == '\t')) {
		str.data++;
		str.len--;
	}
	while (str.len > 0 && (str.data[str.len - 1] == ' ' || str.data[str.len - 1] == '\t'))
		str.len--;
	return str;
}

static bool
is_target(struct tr_str name)
{
	if (name.len == 0 || name.len >= TARGET_BYTES)
		return false;
	for (size_t i = 0; i < name.len; i++) {
		char c = name.data[i];

		if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
			    c == ':' || c == '-' || c == '.'))
			return false;
	}
	return true;
}

/* One "level" or "target=level". */
static int
parse_item(struct filter *f, struct tr_str item)
{
	const char *equal = memchr(item.data, '=', item.len);
	struct tr_str target;
	int level;

	if (equal == NULL) {
		level = parse_level(item);
		if (level < 0)
			return TR_EINVAL;
		f->lua = f->others = level;
		return TR_OK;
	}
	target = trim((struct tr_str){item.data, (size_t)(equal - item.data)});
	level = parse_level(trim((struct tr_str){equal + 1, item.len - (size_t)(equal + 1 - item.data)}));
	if (level < 0 || !is_target(target))
		return TR_EINVAL;
	if (tr_str_eq(target, TR_STR("tailrace")) || tr_str_eq(target, TR_STR("kumod"))) {
		f->others = level;
	} else {
		if (f->count == TARGETS_MAX)
			return TR_EINVAL;
		memcpy(f->named[f->count].target, target.data, target.len);
		f->named[f->count++].level = level;
	}
	return TR_OK;
}

int
tr_log_filter(const char *spec)
{
	struct filter *f = calloc(1, sizeof *f);
	int err = *spec == '\0' ? TR_EINVAL : TR_OK;

	if (f == NULL)
		return TR_ENOMEM;
	f->lua = f->others = TR_LEVEL_INFO;
	while (err == TR_OK) {
		size_t len = strcspn(spec, ",");

		err = parse_item(f, trim((struct tr_str){spec, len}));
		if (spec[len] == '\0')
			break;
		spec += len + 1;
	}
	if (err != TR_OK) {
		free(f);
		return err;
	}
	f->lowest = f->lua < f->others ? f->lua : f->others;
	for (size_t i = 0; i < f->count; i++) {
		if (f->named[i].level < f->lowest)
			f->lowest = f->named[i].level;
	}
	f->older = atomic_load(&filter);
	while (!atomic_compare_exchange_weak(&filter, &f->older, f))
		;
	return TR_OK;
}

/* --- output -------------------------------------------------------------------------------------------- */

/* Lines that repeat. The kind is told by a hash: two kinds that share one are limited together. */
struct repeat {
	uint64_t kind;      /* 0: unused */
	int64_t since_ns;   /* monotonic start of its second */
	int count;          /* lines in this second */
	uint64_t held_back; /* of these, not printed */
	enum tr_level level;
	char target[TARGET_BYTES];
	char fmt[80]; /* to say which line it was */
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* guards all below */
static struct repeat repeats[REPEAT_SLOTS];
static size_t repeats_waiting; /* slots with held_back > 0 */
static bool exit_hooked;
static void (*sink_fn)(void *arg, enum tr_level level, const char *target, const char *text);
static void *sink_arg;
static int terminal = -1; /* standard error is one; -1: not looked at yet */

/* One line on standard error. Control bytes are escaped: peers' bytes must not forge lines. On a terminal lines within
 * a text (of a traceback) are lines, indented, which no line of the log is. */
static void
print(enum tr_level level, const char *target, const char *text, size_t len)
{
	struct tr_buf line = {0};
	char moment[32];
	int64_t wall_ns = tr_wall_ns();
	size_t moment_len = tr_rfc3339(wall_ns - ((wall_ns % TR_NS_PER_S) + TR_NS_PER_S) % TR_NS_PER_S, moment);
	int ms = (int)(((wall_ns % TR_NS_PER_S) + TR_NS_PER_S) % TR_NS_PER_S / TR_NS_PER_MS);

	/* always three digits, so that columns stay */
	if (terminal < 0)
		terminal = isatty(STDERR_FILENO);
	tr_buf_addf(&line, "%.*s.%03dZ %-5s %s: ", (int)moment_len - 1, moment, ms, level_names[level], target);
	for (size_t i = 0; i < len; i++) {
		unsigned char c = (unsigned char)text[i];

		if (c == '\n')
			tr_buf_addz(&line, terminal > 0 ? "\n    " : "\\n");
		else if ((c < 0x20 && c != '\t') || c == 0x7f)
			tr_buf_addf(&line, "\\x%02x", c);
		else
			tr_buf_addc(&line, (char)c);
	}
	tr_buf_addc(&line, '\n');
	for (size_t done = 0; !line.failed && done < line.len;) {
		ssize_t n = write(STDERR_FILENO, line.data + done, line.len - done);

		if (n <= 0)
			break; /* nobody is left to be told */
		done += (size_t)n;
	}
	tr_buf_free(&line);
}

static void
emit(enum tr_level level, const char *target, const char *text, size_t len)
{
	if (sink_fn != NULL)
		sink_fn(sink_arg, level, target, text);
	else
		print(level, target, text, len);
}

/* Says how many lines of a kind were held back. */
static void
sum_up(struct repeat *repeat)
{
	char text[160];
	int len;

	if (repeat->held_back == 0)
		return;
	len = snprintf(text, sizeof text, "%llu more lines like this in a second: %s",
		(unsigned long long)repeat->held_back, repeat->fmt);
	repeat->held_back = 0;
	repeats_waiting--;
	emit(repeat->level, repeat->target, text, tr_min_i64(len, (int64_t)sizeof text - 1));
}

static void
sum_up_all(void)
{
	pthread_mutex_lock(&lock);
	for (size_t i = 0; i < REPEAT_SLOTS && repeats_waiting > 0; i++)
		sum_up(&repeats[i]);
	pthread_mutex_unlock(&lock);
}

/* Counts a line of this kind; false if it is to be held back. */
static bool
admit(enum tr_level level, const char *target, const char *fmt, const char *text, size_t len)
{
	/* a bare "%s" is no kind: what counts as the same line is the text */
	bool bare = strcmp(fmt, "%s") == 0;
	uint64_t kind = tr_hash(bare ? text : fmt, bare ? len : strlen(fmt)) * 31 + tr_hash(target, strlen(target));
	struct repeat *repeat;
	int64_t now_ns = tr_mono_ns();

	kind |= 1;
	repeat = &repeats[kind >> 8 & (REPEAT_SLOTS - 1)];
	for (size_t i = 0; i < REPEAT_SLOTS && repeats_waiting > 0; i++) {
		if (now_ns - repeats[i].since_ns >= TR_NS_PER_S)
			sum_up(&repeats[i]);
	}
	if (repeat->kind != kind || now_ns - repeat->since_ns >= TR_NS_PER_S || now_ns < repeat->since_ns) {
		sum_up(repeat);
		*repeat = (struct repeat){.kind = kind, .since_ns = now_ns, .level = level};
		snprintf(repeat->target, sizeof repeat->target, "%s", target);
		snprintf(repeat->fmt, sizeof repeat->fmt, "%.*s", (int)sizeof repeat->fmt - 1, bare ? text : fmt);
	}
	if (repeat->count < REPEATS_MAX) {
		repeat->count++;
		return true;
	}
	if (repeat->held_back++ == 0)
		repeats_waiting++;
	return false;
}

void
tr_log(enum tr_level level, const char *target, const char *fmt, ...)
{
	char small[1024], *text = small;
	va_list args;
	int len;

	if (!tr_log_enabled(level, target))
		return;
	va_start(args, fmt);
	/* NOLINTNEXTLINE(clang-analyzer-valist.Uninitialized): clang-tidy 14 misses the va_start above */
	len = vsnprintf(small, sizeof small, fmt, args);
	va_end(args);
	if (len < 0)
		len = snprintf(small, sizeof small, "%s", fmt); /* it cannot be rendered: say at least what it is */
	if ((size_t)len >= sizeof small) {
		text = malloc((size_t)len + 1);
		if (text != NULL) {
			va_start(args, fmt);
			vsnprintf(text, (size_t)len + 1, fmt, args);
			va_end(args);
		} else { /* cut rather than lost */
			text = small;
			len = sizeof small - 1;
		}
	}
	pthread_mutex_lock(&lock);
	if (!exit_hooked)
		exit_hooked = atexit(sum_up_all) == 0;
	if (admit(level, target, fmt, text, (size_t)len))
		emit(level, target, text, (size_t)len);
	pthread_mutex_unlock(&lock);
	if (text != small)
		free(text);
}

void
tr_log_sink(void (*sink)(void *arg, enum tr_level level, const char *target, const char *text), void *arg)
{
	pthread_mutex_lock(&lock);
	sink_fn = sink;
	sink_arg = arg;
	memset(repeats, 0, sizeof repeats); /* each test starts with a full allowance */
	repeats_waiting = 0;
	pthread_mutex_unlock(&lock);
}
