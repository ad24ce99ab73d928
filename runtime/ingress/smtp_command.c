#include "ingress/smtp_command.h"

#include "base/json.h"

static const char syntax[] = "Syntax error in command or arguments";

static const struct {
	const char *name;
	enum tr_smtp_verb verb;
} verbs[] = {
	{"EHLO", TR_SMTP_EHLO}, {"HELO", TR_SMTP_HELO}, {"MAIL", TR_SMTP_MAIL}, {"RCPT", TR_SMTP_RCPT},
	{"DATA", TR_SMTP_DATA}, {"RSET", TR_SMTP_RSET}, {"NOOP", TR_SMTP_NOOP}, {"QUIT", TR_SMTP_QUIT},
	/* STARTTLS, AUTH, XCLIENT have their place here. */
};

static struct tr_str
skip_blanks(struct tr_str text)
{
	while (text.len > 0 && (text.data[0] == ' ' || text.data[0] == '\t')) {
		text.data++;
		text.len--;
	}
	return text;
}

static struct tr_str
trim(struct tr_str text)
{
	text = skip_blanks(text);
	while (text.len > 0 && (text.data[text.len - 1] == ' ' || text.data[text.len - 1] == '\t'))
		text.len--;
	return text;
}

/* Cuts the word up to the next blank off *text. */
static struct tr_str
next_word(struct tr_str *text)
{
	struct tr_str word = *text;
	size_t len = 0;

	while (len < word.len && word.data[len] != ' ' && word.data[len] != '\t')
		len++;
	word.len = len;
	text->data += len;
	text->len -= len;
	*text = skip_blanks(*text);
	return word;
}

/* Cuts `<path>` (or a word) off *text; a '>' in a quoted local part does not end it. */
static struct tr_str
next_path(struct tr_str *text)
{
	struct tr_str path = *text;
	bool quoted = false;

	if (text->len == 0 || text->data[0] != '<')
		return next_word(text);
	for (size_t i = 1; i < path.len; i++) {
		char c = path.data[i];

		if (c == '\\' && quoted) {
			i++;
		} else if (c == '"') {
			quoted = !quoted;
		} else if (c == '>' && !quoted) {
			path.len = i + 1;
			text->data += path.len;
			text->len -= path.len;
			return path;
		}
	}
	return (struct tr_str){path.data, 0}; /* no end */
}

/* `SIZE=n` in the parameters; others have no effect (contract/smtp.md 1.4). */
static bool
read_params(struct tr_str text, struct tr_smtp_command *out)
{
	while (text.len > 0) {
		struct tr_str word = next_word(&text);

		if (word.len < 5 || !tr_str_ieq((struct tr_str){word.data, 5}, TR_STR("SIZE=")))
			continue;
		if (word.len == 5)
			return false;
		out->size = 0;
		for (size_t i = 5; i < word.len; i++) {
			if (word.data[i] < '0' || word.data[i] > '9')
				return false;
			out->size = out->size > UINT64_MAX / 20 ? UINT64_MAX / 20
								: out->size * 10 + (uint64_t)(word.data[i] - '0');
		}
		out->has_size = true;
	}
	return true;
}

static const char *
read_envelope(struct tr_str rest, struct tr_smtp_command *out, int *code)
{
	bool is_mail = out->verb == TR_SMTP_MAIL;
	struct tr_str word = is_mail ? TR_STR("FROM:") : TR_STR("TO:"), path;

	if (rest.len < word.len || !tr_str_ieq((struct tr_str){rest.data, word.len}, word))
		return syntax;
	rest.data += word.len;
	rest.len -= word.len;
	rest = skip_blanks(rest);
	path = next_path(&rest);
	if (path.len == 0 || tr_addr_parse(path, &out->addr) != TR_OK || (!is_mail && out->addr.len == 0)) {
		tr_addr_fini(&out->addr);
		*code = 501;
		return is_mail ? "5.1.7 Bad sender's mailbox address syntax" : "5.1.3 Invalid recipient address syntax";
	}
	if (rest.len > 0 && rest.data[0] != ' ' && rest.data[0] != '\t') { /* <a@b>junk */
		tr_addr_fini(&out->addr);
		return syntax;
	}
	if (is_mail && !read_params(skip_blanks(rest), out)) {
		tr_addr_fini(&out->addr);
		return "5.5.4 SIZE is not a number";
	}
	return NULL;
}

const char *
tr_smtp_command_parse(struct tr_str line, struct tr_smtp_command *out, int *code)
{
	struct tr_str rest = line, word;

	memset(out, 0, sizeof *out);
	out->verb = TR_SMTP_OTHER;
	*code = 501;
	if (!tr_utf8_valid(line))
		return "5.5.2 Invalid UTF-8 in command";
	if (line.len > 0 && (memchr(line.data, '\0', line.len) != NULL || memchr(line.data, '\r', line.len) != NULL))
		return syntax;
	rest = trim(rest);
	word = next_word(&rest);
	if (word.len == 0)
		return syntax;
	for (size_t i = 0; i < TR_COUNT(verbs); i++) {
		if (tr_str_ieq(word, tr_str(verbs[i].name)))
			out->verb = verbs[i].verb;
	}
	switch (out->verb) {
	case TR_SMTP_EHLO:
	case TR_SMTP_HELO:
		out->text = rest;
		return rest.len > 0 && memchr(rest.data, ' ', rest.len) == NULL ? NULL : syntax;
	case TR_SMTP_MAIL:
	case TR_SMTP_RCPT:
		return read_envelope(rest, out, code);
	case TR_SMTP_DATA:
	case TR_SMTP_RSET:
	case TR_SMTP_QUIT:
		return rest.len == 0 ? NULL : syntax;
	default:
		return NULL;
	}
}
