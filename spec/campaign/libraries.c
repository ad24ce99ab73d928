#include "libraries.h"

#include <elf.h>
#include <errno.h>
#include <execinfo.h>
#include <link.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/base.h"
#include "memory.h"

char *__real_strndup(const char *text, size_t len);

/* Whose an allocation is, its return address says. Where a library's last deed is the call of malloc(), as in
 * CRYPTO_malloc(), that is the caller's: then it is libssl's, say, if not libcrypto's own. */
static struct library {
	char name[48];
	uintptr_t from, to; /* of its code */
	_Atomic uint64_t count;
} libraries[LIBRARIES_MAX];
static unsigned library_count;
static struct {
	_Atomic bool on;
	unsigned library;
	uint64_t after;
	_Atomic uint64_t times;
} plan;
static bool watch_all;
static void (*on_failure)(void);

const char *
libraries_name(unsigned library)
{
	return library < library_count ? libraries[library].name : NULL;
}

bool
libraries_aborts(unsigned library)
{
	static const char *const names[] = {"libev", "librdkafka"}; /* ev_realloc(), rd_malloc() */

	for (size_t i = 0; i < TR_COUNT(names); i++) {
		if (strcmp(libraries[library].name, names[i]) == 0)
			return true;
	}
	return false;
}

void
libraries_arm(unsigned library, uint64_t after, uint64_t times)
{
	for (unsigned i = 0; i < library_count; i++)
		atomic_store(&libraries[i].count, 0);
	plan.library = library;
	plan.after = after;
	atomic_store(&plan.times, times);
	atomic_store(&plan.on, true);
}

void
libraries_watch_all(void)
{
	watch_all = true;
}

void
libraries_calm(void)
{
	atomic_store(&plan.on, false);
}

uint64_t
libraries_allocated(unsigned library)
{
	return atomic_load(&libraries[library].count);
}

void
libraries_on_failure(void (*fn)(void))
{
	on_failure = fn;
}

/* --- in the place of malloc() and its like ------------------------------------------------------------------- */

static bool
fails(const void *caller)
{
	uintptr_t at = (uintptr_t)caller;
	unsigned i = 0;
	uint64_t n;

	if (!atomic_load(&plan.on) || !(watch_all || memory_counts()))
		return false;
	while (i < library_count && (at < libraries[i].from || at >= libraries[i].to))
		i++;
	if (i == library_count)
		return false;
	n = atomic_fetch_add(&libraries[i].count, 1);
	if (i != plan.library || n < plan.after || n - plan.after >= atomic_load(&plan.times))
		return false;
	if (on_failure != NULL)
		on_failure();
	if (getenv("MEMORY_TRACE") != NULL) {
		void *frames[32];

		backtrace_symbols_fd(frames, backtrace(frames, 32), STDERR_FILENO);
		fputs("--\n", stderr);
	}
	errno = ENOMEM;
	return true;
}

static void *
library_malloc(size_t size)
{
	return fails(__builtin_return_address(0)) ? NULL : malloc(size);
}

static void *
library_calloc(size_t count, size_t size)
{
	return fails(__builtin_return_address(0)) ? NULL : calloc(count, size);
}

static void *
library_realloc(void *memory, size_t size)
{
	return size > 0 && fails(__builtin_return_address(0)) ? NULL : realloc(memory, size);
}

static char *
library_strdup(const char *text)
{
	return fails(__builtin_return_address(0)) ? NULL : strdup(text);
}

static char *
library_strndup(const char *text, size_t len)
{
	return fails(__builtin_return_address(0)) ? NULL : __real_strndup(text, len);
}

/* --- taking them ----------------------------------------------------------------------------------------------- */

static void *
ours(const char *name)
{
	static const struct {
		const char *name;
		void *ours;
	} taken[] = {
		{"malloc", (void *)library_malloc},
		{"calloc", (void *)library_calloc},
		{"realloc", (void *)library_realloc},
		{"strdup", (void *)library_strdup},
		{"__strdup", (void *)library_strdup},
		{"strndup", (void *)library_strndup},
	};

	for (size_t i = 0; i < TR_COUNT(taken); i++) {
		if (strcmp(name, taken[i].name) == 0)
			return taken[i].ours;
	}
	return NULL;
}

