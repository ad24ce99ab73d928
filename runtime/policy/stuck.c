/* Threads that do not go on: in a loop or a call of C, of a library, of the kernel. They are asked by a signal, whose
 * handler notes where the thread stands; one that takes no signals waits in the kernel, which tells for what. */
#include <dlfcn.h>
#include <errno.h>
#include <execinfo.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "base/diag.h"
#include "base/pulse.h"
#include "policy/internal.h"

#define ANSWER_NS (300 * TR_NS_PER_MS) /* for the handler of the signal */
#define STUCK_AFTER_NS (10 * TR_NS_PER_S)
#define END_AT_LEAST_NS TR_NS_PER_S
#define HANDLERS_FRAMES 2 /* the handler's own, and the kernel's return from it */

static _Atomic int64_t stuck_after_ns = STUCK_AFTER_NS;

void
tr_watchdog_stuck_after(int64_t ns)
{
	atomic_store(&stuck_after_ns, ns);
}

void
tr_stuck_init(void)
{
	void *frame;

	backtrace(&frame, 1); /* the first call loads a library, which no handler of a signal may */
}

void
tr_stuck_answer(void)
{
	struct tr_pulse *pulse = tr_pulse_mine;
	int saved = errno;

	if (pulse == NULL || atomic_load(&pulse->asked) != TR_PULSE_ASKED)
		return;
	tr_watch_name(pulse->doing, sizeof pulse->doing);
	pulse->frame_count = backtrace(pulse->frames, TR_PULSE_FRAMES);
	atomic_store(&pulse->asked, TR_PULSE_ANSWERED);
	errno = saved;
}

/* --- what the kernel knows -------------------------------------------------------------------------------------- */

static int64_t
cpu_ns(const struct tr_pulse *pulse)
{
	struct timespec used;
	clockid_t clock;

	if (pthread_getcpuclockid(pulse->thread, &clock) != 0 || clock_gettime(clock, &used) != 0)
		return -1;
	return used.tv_sec * TR_NS_PER_S + used.tv_nsec;
}

/* A file of the thread in /proc, as text; "" where there is none. */
static void
read_proc(const struct tr_pulse *pulse, const char *name, char *out, size_t size)
{
	char path[64];
	ssize_t n = -1;

	snprintf(path, sizeof path, "/proc/self/task/%d/%s", (int)pulse->tid, name);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd >= 0) {
		n = read(fd, out, size - 1);
		close(fd);
	}
	out[n > 0 ? n : 0] = '\0';
}

static const struct {
	long number;
	const char *name;
	enum { ON_NOTHING, ON_FILE, ON_PATH, AT_PATH } on; /* what its first or second argument is */
} calls[] = {
	{SYS_fdatasync, "fdatasync", ON_FILE},
	{SYS_fsync, "fsync", ON_FILE},
	{SYS_fallocate, "fallocate", ON_FILE},
	{SYS_ftruncate, "ftruncate", ON_FILE},
	{SYS_read, "read", ON_FILE},
	{SYS_write, "write", ON_FILE},
	{SYS_writev, "writev", ON_FILE},
	{SYS_pread64, "pread", ON_FILE},
	{SYS_pwrite64, "pwrite", ON_FILE},
	{SYS_pwritev, "pwritev", ON_FILE},
	{SYS_openat, "openat", AT_PATH},
	{SYS_unlinkat, "unlinkat", AT_PATH},
	{SYS_newfstatat, "stat", AT_PATH},
	{SYS_statfs, "statfs", ON_PATH},
	{SYS_futex, "futex (waits for another thread)", ON_NOTHING},
	{SYS_wait4, "wait4 (for a program to end)", ON_NOTHING},
	{SYS_ppoll, "ppoll", ON_NOTHING},
#ifdef SYS_open /* not on every architecture */
	{SYS_open, "open", ON_PATH},
	{SYS_unlink, "unlink", ON_PATH},
	{SYS_rename, "rename", ON_PATH},
	{SYS_poll, "poll", ON_NOTHING},
	{SYS_vfork, "vfork", ON_NOTHING},
#endif
};

/* The thread waits in the kernel, so what its arguments point at stays; the kernel looks, and refuses a bad address. */
static void
add_path(struct tr_buf *out, uint64_t address)
{
	char path[256];
	struct iovec to = {path, sizeof path - 1}, from = {(void *)(uintptr_t)address, sizeof path - 1};
	ssize_t n = process_vm_readv(getpid(), &to, 1, &from, 1, 0);

	if (n <= 0)
		return;
	path[n] = '\0';
	tr_buf_addf(out, " of %s", path);
}

static void
add_file(struct tr_buf *out, uint64_t fd)
{
	char link[64], path[256];

	snprintf(link, sizeof link, "/proc/self/fd/%d", (int)fd);
	ssize_t n = readlink(link, path, sizeof path - 1);
	if (n > 0)
		tr_buf_addf(out, " of %.*s", (int)n, path);
}

