/* `tailrace why QUEUE|MESSAGE`: asks a running node through its HTTP listener what holds it. lua/why.lua does the work.
 */
#include <stdio.h>
#include <stdlib.h>

#include "base/buf.h"
#include "cli/args.h"
#include "cli/cli.h"
#include "cli/server.h"

int
tr_cmd_why(int argc, char **argv)
{
	const char *admin = "http://127.0.0.1:8000";
	struct tr_arg_list rest = {0};
	bool json = false;
	const struct tr_arg options[] = {
		{"admin", "URL", TR_ARG_TEXT, &admin, 0, 0, "the node's HTTP listener; default http://127.0.0.1:8000"},
		{"json", NULL, TR_ARG_FLAG, &json, 0, 0, "print the answer as JSON"},
		{NULL, NULL, 0, NULL, 0, 0, NULL},
	};
	const struct tr_args args = {
		"why",
		"QUEUE|MESSAGE [--admin URL]",
		"Says what holds back a scheduled queue, a ready queue or a message (by its id) of a running node: due "
		"time,\ngate, rates, connection limits, a full ready queue, suspensions, sources, errors of the "
		"policy.",
		options,
		"Exit status: 0, 1 the node has no such thing or cannot be asked. The node must trust this address.",
		&rest,
	};
	struct tr_buf script = {0};
	int status = tr_args_parse(&args, argc, argv);

	if (status == TR_ARGS_RUN && rest.count != 1)
		status = tr_args_error(&args, "one QUEUE or MESSAGE is required");
	if (status == TR_ARGS_RUN) {
		tr_buf_addf(&script, "%s/lua/why.lua", tr_share_dir());
		tr_buf_addc(&script, '\0');
		char *call[] = {
			argv[0], script.data, (char *)admin, (char *)rest.items[0], json ? "json" : "text", NULL};

		status = script.failed ? TR_EXIT_OSERR : tr_cmd_lua(5, call);
	}
	tr_buf_free(&script);
	tr_arg_list_free(&rest);
	return status;
}
