/* The allocator of a host's Lua: LuaJIT's own, a bound, and a reserve.
 *
 * LuaJIT (that of 2022, as Debian 12 has it) is not made for an allocator that gives NULL. lj_err_mem() puts the error
 * at L->top, which most instructions do not keep: where a Lua function builds a table, a closure or a text, or needs a
 * larger stack, the error lands in a slot of some outer function, or behind the stack. In C functions L->top is right.
 * So NULL must not come to an instruction:
 *
 * - What is not larger than LARGE comes from a reserve when there is no memory, and a hook looks before the next
 *   instruction: it collects all garbage, and if there still is no memory it raises, which is safe there.
 * - What is larger gets NULL. It is for C functions, such as string.rep, and for tables and texts that grow, twice as
 *   large each time: after each step from LARGE / 2 on it is tried whether the next ones would find room, and if not
 *   the same hook raises before they come.
 *
 * What is left: one `..` of many large texts that does not fit though four times the largest did; and compiled code
 * (--jit), which runs the hook only when it leaves for a collection, and may use up the reserve until then.
 *
 * The bound is the same hook: over it garbage is collected, and what runs is interrupted if that was not enough. One
 * step from below may take it to three times the bound (a table that doubles); past four times nothing is given but by
 * the reserve. */
#include "policy/memory.h"

#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/diag.h"
#include "base/metrics.h"
#include "policy/internal.h"
#include "policy/reserve.h"

#define RESERVE_BYTES ((size_t)2 << 20)
#define LARGE ((size_t)640 << 10) /* LuaJIT's largest stack, 65,500 slots, is 512 KiB */
#define ROOM_TIMES 4              /* a text that is put behind itself needs a buffer and a copy of twice the size */
#define PROBE_BYTES ((size_t)64 << 10)
#define HARD_TIMES 4
#define TIMES_MAX 3 /* errors that a handler may catch before it is ended without being asked */
#define TELL_NS (10 * TR_NS_PER_S)

static size_t
used_of(const struct tr_memory *memory)
{
	return atomic_load_explicit(&memory->used, memory_order_relaxed);
}

static void
add_used(struct tr_memory *memory, size_t bytes)
{
	atomic_store_explicit(&memory->used, used_of(memory) + bytes, memory_order_relaxed);
}

static size_t
reserved(const struct tr_memory *memory)
{
	size_t bytes = 0;

	for (int i = 0; i < TR_MEMORY_RESERVES && memory->reserve[i] != NULL; i++)
		bytes += tr_reserve_used(memory->reserve[i]);
	return bytes;
}

static void
settle(struct tr_memory *memory)
{
	memory->slow_at = reserved(memory) > 0 ? 0 : memory->mark;
}

static void
set_alarm(struct tr_host *host, unsigned alarm)
{
	if (host->memory.alarm & alarm)
		return;
	host->memory.alarm |= alarm;
	lua_sethook(host->L, tr_task_hook, LUA_MASKCALL | LUA_MASKRET | LUA_MASKCOUNT, 1);
}

static void
account(struct tr_host *host, size_t old_size, size_t new_size)
{
	add_used(&host->memory, new_size - old_size);
	if (new_size > old_size && used_of(&host->memory) > host->memory.mark)
		set_alarm(host, TR_MEMORY_OVER);
}

/* Whether LuaJIT's allocator has so much. */
static bool
has_room(struct tr_memory *memory, size_t bytes)
{
	void *probe = memory->alloc(memory->alloc_arg, NULL, 0, bytes);

	if (probe == NULL)
		return false;
	memory->alloc(memory->alloc_arg, probe, bytes, 0);
	return true;
}

static void *
take(struct tr_memory *memory, size_t bytes)
{
	void *out = NULL;

	for (int i = 0; i < TR_MEMORY_RESERVES && memory->reserve[i] != NULL && out == NULL; i++)
		out = tr_reserve_take(memory->reserve[i], bytes);
	return out;
}

