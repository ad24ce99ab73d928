/* `tailrace spool check|stat|dump|repair`: looks after the spool of a stopped server. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/args.h"
#include "cli/cli.h"
#include "spool/tool.h"

enum action { ACTION_CHECK, ACTION_STAT, ACTION_DUMP, ACTION_REPAIR, ACTIONS };

static const char *const names[ACTIONS] = {"check", "stat", "dump", "repair"};

static int
emit(void *arg, struct tr_str line)
{
	(void)arg;
	return fwrite(line.data, 1, line.len, stdout) == line.len && putchar('\n') != EOF ? TR_OK : TR_EIO;
}

static int
exit_status(int err)
{
	switch (err) {
	case TR_OK:
		return TR_EXIT_OK;
	case TR_ECORRUPT:
		return TR_EXIT_FAILED;
	case TR_ENOENT:
		return TR_EXIT_NOINPUT;
	case TR_EAGAIN: /* another process has it */
		return TR_EXIT_UNAVAILABLE;
	case TR_ENOMEM:
		return TR_EXIT_OSERR;
	case TR_EVERSION:
	case TR_EEXIST:
	case TR_EINVAL:
		return TR_EXIT_DATAERR;
	default:
		return TR_EXIT_IOERR;
	}
}

static int
find_action(const char *name)
{
	int i = 0;

	while (i < ACTIONS && strcmp(names[i], name) != 0)
		i++;
	return i;
}

int
tr_cmd_spool(int argc, char **argv)
{
	const char *meta = NULL, *data = NULL, *target = NULL;
	bool json = false, bodies = false;
	struct tr_arg_list rest = {0};
	const struct tr_arg options[] = {
		{"meta", "DIR", TR_ARG_TEXT, &meta, 0, 0, "the directory of the log (the spool named 'meta')"},
		{"data", "DIR", TR_ARG_TEXT, &data, 0, 0,
			"the directory of body files (the spool named 'data'); default: that of --meta"},
		{"json", NULL, TR_ARG_FLAG, &json, 0, 0, "check, stat: JSON lines instead of text"},
		{"bodies", NULL, TR_ARG_FLAG, &bodies, 0, 0, "dump: the messages' bytes, too (base64)"},
		{"target", "DIR", TR_ARG_TEXT, &target, 0, 0,
			"repair: write the clean spool there (DIR/meta and DIR/data); default: in place"},
		{0},
	};
	const struct tr_args args = {
		.command = "spool",
		.synopsis = "check|stat|dump|repair --meta DIR [--data DIR] [OPTIONS]",
		.about = "Looks after the spool of a stopped server.\n"
			 "  check   reads everything and tells what is damaged\n"
			 "  stat    counts: messages, bytes, queues, the ledger\n"
			 "  dump    every waiting message as a JSON line\n"
			 "  repair  writes a clean log of what is intact; the old one is kept",
		.options = options,
		.notes = "Exit status: 0 the spool is sound; 1 damage was found; 64 usage; 65 another version, or the\n"
			 "target exists; 66 no such directory; 69 a server uses it; 74 the disk failed.",
		.rest = &rest,
	};
	struct tr_buf out = {0};
	char *error = NULL;
	int action, err = tr_args_parse(&args, argc, argv);

	if (err != TR_ARGS_RUN)
		return err;
	action = rest.count == 1 ? find_action(rest.items[0]) : ACTIONS;
	tr_arg_list_free(&rest);
	if (action == ACTIONS)
		return tr_args_error(&args, "one of check, stat, dump and repair expected");
	if (meta == NULL)
		return tr_args_error(&args, "--meta DIR is needed");
	if (target != NULL && action != ACTION_REPAIR)
		return tr_args_error(&args, "--target belongs to repair");
	if (bodies && action != ACTION_DUMP)
		return tr_args_error(&args, "--bodies belongs to dump");
	if (json && action != ACTION_CHECK && action != ACTION_STAT)
		return tr_args_error(&args, "--json belongs to check and stat");
	if (data == NULL)
		data = meta;
	if (action == ACTION_CHECK)
		err = tr_spool_check(meta, data, json, &out, &error);
	else if (action == ACTION_STAT)
		err = tr_spool_stat(meta, data, json, &out, &error);
	else if (action == ACTION_DUMP)
		err = tr_spool_dump(meta, data, bodies, emit, NULL, &error);
	else
		err = tr_spool_repair(meta, data, target, &out, &error);
	if (out.len > 0)
		fwrite(out.data, 1, out.len, stdout);
	if (error != NULL)
		fprintf(stderr, "tailrace spool: %s\n", error);
	else if (err != TR_OK && err != TR_ECORRUPT)
		fprintf(stderr, "tailrace spool: %s\n", tr_err_text(err));
	free(error);
	tr_buf_free(&out);
	if (fflush(stdout) != 0 && err == TR_OK)
		return TR_EXIT_IOERR;
	return exit_status(err);
}
