/* `tailrace repl`: a prompt in a policy's own state. The engine is the one of `tailrace run`, with a spool of its own
 * in a temporary directory, under the virtual clock; inputs are tasks on its loop. lua/repl.lua evaluates. */
#include <errno.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/diag.h"
#include "cli/args.h"
#include "cli/cli.h"
#include "cli/repl.h"
#include "cli/repl_edit.h"
#include "cli/server.h"

#define SEGMENT_BYTES (1 << 20)                    /* to be filled with zeros at each start */
#define LONGEST_WAIT_NS (30 * 86400 * TR_NS_PER_S) /* of an input, in virtual time: who waits longer waits in vain */
#define SETTLE_NS (300 * TR_NS_PER_MS) /* real time: what an input has set going and hangs is not waited for */
#define PRESSES 4                      /* of Ctrl-C that end the program when nothing else helps */

struct local {
	struct tr_repl_sink sink;
	struct tr_server *server; /* NULL: it could not be started */
	const char *policy;
	const char *filter; /* of diagnostics */
	bool without;       /* the policy could not be loaded: the engine has none */
	char *dir;          /* of the spool; NULL: none */
	bool terminal;      /* both ends are one */
	bool colour, script;
	char *error; /* of the last start; malloc'ed */
};

static volatile sig_atomic_t presses; /* of Ctrl-C since the input began */

static void
interrupt(void)
{
	static const char text[] =
		"\r\na function in C runs, which cannot be interrupted; once more ends the program\r\n";

	presses = presses + 1;
	tr_watch_cancel();
	if (presses == PRESSES - 1 && write(STDERR_FILENO, text, sizeof text - 1) < 0)
		return;
	if (presses >= PRESSES)
		_exit(130);
}

static void
write_out(struct tr_repl_sink *sink, struct tr_str text)
{
	tr_repl_print(text);
}

/* --- calls
 * ------------------------------------------------------------------------------------------------------------ */

/* A wait for a call or (NULL) for what is due. While the real network is asked, the virtual clock goes along with the
 * real one, so that time-outs end what hangs. */
struct wait {
	const struct tr_repl_call *call;
	const bool *live;
	int64_t seen_ns, until_ns; /* of the real clock; until_ns 0: no end */
};

static int64_t
real_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * TR_NS_PER_S + now.tv_nsec;
}

static bool
is_over(void *arg)
{
	struct wait *wait = arg;
	int64_t now_ns = real_ns();

	if (*wait->live && tr_hold_count() > 0 && now_ns > wait->seen_ns)
		tr_clock_advance(now_ns - wait->seen_ns);
	wait->seen_ns = now_ns;
	return (wait->call != NULL && wait->call->ended) || presses > 0 || tr_repl_ends ||
	       (wait->until_ns != 0 && now_ns >= wait->until_ns);
}

/* What the task at the prompt waits for, from the host's report: "sleep 3 s". */
static void
waited_for(struct tr_host *host, struct tr_buf *out)
{
	struct tr_buf report = {0};
	char *at;

	tr_host_report(host, &report);
	tr_buf_addc(&report, '\0');
	at = report.data != NULL ? strstr(report.data, "event=main at the prompt") : NULL;
	if (at != NULL) {
		at[strcspn(at, "\n")] = '\0';
		at = strstr(at, " for ");
		if (at != NULL)
			tr_buf_addz(out, at + 5);
	}
	tr_buf_addc(out, '\0');
	tr_buf_free(&report);
}