static struct tr_reserve *
holder(const struct tr_memory *memory, const void *ptr)
{
	for (int i = 0; i < TR_MEMORY_RESERVES && memory->reserve[i] != NULL; i++) {
		if (tr_reserve_holds(memory->reserve[i], ptr))
			return memory->reserve[i];
	}
	return NULL;
}

static void
give(struct tr_memory *memory, struct tr_reserve *reserve, void *ptr)
{
	tr_reserve_give(reserve, ptr);
	for (int i = 1; i < TR_MEMORY_RESERVES && memory->reserve[i] != NULL; i++) {
		if (tr_reserve_used(memory->reserve[i]) > 0)
			continue;
		tr_reserve_free(memory->reserve[i]);
		memmove(&memory->reserve[i], &memory->reserve[i + 1],
			(size_t)(TR_MEMORY_RESERVES - 1 - i) * sizeof *memory->reserve);
		memory->reserve[TR_MEMORY_RESERVES - 1] = NULL;
		break;
	}
	settle(memory);
}

/* There is no memory for it, or, `over`, it is past four times the limit. ptr is not in a reserve. */
static __attribute__((noinline)) void *
without_memory(struct tr_host *host, void *ptr, size_t old_size, size_t new_size, bool over)
{
	struct tr_memory *memory = &host->memory;
	void *out = ptr; /* to make it shorter may need memory, too; LuaJIT's allocator knows lengths by itself */

	if (new_size > old_size) {
		out = new_size <= LARGE ? take(memory, new_size) : NULL;
		if (out == NULL) {
			memory->refused |= over;
			return NULL;
		}
		if (ptr != NULL) {
			memcpy(out, ptr, old_size);
			memory->alloc(memory->alloc_arg, ptr, old_size, 0);
		}
		settle(memory);
		if (!over && reserved(memory) > memory->short_at)
			set_alarm(host, TR_MEMORY_SHORT);
	}
	account(host, old_size, new_size);
	return out;
}

/* ptr lies in a reserve. */
static void *
move(struct tr_host *host, struct tr_reserve *reserve, void *ptr, size_t old_size, size_t new_size)
{
	struct tr_memory *memory = &host->memory;
	void *out = NULL;

	if (new_size > 0)
		out = memory->alloc(memory->alloc_arg, NULL, 0, new_size); /* back where it belongs */
	if (out == NULL && new_size > 0 && (new_size <= LARGE || new_size < old_size)) {
		out = tr_reserve_resize(reserve, ptr, new_size) ? ptr : take(memory, new_size);
		if (new_size > old_size && reserved(memory) > memory->short_at)
			set_alarm(host, TR_MEMORY_SHORT);
	}
	if (out == NULL && new_size > 0)
		return NULL;
	if (out != ptr) {
		if (out != NULL)
			memcpy(out, ptr, old_size < new_size ? old_size : new_size);
		give(memory, reserve, ptr);
	}
	account(host, old_size, new_size);
	return out;
}

/* Something grows: will what it needs next be there? */
static void
look_ahead(struct tr_host *host, size_t bytes)
{
	struct tr_memory *memory = &host->memory;

	if (!(memory->alarm & TR_MEMORY_SHORT) && has_room(memory, bytes))
		return;
	memory->wanted = bytes > memory->wanted ? bytes : memory->wanted;
	set_alarm(host, TR_MEMORY_SHORT);
}

static __attribute__((noinline)) void *
slow_alloc(struct tr_host *host, void *ptr, size_t old_size, size_t new_size)
{
	struct tr_memory *memory = &host->memory;
	struct tr_reserve *reserve = ptr != NULL ? holder(memory, ptr) : NULL;
	size_t used = used_of(memory) - old_size + new_size;
	void *out;

	if (reserve != NULL)
		return move(host, reserve, ptr, old_size, new_size);
	if (memory->limit > 0 && new_size > old_size && used / HARD_TIMES > memory->limit)
		return without_memory(host, ptr, old_size, new_size, true);
	out = memory->alloc(memory->alloc_arg, ptr, old_size, new_size);
	if (out == NULL && new_size > 0)
		return without_memory(host, ptr, old_size, new_size, false);
	account(host, old_size, new_size);
	if (new_size > old_size && new_size > LARGE / 2)
		look_ahead(host, new_size * ROOM_TIMES);
	return out;
}