/* Of a table of relocations. */
static void
turn(uintptr_t base, const ElfW(Rela) * at, size_t bytes, const ElfW(Sym) * symbols, const char *names)
{
	uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);

	for (const ElfW(Rela) *end = at + bytes / sizeof *at; at < end; at++) {
		const ElfW(Sym) *symbol = &symbols[ELF64_R_SYM(at->r_info)];
		void *function = ours(names + symbol->st_name);
		uintptr_t slot = base + at->r_offset;

		if (function == NULL)
			continue;
		/* read-only after its start, or not: it stays writable */
		if (mprotect((void *)(slot & ~(page - 1)), page, PROT_READ | PROT_WRITE) != 0) {
			perror("libraries: mprotect");
			abort();
		}
		*(void **)slot = function;
	}
}

static bool
is_left_alone(const char *name)
{
	static const char *const names[] = {"ld-", "libc.", "libm.", "libgcc_s", "libasan", "libubsan", "libtsan",
		"liblsan", "linux-vdso", "libcmocka"};

	for (size_t i = 0; i < TR_COUNT(names); i++) {
		if (strncmp(name, names[i], strlen(names[i])) == 0)
			return true;
	}
	return name[0] == '\0'; /* the program */
}

static int
take(struct dl_phdr_info *info, size_t size, void *arg)
{
	const char *slash = strrchr(info->dlpi_name, '/'), *name = slash != NULL ? slash + 1 : info->dlpi_name;
	const ElfW(Rela) *rela = NULL, *jumps = NULL;
	const ElfW(Sym) *symbols = NULL;
	const ElfW(Dyn) *at = NULL;
	const char *names = NULL;
	size_t rela_bytes = 0, jump_bytes = 0;
	struct library *library = &libraries[library_count];

	(void)size, (void)arg;
	if (is_left_alone(name))
		return 0;
	if (library_count == LIBRARIES_MAX)
		abort();
	library->from = UINTPTR_MAX;
	for (int i = 0; i < info->dlpi_phnum; i++) {
		const ElfW(Phdr) *part = &info->dlpi_phdr[i];
		uintptr_t from = info->dlpi_addr + part->p_vaddr;

		if (part->p_type == PT_DYNAMIC)
			at = (const void *)from;
		if (part->p_type != PT_LOAD || !(part->p_flags & PF_X))
			continue;
		library->from = from < library->from ? from : library->from;
		library->to = from + part->p_memsz > library->to ? from + part->p_memsz : library->to;
	}
	for (; at != NULL && at->d_tag != DT_NULL; at++) {
		switch (at->d_tag) { /* addresses are already those of the process */
		case DT_SYMTAB:
			symbols = (const void *)at->d_un.d_ptr;
			break;
		case DT_STRTAB:
			names = (const void *)at->d_un.d_ptr;
			break;
		case DT_RELA:
			rela = (const void *)at->d_un.d_ptr;
			break;
		case DT_RELASZ:
			rela_bytes = at->d_un.d_val;
			break;
		case DT_JMPREL:
			jumps = (const void *)at->d_un.d_ptr;
			break;
		case DT_PLTRELSZ:
			jump_bytes = at->d_un.d_val;
			break;
		default:
			break;
		}
	}
	if (symbols == NULL || names == NULL || library->from == UINTPTR_MAX)
		return 0;
	turn(info->dlpi_addr, rela, rela_bytes, symbols, names);
	turn(info->dlpi_addr, jumps, jump_bytes, symbols, names);
	snprintf(library->name, sizeof library->name, "%.*s", (int)strcspn(name, "."), name);
	library_count++;
	return 0;
}

void
libraries_take(void)
{
	void *frame;

	backtrace(&frame, 1); /* what it loads, it loads now */
	dl_iterate_phdr(take, NULL);
}