/* Runs a function of lua/repl.lua to its end, and then all that is due. Ctrl-C ends it. */
static enum tr_repl_status
run_call(struct local *local, struct tr_repl_call *call)
{
	static const struct {
		const char *name;
		enum tr_repl_status status;
	} names[] = {{"ok", TR_REPL_OK}, {"error", TR_REPL_ERROR}, {"incomplete", TR_REPL_INCOMPLETE},
		{"quit", TR_REPL_QUIT}};
	struct tr_host *host = tr_server_host(local->server);
	struct tr_loop *loop = tr_host_loop(host);
	struct tr_buf wait = {0}, text = {0};
	enum tr_repl_status status = TR_REPL_OK;

	presses = 0;
	call->id = local->sink.id;
	if (tr_repl_start(host, call, 0, 0) != TR_OK) {
		fputs("tailrace repl: out of memory\n", stderr);
		return TR_REPL_ERROR;
	}
	struct wait for_call = {call, &local->sink.live, real_ns(), 0};
	if (!call->ended && !tr_loop_run_until(loop, is_over, &for_call, LONGEST_WAIT_NS))
		fputs("nothing that the input waits for comes within 30 days\n", stdout);
	if (!call->ended) {
		waited_for(host, &wait);
		tr_task_cancel(call->task);
	}
	if (call->status != TR_OK && !local->sink.exits) {
		if (call->status == TR_ECANCELED)
			tr_repl_why_cut(call, wait.data, &text);
		else /* of lua/repl.lua itself */
			tr_buf_addf(&text, "%s\n", call->error.data);
		tr_repl_print((struct tr_str){text.data, text.len});
		status = TR_REPL_ERROR;
	} else {
		for (size_t i = 0; call->result.data != NULL && i < TR_COUNT(names); i++)
			if (strcmp(call->result.data, names[i].name) == 0)
				status = names[i].status;
		struct wait for_rest = {NULL, &local->sink.live, real_ns(), real_ns() + SETTLE_NS};
		tr_loop_run_until(loop, is_over, &for_rest, 0); /* what the input has set going */
	}
	tr_buf_free(&wait);
	tr_buf_free(&text);
	return local->sink.exits || tr_repl_ends ? TR_REPL_QUIT : status;
}

static enum tr_repl_status
run_op(struct local *local, const char *op)
{
	struct tr_repl_call call = {.op = op,
		.has_options = true,
		.terminal = local->terminal,
		.colour = local->colour,
		.script = local->script,
		.width = tr_edit_columns(),
		.policy = local->without ? NULL : local->policy};
	enum tr_repl_status status = run_call(local, &call);

	tr_repl_call_fini(&call);
	return status;
}

/* --- the engine
 * ---------------------------------------------------------------------------------------------------------- */

static int
remove_one(const char *path, const struct stat *st, int kind, struct FTW *where)
{
	return remove(path);
}

static void
remove_dir(struct local *local)
{
	if (local->dir != NULL)
		nftw(local->dir, remove_one, 8, FTW_DEPTH | FTW_PHYS);
	free(local->dir);
	local->dir = NULL;
}

static bool
make_dir(struct local *local)
{
	const char *tmp = getenv("TMPDIR");

	if (asprintf(&local->dir, "%s/tailrace-repl.XXXXXX", tmp != NULL && tmp[0] != '\0' ? tmp : "/tmp") < 0) {
		local->dir = NULL;
		return false;
	}
	if (mkdtemp(local->dir) == NULL) {
		fprintf(stderr, "tailrace repl: no temporary directory %s: %s\n", local->dir, strerror(errno));
		free(local->dir);
		local->dir = NULL;
		return false;
	}
	return true;
}

/* The server's host is there, the policy is not loaded yet. */
static void
prepared(void *arg, struct tr_server *server)
{
	struct local *local = arg;

	local->server = server;
	presses = 0;
	if (tr_repl_install(tr_server_host(server)) == TR_OK)
		run_op(local, "prepare");
	local->server = NULL;
}

/* Starts an engine with the policy, or NULL: without. False: local->error says why not. */
static bool
boot(struct local *local, const char *policy)
{
	struct tr_server_config config = {.policy = policy,
		.workers = 1,
		.seed = 1,
		.segment_bytes = SEGMENT_BYTES,
		.prepared = prepared,
		.prepared_arg = local};

	free(local->error);
	local->error = NULL;
	if (!make_dir(local))
		return false;
	config.spool_dir = local->dir;
	presses = 0;
	local->server = tr_server_boot(&config, &local->error);
	if (local->server == NULL)
		remove_dir(local);
	return local->server != NULL;
}

static bool
has_stopped(void *arg)
{
	return tr_server_stopped(arg) || presses > 0;
}

static void
shut_down(struct local *local)
{
	struct tr_loop *loop;

	if (local->server != NULL) {
		loop = tr_server_loop(local->server);
		presses = 0;
		tr_log_filter("off"); /* that mail waits when one leaves is no news */
		tr_server_stop(local->server, 0);
		if (!tr_loop_run_until(loop, has_stopped, local->server, 10 * TR_NS_PER_S) || presses > 0)
			tr_server_stop(local->server, 0);
		tr_server_free(local->server, NULL);
		local->server = NULL;
	}
	remove_dir(local);
}

