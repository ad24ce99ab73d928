#include "chunks.h"

#include <dlfcn.h>
#include <lauxlib.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

lua_State *__real_luaL_newstate(void); /* not the one whose allocations count */

struct chunk {
	struct chunk *next;
	char *path, *code; /* all live as long as the process */
	size_t len;
};

static struct chunk *chunks;
static bool from_source;

void
chunks_from_source(bool on)
{
	from_source = on;
}

static int
add_code(lua_State *L, const void *bytes, size_t len, void *arg)
{
	struct chunk *chunk = arg;
	char *code = realloc(chunk->code, chunk->len + len);

	(void)L;
	if (code == NULL)
		return 1;
	memcpy(code + chunk->len, bytes, len);
	chunk->code = code;
	chunk->len += len;
	return 0;
}

/* In a state of its own, so that no state that is watched knows. NULL: as it does not compile, or for want of memory.
 */
static const struct chunk *
compiled(const char *path, int (*load)(lua_State *L, const char *path, const char *mode))
{
	struct chunk *chunk = chunks;
	lua_State *L;

	while (chunk != NULL && strcmp(chunk->path, path) != 0)
		chunk = chunk->next;
	if (chunk != NULL)
		return chunk;
	chunk = calloc(1, sizeof *chunk);
	L = __real_luaL_newstate();
	if (chunk != NULL && L != NULL && (chunk->path = strdup(path)) != NULL && load(L, path, NULL) == 0 &&
		lua_dump(L, add_code, chunk) == 0) {
		chunk->next = chunks;
		chunks = chunk;
	} else if (chunk != NULL) {
		free(chunk->path);
		free(chunk->code);
		free(chunk);
		chunk = NULL;
	}
	if (L != NULL)
		lua_close(L);
	return chunk;
}

int
luaL_loadfilex(lua_State *L, const char *path, const char *mode)
{
	static int (*load)(lua_State * L, const char *path, const char *mode);
	const struct chunk *chunk = NULL;
	void *symbol = load == NULL ? dlsym(RTLD_NEXT, "luaL_loadfilex") : NULL;

	if (load == NULL)
		memcpy(&load, &symbol, sizeof load);
	if (path != NULL && !from_source)
		chunk = compiled(path, load);
	return chunk != NULL ? luaL_loadbufferx(L, chunk->code, chunk->len, path, mode) : load(L, path, mode);
}

int
luaL_loadfile(lua_State *L, const char *path)
{
	return luaL_loadfilex(L, path, NULL);
}

/* LuaJIT asks the kernel so for the seed of its strings' hashes, and how often a table grows depends on who collides in
 * it: the same case shall have the same allocations each time. */
long
syscall(long number, ...)
{
	static long (*real)(long number, ...);
	void *symbol = real == NULL ? dlsym(RTLD_NEXT, "syscall") : NULL;
	long arg[6];
	va_list args;

	if (real == NULL)
		memcpy(&real, &symbol, sizeof real);
	va_start(args, number);
	for (int i = 0; i < 6; i++)
		arg[i] = va_arg(args, long);
	va_end(args);
	if (number != SYS_getrandom)
		return real(number, arg[0], arg[1], arg[2], arg[3], arg[4], arg[5]);
	memset((void *)arg[0], 1, (size_t)arg[1]); // NOLINT(performance-no-int-to-ptr): as the kernel takes it
	return arg[1];
}