static __attribute__((noinline)) void *
resize(struct tr_host *host, void *ptr, size_t old_size, size_t new_size)
{
	void *out = host->memory.alloc(host->memory.alloc_arg, ptr, old_size, new_size);

	if (out == NULL)
		return without_memory(host, ptr, old_size, new_size, false);
	add_used(&host->memory, new_size - old_size);
	return out;
}

static __attribute__((noinline)) void *
make(struct tr_host *host, size_t size)
{
	void *out = host->memory.alloc(host->memory.alloc_arg, NULL, 0, size);

	if (out == NULL && size > 0)
		return without_memory(host, NULL, 0, size, false);
	add_used(&host->memory, size);
	return out;
}

/* The argument is the host, so that tr_host_of() costs one load. Three ways, so that none keeps registers for another.
 */
static void *
host_alloc(void *arg, void *ptr, size_t old_size, size_t new_size)
{
	struct tr_host *host = arg;
	size_t used = used_of(&host->memory) - old_size + new_size;

	if (__builtin_expect(used > host->memory.slow_at || new_size > LARGE / 2, false))
		return slow_alloc(host, ptr, old_size, new_size);
	if (ptr == NULL)
		return make(host, new_size);
	if (new_size > 0)
		return resize(host, ptr, old_size, new_size);
	add_used(&host->memory, -old_size);
	return host->memory.alloc(host->memory.alloc_arg, ptr, old_size, 0);
}

bool
tr_memory_init(struct tr_host *host, size_t limit, const char *remedy)
{
	struct tr_memory *memory = &host->memory;

	memory->reserve[0] = tr_reserve_new(RESERVE_BYTES);
	if (memory->reserve[0] == NULL)
		return false;
	memory->alloc = lua_getallocf(host->L, &memory->alloc_arg);
	memory->limit = limit;
	memory->remedy = remedy;
	memory->mark = limit > 0 ? limit : SIZE_MAX;
	settle(memory);
	atomic_init(&memory->used, (size_t)lua_gc(host->L, LUA_GCCOUNT, 0) * 1024 + 1024); /* it rounds down */
	lua_setallocf(host->L, host_alloc, host);
	return true;
}

void
tr_memory_release(struct tr_host *host, lua_State *L)
{
	/* Else its own allocator would be asked to free what is not its: then the arena's last pages stay. */
	if (reserved(&host->memory) == 0)
		lua_setallocf(L, host->memory.alloc, host->memory.alloc_arg);
}

static void
publish(void *arg)
{
	const struct tr_host *host = arg;

	tr_metric_set(host->memory.bytes_metric, (int64_t)tr_host_memory(host));
	tr_metric_set(host->memory.interrupts_metric, (int64_t)tr_host_memory_interrupts(host));
}

void
tr_memory_measure(struct tr_host *host)
{
	char worker[16];

	snprintf(worker, sizeof worker, "%u", host->worker);
	host->memory.bytes_metric = tr_metric_get(
		TR_GAUGE, "tailrace_lua_memory_bytes", "memory of a worker's Lua", "worker", worker, NULL);
	host->memory.interrupts_metric = tr_metric_get(TR_COUNTER, "tailrace_lua_memory_interrupts_total",
		"errors that were raised for want of memory, or of --lua-memory", "worker", worker, NULL);
	tr_metrics_add_collector(publish, host);
}

void
tr_memory_fini(struct tr_host *host)
{
	if (host->memory.bytes_metric != NULL) {
		tr_metrics_remove_collector(publish, host);
		tr_metric_unref(host->memory.bytes_metric);
		tr_metric_unref(host->memory.interrupts_metric);
	}
	for (int i = 0; i < TR_MEMORY_RESERVES; i++)
		tr_reserve_free(host->memory.reserve[i]);
}

