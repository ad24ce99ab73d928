#include "cli/args.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/options.h"
#include "cli/cli.h"

enum { MAX_OPTIONS = 64 };

void
tr_arg_list_free(struct tr_arg_list *list)
{
	free(list->items);
	*list = (struct tr_arg_list){0};
}

static int
list_add(struct tr_arg_list *list, const char *item)
{
	const char **items = realloc(list->items, (list->count + 1) * sizeof *items);

	if (items == NULL) {
		fputs("tailrace: out of memory\n", stderr);
		return TR_EXIT_OSERR;
	}
	items[list->count++] = item;
	list->items = items;
	return TR_ARGS_RUN;
}

int
tr_args_error(const struct tr_args *args, const char *fmt, ...)
{
	va_list ap;

	fprintf(stderr, "tailrace %s: ", args->command);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fprintf(stderr, "\nTry 'tailrace %s --help'.\n", args->command);
	return TR_EXIT_USAGE;
}

static void
print_help(const struct tr_args *args)
{
	printf("Usage: tailrace %s %s\n", args->command, args->synopsis);
	if (args->about != NULL)
		printf("\n%s\n", args->about);
	puts("\nOptions:");
	for (const struct tr_arg *option = args->options; option->name != NULL; option++) {
		char left[64];
		int len = snprintf(left, sizeof left, "--%s%s%s", option->name, option->value ? " " : "",
			option->value ? option->value : "");

		if (len <= 26)
			printf("  %-26s ", left);
		else
			printf("  %s\n  %-26s ", left, "");
		for (const char *at = option->help; *at != '\0';
			at++) { /* lines of a long text start below each other */
			putchar(*at);
			if (*at == '\n')
				printf("  %-26s ", "");
		}
		putchar('\n');
	}
	puts("  --help                     this text");
	if (args->notes != NULL)
		printf("\n%s\n", args->notes);
}

static const struct tr_arg *
find_option(const struct tr_args *args, const char *name, size_t len)
{
	for (const struct tr_arg *option = args->options; option->name != NULL; option++)
		if (strlen(option->name) == len && memcmp(option->name, name, len) == 0)
			return option;
	return NULL;
}

static int
unknown_option(const struct tr_args *args, const char *name, size_t len)
{
	const char *names[MAX_OPTIONS + 1] = {NULL};
	char text[64];
	int count = 0;

	for (const struct tr_arg *option = args->options; option->name != NULL && count < MAX_OPTIONS; option++)
		names[count++] = option->name;
	snprintf(text, sizeof text, "%.*s", (int)(len < 60 ? len : 60), name);
	const char *near = tr_nearest(text, names);

	if (near != NULL)
		return tr_args_error(args, "unknown option '--%s', did you mean '--%s'?", text, near);
	return tr_args_error(args, "unknown option '--%s'", text);
}

static int
set_number(const struct tr_args *args, const struct tr_arg *option, const char *text)
{
	char *end;
	double value = strtod(text, &end);
	double max = option->min == 0 && option->max == 0 ? 9e15 : option->max; /* 9e15: exact in a double */
	const char *what = option->kind == TR_ARG_REAL ? "a number" : "a whole number";

	if (end != text && option->kind == TR_ARG_SIZE && *end != '\0') {
		static const char units[] = "kKmMgG";
		const char *unit = strchr(units, *end);

		if (unit != NULL) {
			value = ldexp(value, 10 * (int)((unit - units) / 2 + 1));
			end++;
		}
		what = "a number of bytes (k, M, G may follow)";
	}
	if (end == text || *end != '\0' || !isfinite(value) || (option->kind != TR_ARG_REAL && value != floor(value)))
		return tr_args_error(args, "option '--%s': %s expected, got '%s'", option->name, what, text);
	if (value < option->min || value > max)
		return tr_args_error(args, "option '--%s': %s is out of range (%.15g to %.15g)", option->name, text,
			option->min, max);
	if (option->kind == TR_ARG_REAL)
		*(double *)option->out = value;
	else
		*(int64_t *)option->out = (int64_t)value;
	return TR_ARGS_RUN;
}

static int
set_value(const struct tr_args *args, const struct tr_arg *option, const char *text)
{
	switch (option->kind) {
	case TR_ARG_FLAG:
		break; /* the caller did it */
	case TR_ARG_TEXT:
		*(const char **)option->out = text;
		break;
	case TR_ARG_LIST:
		return list_add(option->out, text);
	case TR_ARG_INT:
	case TR_ARG_SIZE:
	case TR_ARG_REAL:
		return set_number(args, option, text);
	}
	return TR_ARGS_RUN;
}

int
tr_args_parse(const struct tr_args *args, int argc, char **argv)
{
	bool seen[MAX_OPTIONS] = {false};
	bool only_rest = false;

	for (int i = 1; i < argc; i++) {
		const char *arg = argv[i];

		if (!only_rest && strcmp(arg, "--") == 0) {
			only_rest = true;
			continue;
		}
		if (!only_rest && (strcmp(arg, "--help") == 0 || strcmp(arg, "-h") == 0)) {
			print_help(args);
			return TR_EXIT_OK;
		}
		if (only_rest || arg[0] != '-' || arg[1] == '\0') {
			if (args->rest == NULL)
				return tr_args_error(args, "unexpected argument '%s'", arg);
			int rc = list_add(args->rest, arg);

			if (rc != TR_ARGS_RUN)
				return rc;
			continue;
		}
		if (arg[1] != '-')
			return tr_args_error(args, "unknown option '%s' (options start with two dashes)", arg);

		const char *name = arg + 2;
		size_t len = strcspn(name, "=");
		const char *value = name[len] == '=' ? name + len + 1 : NULL;
		const struct tr_arg *option = find_option(args, name, len);

		if (option == NULL)
			return unknown_option(args, name, len);
		size_t index = (size_t)(option - args->options);

		if (option->kind != TR_ARG_LIST && index < MAX_OPTIONS) {
			if (seen[index])
				return tr_args_error(args, "option '--%s' is given twice", option->name);
			seen[index] = true;
		}
		if (option->kind == TR_ARG_FLAG) {
			if (value != NULL)
				return tr_args_error(args, "option '--%s' takes no value", option->name);
			*(bool *)option->out = true;
			continue;
		}
		if (value == NULL) {
			if (i + 1 >= argc)
				return tr_args_error(
					args, "option '--%s' needs a value (%s)", option->name, option->value);
			value = argv[++i];
		}
		int rc = set_value(args, option, value);

		if (rc != TR_ARGS_RUN)
			return rc;
	}
	return TR_ARGS_RUN;
}
