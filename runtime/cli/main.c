#include <stdio.h>
#include <string.h>

#include "base/options.h"
#include "cli/cli.h"

static int cmd_help(int argc, char **argv);
static int cmd_version(int argc, char **argv);

static const struct command {
	const char *name, *summary;
	int (*main)(int argc, char **argv);
} commands[] = {
	{"run", "run a policy: mail and events in, queues, deliveries out", tr_cmd_run},
	{"sink", "HTTP and SMTP endpoint that counts, records, refuses and stalls as told", tr_cmd_sink},
	{"inject", "send mail by SMTP or the HTTP inject API, as a sample or as a load", tr_cmd_inject},
	{"check", "everything that is wrong with a policy, before it runs", tr_cmd_check},
	{"spool", "check, count, dump or repair the spool of a stopped server", tr_cmd_spool},
	{"plan", "what a policy's queues take of a load, and what gives way first", tr_cmd_plan},
	{"explain", "what is in force for the path of a domain, and which line of which file says so", tr_cmd_explain},
	{"logs", "print the lines of local log segments, also while they grow", tr_cmd_logs},
	{"queue", "the configuration that a policy answers for a queue", tr_cmd_queue},
	{"throttle", "what a rate such as 100/h means", tr_cmd_throttle},
	{"dead", "dead letters: list, show, replay, export, purge", tr_cmd_dead},
	{"why", "what holds back a queue or a message of a running node", tr_cmd_why},
	{"repl", "a prompt in a policy: try it, send through it, look into a running one", tr_cmd_repl},
	{"lua", "run a Lua script inside the runtime", tr_cmd_lua},
	{"test", "run tests of a policy, with a virtual clock", tr_cmd_test},
	{"help", "this text, the text of a command, or what policies have: help NAME", cmd_help},
	{"version", "print the version", cmd_version},
};

static const struct command *
find_command(const char *name)
{
	for (size_t i = 0; i < TR_COUNT(commands); i++)
		if (strcmp(commands[i].name, name) == 0)
			return &commands[i];
	return NULL;
}

static int
unknown_command(const char *name)
{
	const char *names[TR_COUNT(commands) + 1] = {NULL};

	for (size_t i = 0; i < TR_COUNT(commands); i++)
		names[i] = commands[i].name;
	const char *near = tr_nearest(name, names);

	fprintf(stderr, "tailrace: unknown command '%s'", name);
	if (near != NULL)
		fprintf(stderr, ", did you mean '%s'?", near);
	fputs("\nTry 'tailrace help'.\n", stderr);
	return TR_EXIT_USAGE;
}

static void
print_commands(FILE *out)
{
	fputs("Usage: tailrace COMMAND [OPTIONS]\n\nCommands:\n", out);
	for (size_t i = 0; i < TR_COUNT(commands); i++)
		fprintf(out, "  %-9s %s\n", commands[i].name, commands[i].summary);
	fputs("\n'tailrace COMMAND --help' describes the options of a command.\n", out);
}

static int
cmd_help(int argc, char **argv)
{
	const char *names[TR_COUNT(commands) + 1] = {NULL};

	for (size_t i = 0; i < TR_COUNT(commands); i++)
		names[i] = commands[i].name;
	if (argc < 2 || strcmp(argv[1], "--help") == 0) {
		print_commands(stdout);
		fputs("'tailrace help NAME' describes a function, an event or an object of policies, or lists a "
		      "topic.\n\n",
			stdout);
		fflush(stdout);
		return tr_help_reference("", names);
	}
	const struct command *command = find_command(argv[1]);

	if (command == NULL)
		return tr_help_reference(argv[1], names);
	char help[] = "--help";
	char *args[] = {argv[1], help, NULL};

	return command->main(2, args);
}

static int
cmd_version(int argc, char **argv)
{
	puts("tailrace " TR_VERSION);
	return TR_EXIT_OK;
}

int
main(int argc, char **argv)
{
	if (argc < 2) {
		print_commands(stderr);
		return TR_EXIT_USAGE;
	}
	if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0)
		return cmd_help(1, argv + 1);
	if (strcmp(argv[1], "--version") == 0 || strcmp(argv[1], "-V") == 0)
		return cmd_version(1, argv + 1);
	const struct command *command = find_command(argv[1]);

	if (command == NULL)
		return unknown_command(argv[1]);
	return command->main(argc - 1, argv + 1);
}
