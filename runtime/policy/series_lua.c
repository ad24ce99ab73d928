/* tr.series: counts by stretches of time, process-wide by name. lua/kumo/counter_series.lua makes kumo.counter_series
 * of it. Any worker; a mutex for all: an update is a few nanoseconds. */
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "policy/library.h"
#include "policy/policy.h"

#define SERIES "tr.series"
#define BUCKETS_MAX 255

struct series {
	struct series *next;
	int refs; /* the list holds one */
	char *name;
	int count;        /* of buckets, 1 to BUCKETS_MAX */
	int64_t width_s;  /* of a bucket, >= 1 */
	int64_t newest;   /* number of the bucket that counts now: monotonic seconds / width_s */
	double buckets[]; /* number % count */
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct series *all;

static int64_t
bucket_now(const struct series *series)
{
	return tr_mono_ns() / TR_NS_PER_S / series->width_s;
}

/* Empties the buckets whose time is over. The lock is held. */
static void
turn(struct series *series)
{
	int64_t now = bucket_now(series);

	if (now - series->newest >= series->count)
		memset(series->buckets, 0, (size_t)series->count * sizeof series->buckets[0]);
	else
		for (int64_t i = series->newest + 1; i <= now; i++)
			series->buckets[i % series->count] = 0;
	series->newest = now;
}

static void
unref(struct series *series)
{
	if (series == NULL || --series->refs > 0)
		return;
	free(series->name);
	free(series);
}

static struct series *
make(const char *name, int count, int64_t width_s, double initial)
{
	struct series *series = calloc(1, sizeof *series + (size_t)count * sizeof series->buckets[0]);

	if (series != NULL)
		series->name = strdup(name);
	if (series == NULL || series->name == NULL) {
		free(series);
		return NULL;
	}
	series->refs = 1;
	series->count = count;
	series->width_s = width_s;
	series->newest = bucket_now(series);
	series->buckets[series->newest % count] = initial;
	series->next = all;
	all = series;
	return series;
}

/* open(name, buckets, seconds, initial) -> series */
static int
l_open(lua_State *L)
{
	const char *name = luaL_checkstring(L, 1);
	int count = (int)luaL_checkinteger(L, 2);
	int64_t width_s = (int64_t)luaL_checknumber(L, 3);
	double initial = luaL_optnumber(L, 4, 0);
	struct series **handle, *found, **at;

	luaL_argcheck(L, count >= 1 && count <= BUCKETS_MAX, 2, "1 to 255 expected");
	luaL_argcheck(L, width_s >= 1, 3, "at least a second expected");
	handle = lua_newuserdata(L, sizeof(struct series *));
	*handle = NULL;
	luaL_getmetatable(L, SERIES);
	lua_setmetatable(L, -2);
	pthread_mutex_lock(&lock);
	for (at = &all; *at != NULL && strcmp((*at)->name, name) != 0; at = &(*at)->next)
		;
	found = *at;
	if (found != NULL && (found->count != count || found->width_s != width_s)) {
		*at = found->next; /* handles of the old one go on with it */
		unref(found);
		found = NULL;
	}
	if (found == NULL)
		found = make(name, count, width_s, initial);
	if (found != NULL)
		found->refs++;
	pthread_mutex_unlock(&lock);
	*handle = found;
	return found != NULL ? 1 : luaL_error(L, "out of memory");
}

static int
l_gc(lua_State *L)
{
	struct series **handle = luaL_checkudata(L, 1, SERIES);

	pthread_mutex_lock(&lock);
	unref(*handle);
	pthread_mutex_unlock(&lock);
	*handle = NULL;
	return 0;
}

/* The lock is taken. */
static struct series *
take(lua_State *L)
{
	struct series *series = *(struct series **)luaL_checkudata(L, 1, SERIES);

	pthread_mutex_lock(&lock);
	turn(series);
	return series;
}

/* series:add(n): the bucket of now does not fall below 0. */
static int
l_add(lua_State *L)
{
	double n = luaL_checknumber(L, 2);
	struct series *series = take(L);
	double *bucket = &series->buckets[series->newest % series->count];

	*bucket = fmax(0, *bucket + n);
	pthread_mutex_unlock(&lock);
	return 0;
}

/* series:set(n) */
static int
l_set(lua_State *L)
{
	double n = luaL_checknumber(L, 2);
	struct series *series = take(L);

	series->buckets[series->newest % series->count] = n;
	pthread_mutex_unlock(&lock);
	return 0;
}

/* series:sum([seconds]): of the buckets that the last seconds touch. */
static int
l_sum(lua_State *L)
{
	double seconds = luaL_optnumber(L, 2, HUGE_VAL), sum = 0;
	struct series *series = take(L);
	double wanted = fmax(1, ceil(seconds / (double)series->width_s));
	int count = wanted < series->count ? (int)wanted : series->count;

	for (int i = 0; i < count && i <= series->newest; i++)
		sum += series->buckets[(series->newest - i) % series->count];
	pthread_mutex_unlock(&lock);
	lua_pushnumber(L, sum);
	return 1;
}

int
luaopen_tr_series(lua_State *L)
{
	static const luaL_Reg functions[] = {{"open", l_open}, {NULL, NULL}};
	static const luaL_Reg methods[] = {
		{"add", l_add}, {"set", l_set}, {"sum", l_sum}, {"__gc", l_gc}, {NULL, NULL}};

	luaL_newmetatable(L, SERIES);
	lua_pushvalue(L, -1);
	lua_setfield(L, -2, "__index");
	luaL_register(L, NULL, methods);
	lua_newtable(L);
	luaL_register(L, NULL, functions);
	return 1;
}
