/* `tailrace dead ...`: dead letters of a running node, or of a stopped one's spool. lua/dead_tool.lua does the work. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "cli/args.h"
#include "cli/cli.h"
#include "cli/server.h"

static void
add_text(struct tr_buf *json, const char *key, const char *value)
{
	if (value == NULL)
		return;
	tr_json_add_key(json, key);
	tr_json_add_string(json, tr_str(value));
	tr_buf_addc(json, ',');
}

int
tr_cmd_dead(int argc, char **argv)
{
	static const char *const actions[] = {"list", "show", "replay", "export", "purge"};
	const char *admin = NULL, *meta = NULL, *data = NULL, *hook = NULL, *since = NULL, *until = NULL,
		   *reason = NULL;
	struct tr_arg_list ids = {0}, rest = {0};
	bool all = false, json = false, known = false;
	int64_t limit = 0;
	const struct tr_arg options[] = {
		{"hook", "NAME", TR_ARG_TEXT, &hook, 0, 0, "letters of this hook"},
		{"id", "ID", TR_ARG_LIST, &ids, 0, 0, "this letter; may be repeated"},
		{"since", "MOMENT", TR_ARG_TEXT, &since, 0, 0, "that died at or after, e.g. 2026-11-25T18:00:00Z"},
		{"until", "MOMENT", TR_ARG_TEXT, &until, 0, 0, "that died at or before"},
		{"reason", "REASON", TR_ARG_TEXT, &reason, 0, 0, "rejected, expired or policy_error"},
		{"limit", "N", TR_ARG_INT, &limit, 0, 9e15, "at most so many, the oldest of each hook first"},
		{"all", NULL, TR_ARG_FLAG, &all, 0, 0, "replay, purge: all letters of all hooks"},
		{"admin", "URL", TR_ARG_TEXT, &admin, 0, 0, "the node's HTTP listener; default http://127.0.0.1:8000"},
		{"meta", "DIR", TR_ARG_TEXT, &meta, 0, 0, "the spool of a stopped node: its directory `meta`"},
		{"data", "DIR", TR_ARG_TEXT, &data, 0, 0, "and its directory `data`; default: that of --meta"},
		{"json", NULL, TR_ARG_FLAG, &json, 0, 0, "print JSON"},
		{NULL, NULL, 0, NULL, 0, 0, NULL},
	};
	const struct tr_args args = {
		"dead",
		"list|show|replay|export|purge [FILTER] [--admin URL | --meta DIR]",
		"Log records that were refused for good or have expired, and those that are parked as the policy "
		"failed.\n"
		"list: what they are; show: with the record; export: each as a line of JSON; replay: back into their "
		"queues, as\nnew, or decided again; purge: dropped, which the ledger counts.",
		options,
		"All filters that are given must fit. Exit status: 0; 1 it cannot be asked, or a letter could not be "
		"read.",
		&rest,
	};
	struct tr_buf request = {0}, script = {0};
	int status = tr_args_parse(&args, argc, argv);

	if (status == TR_ARGS_RUN) {
		for (size_t i = 0; i < TR_COUNT(actions) && rest.count == 1; i++)
			known = known || strcmp(rest.items[0], actions[i]) == 0;
		if (!known)
			status = tr_args_error(&args, "one of list, show, replay, export and purge is required");
		else if (admin != NULL && meta != NULL)
			status = tr_args_error(
				&args, "--admin asks a running node, --meta opens a stopped one's spool: only one");
		else if (data != NULL && meta == NULL)
			status = tr_args_error(&args, "--data needs --meta");
	}
	if (status == TR_ARGS_RUN) {
		tr_buf_addc(&request, '{');
		add_text(&request, "action", rest.items[0]);
		add_text(&request, "hook", hook);
		add_text(&request, "since", since);
		add_text(&request, "until", until);
		add_text(&request, "reason", reason);
		add_text(&request, "admin", admin != NULL ? admin : "http://127.0.0.1:8000");
		add_text(&request, "meta", meta);
		add_text(&request, "data", data != NULL ? data : meta);
		if (ids.count > 0) {
			tr_buf_addz(&request, "\"ids\":[");
			for (size_t i = 0; i < ids.count; i++) {
				if (i > 0)
					tr_buf_addc(&request, ',');
				tr_json_add_string(&request, tr_str(ids.items[i]));
			}
			tr_buf_addz(&request, "],");
		}
		if (limit > 0)
			tr_buf_addf(&request, "\"limit\":%lld,", (long long)limit);
		tr_buf_addf(&request, "\"all\":%s,\"json\":%s}", all ? "true" : "false", json ? "true" : "false");
		tr_buf_addc(&request, '\0');
		tr_buf_addf(&script, "%s/lua/dead_tool.lua", tr_share_dir());
		tr_buf_addc(&script, '\0');
		char *call[] = {argv[0], script.data, request.data, NULL};

		status = script.failed || request.failed ? TR_EXIT_OSERR : tr_cmd_lua(3, call);
	}
	tr_buf_free(&request);
	tr_buf_free(&script);
	tr_arg_list_free(&ids);
	tr_arg_list_free(&rest);
	return status;
}