/* ", waits in the kernel: fdatasync of /var/spool/..." or the like. */
static void
add_call(const struct tr_pulse *pulse, struct tr_buf *out)
{
	char stat[512], text[256];
	const char *state;
	char *end;

	read_proc(pulse, "stat", stat, sizeof stat);
	read_proc(pulse, "syscall", text, sizeof text);
	state = strrchr(stat, ')');
	if (state == NULL || state[1] != ' ' || state[2] == 'R')
		return;
	tr_buf_addz(out, ", waits in the kernel");
	long number = strtol(text, &end, 10);
	uint64_t first = strtoull(end, &end, 16), second = strtoull(end, NULL, 16);
	if (end == text || number < 0)
		return;
	for (size_t i = 0; i < TR_COUNT(calls); i++) {
		if (calls[i].number != number)
			continue;
		tr_buf_addf(out, ": %s", calls[i].name);
		if (calls[i].on == ON_FILE)
			add_file(out, first);
		else if (calls[i].on != ON_NOTHING)
			add_path(out, calls[i].on == ON_PATH ? first : second);
		return;
	}
	tr_buf_addf(out, ": system call %ld", number);
}

/* --- the report ------------------------------------------------------------------------------------------------- */

static void
add_frames(const struct tr_pulse *pulse, struct tr_buf *out)
{
	tr_buf_addz(out, "\nnative stack:");
	for (int i = HANDLERS_FRAMES; i < pulse->frame_count; i++) {
		const char *address = pulse->frames[i], *file;
		Dl_info info;

		if (dladdr(address, &info) == 0 || info.dli_fname == NULL) {
			tr_buf_addf(out, "\n\t%p", pulse->frames[i]);
			continue;
		}
		file = strrchr(info.dli_fname, '/') != NULL ? strrchr(info.dli_fname, '/') + 1 : info.dli_fname;
		if (info.dli_sname != NULL)
			tr_buf_addf(
				out, "\n\t%s+%#tx in %s", info.dli_sname, address - (const char *)info.dli_saddr, file);
		else
			tr_buf_addf(out, "\n\t%s+%#tx", file, address - (const char *)info.dli_fbase);
	}
}

static void
describe(const struct tr_pulse *pulse, struct tr_buf *out)
{
	int64_t cpu = pulse->cpu_from_ns < 0 ? -1 : cpu_ns(pulse);
	bool answered = atomic_load(&pulse->asked) == TR_PULSE_ANSWERED;

	tr_buf_addf(out, "%s %s for %.1f s", pulse->name, pulse->what, (double)pulse->seen_for_ns / TR_NS_PER_S);
	if (cpu >= 0)
		tr_buf_addf(out, " (%.1f s on a processor)", (double)(cpu - pulse->cpu_from_ns) / TR_NS_PER_S);
	add_call(pulse, out);
	if (answered && pulse->doing[0] != '\0')
		tr_buf_addf(out, ": %s", pulse->doing);
	if (answered)
		add_frames(pulse, out);
	else
		tr_buf_addz(out, "; it takes no signal, so what it does there it cannot say");
	tr_buf_addc(out, '\0');
}

static void
ask(struct tr_pulse *pulse)
{
	atomic_store(&pulse->asked, TR_PULSE_ASKED);
	pulse->asked_for_ns = 0;
	pthread_kill(pulse->thread, SIGURG);
}

static _Noreturn void
end_of(struct tr_pulse *pulse)
{
	static const struct timespec pause = {0, 10 * TR_NS_PER_MS};
	struct tr_buf text = {0};

	ask(pulse);
	for (int i = 0; i < 30 && atomic_load(&pulse->asked) != TR_PULSE_ANSWERED; i++)
		nanosleep(&pause, NULL);
	describe(pulse, &text);
	tr_watch_end("the time of the stop is over, and something hangs: the process ends at once: %s",
		text.failed ? pulse->name : text.data);
}

struct round {
	int64_t since_ns;
	bool ending;
};

static void
look(struct tr_pulse *pulse, void *arg)
{
	const struct round *round = arg;
	int64_t limit_ns = atomic_load_explicit(&stuck_after_ns, memory_order_relaxed);
	uint64_t beat = atomic_load_explicit(&pulse->beat, memory_order_relaxed);
	struct tr_buf text = {0};

	if (beat != pulse->seen || beat % 2 == 0) {
		if (pulse->told)
			tr_log(TR_LEVEL_WARN, "watchdog", "%s goes on, after %.1f s", pulse->name,
				(double)pulse->seen_for_ns / TR_NS_PER_S);
		pulse->seen = beat;
		pulse->seen_for_ns = 0;
		pulse->told = false;
		atomic_store(&pulse->asked, TR_PULSE_UNASKED);
		return;
	}
	if (pulse->seen_for_ns == 0)
		pulse->cpu_from_ns = cpu_ns(pulse);
	pulse->seen_for_ns += round->since_ns;
	if (round->ending && pulse->seen_for_ns >= tr_max_i64(limit_ns, END_AT_LEAST_NS))
		end_of(pulse);
	if (pulse->told || pulse->seen_for_ns < limit_ns)
		return;
	switch (atomic_load(&pulse->asked)) {
	case TR_PULSE_UNASKED:
		ask(pulse);
		return;
	case TR_PULSE_ASKED:
		pulse->asked_for_ns += round->since_ns;
		if (pulse->asked_for_ns < ANSWER_NS)
			return;
		break;
	default:
		break;
	}
	pulse->told = true;
	describe(pulse, &text);
	tr_log(TR_LEVEL_ERROR, "watchdog", "%s", text.failed ? pulse->name : text.data);
	tr_buf_free(&text);
}

void
tr_stuck_look(int64_t since_ns, bool ending)
{
	struct round round = {since_ns, ending};

	tr_pulse_each(look, &round);
}