static void
tell_failure(struct local *local, const char *policy)
{
	FILE *out = local->terminal ? stdout : stderr;

	fflush(stdout);
	fprintf(out, "%s%s cannot be loaded:%s ", local->colour ? "\033[31m" : "", policy,
		local->colour ? "\033[0m" : "");
	for (const char *at = local->error ? local->error : "out of memory"; *at != '\0'; at++) {
		if ((unsigned char)*at < ' ' && *at != '\n' && *at != '\t')
			fprintf(out, "\\x%02x", (unsigned char)*at);
		else
			fputc(*at, out);
	}
	fputc('\n', out);
}

/* Starts with the policy; at a terminal, without it when it is wrong, so that it can be mended and loaded again. */
static int
start(struct local *local)
{
	local->without = false;
	if (!boot(local, local->policy)) {
		if (local->error == NULL && local->dir == NULL)
			return TR_EXIT_OSERR;
		tell_failure(local, local->policy ? local->policy : "the runtime");
		if (!local->terminal || local->policy == NULL || tr_repl_ends)
			return TR_EXIT_CONFIG;
		local->without = true;
		if (!boot(local, NULL)) {
			tell_failure(local, "the runtime");
			return TR_EXIT_UNAVAILABLE;
		}
	}
	run_op(local, "open");
	return TR_EXIT_OK;
}

/* --- inputs
 * ---------------------------------------------------------------------------------------------------------------- */

static enum tr_repl_status
reload(struct local *local)
{
	shut_down(local);
	local->sink.live = false;
	tr_log_filter(local->filter);
	return start(local) == TR_EXIT_OK ? TR_REPL_OK : TR_REPL_QUIT;
}

static enum tr_repl_status
eval_op(struct local *local, const char *op, struct tr_str text, bool last)
{
	struct tr_repl_call call = {.op = op, .text = text, .has_text = true, .last = last};
	enum tr_repl_status status = run_call(local, &call);

	if (status == TR_REPL_OK && call.result.data != NULL && strcmp(call.result.data, "reload") == 0)
		status = reload(local);
	tr_repl_call_fini(&call);
	return status;
}

static enum tr_repl_status
eval(void *arg, struct tr_str text, bool last)
{
	return eval_op(arg, "eval", text, last);
}

static void
complete(void *arg, struct tr_str line, struct tr_buf *out)
{
	struct local *local = arg;
	struct tr_repl_call call = {.op = "complete", .id = local->sink.id, .text = line, .has_text = true};

	if (tr_repl_start(tr_server_host(local->server), &call, 0, 0) != TR_OK)
		return;
	if (!call.ended)
		tr_task_cancel(call.task);
	if (call.status == TR_OK && call.result.len > 0)
		tr_buf_add(out, call.result.data, call.result.len - 1);
	tr_repl_call_fini(&call);
}

static void
resized(void *arg, int columns)
{
	struct local *local = arg;
	struct tr_repl_call call = {.op = "resize", .id = local->sink.id, .width = columns};

	if (tr_repl_start(tr_server_host(local->server), &call, 0, 0) == TR_OK && !call.ended)
		tr_task_cancel(call.task);
	tr_repl_call_fini(&call);
}

static const char *
prompt(void *arg)
{
	return ((struct local *)arg)->sink.live ? "live> " : "dry> ";
}

static int
run_evals(struct local *local, const struct tr_arg_list *evals)
{
	for (size_t i = 0; i < evals->count; i++) {
		enum tr_repl_status status = eval_op(local, "eval", tr_str(evals->items[i]), true);
		if (status == TR_REPL_QUIT)
			break;
		if (status != TR_REPL_OK)
			return TR_EXIT_FAILED;
	}
	return TR_EXIT_OK;
}

/* All of standard input; false: it cannot be read. */
static bool
read_script(struct tr_buf *out)
{
	char block[65536];
	size_t n;

	while ((n = fread(block, 1, sizeof block, stdin)) > 0)
		tr_buf_add(out, block, n);
	return !ferror(stdin) && !out->failed;
}