/* Another one in place of one that is in use though there is memory again: what lies in it may stay for long. */
static void
refill(struct tr_memory *memory)
{
	struct tr_reserve *fresh;

	if (tr_reserve_used(memory->reserve[0]) < RESERVE_BYTES / 4 || memory->reserve[TR_MEMORY_RESERVES - 1] != NULL)
		return;
	fresh = tr_reserve_new(RESERVE_BYTES);
	if (fresh == NULL)
		return;
	memmove(&memory->reserve[1], &memory->reserve[0], (TR_MEMORY_RESERVES - 1) * sizeof *memory->reserve);
	memory->reserve[0] = fresh;
}

/* After a collection: what is raised next, and when. Returns what is so now. */
static unsigned
judge(struct tr_memory *memory, unsigned alarm)
{
	size_t used = used_of(memory), step = memory->limit / 16;
	unsigned now = 0;

	if (memory->limit > 0) { /* the step: not a collection for each allocation near the limit */
		memory->mark = used + step > memory->limit ? used + step : memory->limit;
		now |= used > memory->limit ? TR_MEMORY_OVER : 0;
	}
	if ((alarm & TR_MEMORY_SHORT) &&
		!has_room(memory, memory->wanted > PROBE_BYTES ? memory->wanted : PROBE_BYTES)) {
		memory->short_at = reserved(memory) + RESERVE_BYTES / 8;
		now |= TR_MEMORY_SHORT;
	} else {
		refill(memory);
		memory->short_at = reserved(memory);
	}
	memory->wanted = 0;
	settle(memory);
	return now;
}

static void
tell(struct tr_host *host, unsigned now, int64_t now_ns)
{
	host->memory.told_at_ns = now_ns;
	tr_log(TR_LEVEL_WARN, "lua", "worker %u: no memory for Lua, which has %zu KiB: %s", host->worker,
		used_of(&host->memory) >> 10,
		now & TR_MEMORY_SHORT ? "what runs is interrupted" : "a reserve and a collection have helped");
}

unsigned
tr_memory_look(struct tr_host *host, lua_State *L)
{
	struct tr_memory *memory = &host->memory;
	uint64_t stretch = atomic_load_explicit(&host->stretch, memory_order_relaxed);
	unsigned alarm = memory->alarm, now;
	int64_t now_ns;

	memory->alarm = 0;
	lua_gc(L, LUA_GCCOLLECT, 0);
	alarm |= memory->alarm;
	memory->alarm = 0;
	now = judge(memory, alarm);
	if (alarm & TR_MEMORY_SHORT) {
		now_ns = tr_mono_ns();
		if (memory->told_at_ns == 0 || now_ns - memory->told_at_ns >= TELL_NS)
			tell(host, now, now_ns);
	}
	if (memory->refused) {
		memory->refused = false;
		tr_log(TR_LEVEL_WARN, "lua",
			"worker %u: a function in C asked for more than %zu MiB, and was refused%s%s", host->worker,
			memory->limit * HARD_TIMES >> 20, memory->remedy != NULL ? ": " : "",
			memory->remedy != NULL ? memory->remedy : "");
	}
	if (now == 0)
		return 0;
	if (memory->raised_in != stretch)
		memory->times = 0;
	memory->raised_in = stretch;
	memory->raised = true;
	atomic_fetch_add_explicit(&memory->interrupts, 1, memory_order_relaxed);
	if (++memory->times > TIMES_MAX || tr_reserve_used(memory->reserve[0]) > RESERVE_BYTES / 4 * 3)
		now |= TR_MEMORY_AGAIN;
	return now;
}

static int
l_collect(lua_State *L)
{
	lua_gc(L, LUA_GCCOLLECT, 0);
	return 0;
}

void
tr_memory_relieve(struct tr_host *host)
{
	host->memory.raised = false;
	if (lua_cpcall(host->L, l_collect, NULL) != 0) /* for want of memory; the next alarm tries it again */
		lua_pop(host->L, 1);
	judge(&host->memory, TR_MEMORY_SHORT);
}

size_t
tr_host_memory(const struct tr_host *host)
{
	return used_of(&host->memory);
}

uint64_t
tr_host_memory_interrupts(const struct tr_host *host)
{
	return atomic_load_explicit(&host->memory.interrupts, memory_order_relaxed);
}