static int
run_local(struct local *local, const struct tr_arg_list *evals, struct tr_str script)
{
	static const struct tr_repl_ops ops = {eval, complete, resized, prompt, NULL};
	int status;

	local->sink.write = write_out;
	local->sink.id = 1;
	tr_repl_sink_add(&local->sink);
	tr_repl_signals(interrupt);
	tr_clock_virtual(tr_wall_ns());
	status = start(local);
	if (status == TR_EXIT_OK) {
		if (evals->count > 0)
			status = run_evals(local, evals);
		else if (local->script)
			status = eval_op(local, "script", script, true) == TR_REPL_ERROR ? TR_EXIT_FAILED : TR_EXIT_OK;
		else
			status = tr_repl_loop(&ops, local, -1, local->colour);
		shut_down(local);
	}
	tr_clock_real();
	tr_repl_sink_remove(&local->sink);
	free(local->error);
	if (local->sink.exits)
		status = local->sink.exit_code & 0xff;
	else if (tr_repl_ends && status == TR_EXIT_OK)
		status = 128 + SIGTERM;
	if (fflush(stdout) != 0 && status == TR_EXIT_OK)
		status = TR_EXIT_IOERR;
	return status;
}

int
tr_cmd_repl(int argc, char **argv)
{
	const char *policy = NULL, *attach = NULL, *filter = getenv("TAILRACE_LOG");
	struct tr_arg_list evals = {0};
	const struct tr_arg options[] = {
		{"policy", "FILE", TR_ARG_TEXT, &policy, 0, 0, "the policy; without it there is only the runtime"},
		{"eval", "CODE", TR_ARG_LIST, &evals, 0, 0, "also -e: evaluate this and end; may be repeated"},
		{"attach", "SOCKET", TR_ARG_TEXT, &attach, 0, 0, "the prompt of a running process (--repl-socket)"},
		{"log", "FILTER", TR_ARG_TEXT, &filter, 0, 0,
			"diagnostics, e.g. info; default warn; also $TAILRACE_LOG"},
		{NULL, NULL, 0, NULL, 0, 0, NULL},
	};
	const struct tr_args args = {
		"repl",
		"[--policy FILE] [-e CODE ...] [--attach SOCKET]",
		"A prompt in the policy's own state: values, events, messages through the whole flow. No listener, no "
		"spool and\nno log of the policy is opened, time is virtual, and the network is played by a script "
		"(:help "
		"tells more). Without a\nterminal, a script is read from standard input.",
		options,
		"Exit status: 0, 1 an input raised an error, 78 the policy is wrong.",
		NULL,
	};
	static char eval_name[] = "--eval";
	struct local local = {0};
	struct tr_buf script = {0};
	int status;

	for (int i = 1; i < argc; i++)
		if (strcmp(argv[i], "-e") == 0)
			argv[i] = eval_name;
	status = tr_args_parse(&args, argc, argv);
	if (filter == NULL)
		filter = "warn";
	if (status == TR_ARGS_RUN && tr_log_filter(filter) != TR_OK)
		status = tr_args_error(&args, "--log %s: expected a level or target=level,...", filter);
	if (status == TR_ARGS_RUN && attach != NULL && policy != NULL)
		status = tr_args_error(&args, "--attach: the process has its policy");
	if (status == TR_ARGS_RUN && policy != NULL && access(policy, R_OK) != 0) {
		fprintf(stderr, "tailrace repl: the policy %s cannot be read\n", policy);
		status = TR_EXIT_CONFIG;
	}
	if (status != TR_ARGS_RUN) {
		tr_arg_list_free(&evals);
		return status;
	}
	local.policy = policy;
	local.filter = filter;
	local.terminal = isatty(STDIN_FILENO) && isatty(STDOUT_FILENO) && evals.count == 0;
	local.colour = local.terminal && tr_repl_colour();
	local.script = !local.terminal;
	if (local.script && evals.count == 0 && !read_script(&script)) {
		fputs("tailrace repl: standard input cannot be read\n", stderr);
		status = TR_EXIT_NOINPUT;
	} else if (attach != NULL) {
		status = tr_repl_attach(attach, &evals, (struct tr_str){script.data, script.len}, local.terminal);
	} else {
		status = run_local(&local, &evals, (struct tr_str){script.data, script.len});
	}
	tr_buf_free(&script);
	tr_arg_list_free(&evals);
	return status;
}
