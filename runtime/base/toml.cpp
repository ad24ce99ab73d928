#include "base/toml.h"

#include <algorithm>
#include <cstring>
#include <exception>
#include <limits>
#include <new>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include <toml++/toml.h>

namespace
{

struct item { /* text as a place in the arena, which moves while it grows */
	tr_toml_type type;
	uint32_t line, column;
	size_t text_at, text_len;
	int64_t integer;
	double real;
	bool boolean;
};

} // namespace

struct tr_toml {
	std::vector<item> items;
	std::string arena;
};

namespace
{

struct failure { /* thrown inside of this file only */
	uint32_t line, column;
	const char *text;
};

/* --- before tomlplusplus sees the text ------------------------------------------------------------- */

/* tomlplusplus bounds brackets, but not `a.a.a.a ...`, and frees tables by recursion; and it takes for granted that
 * some characters do not come (a header that does not begin with a name, letters outside of ASCII in a bare key). This
 * walks over the text as it would: strings and comments are left out, dots between two marks are counted. */
class guard
{
      public:
	explicit guard(std::string_view document) : text(document)
	{
	}

	void
	run()
	{
		if (text.substr(0, 3) == "\xef\xbb\xbf") /* a byte order mark */
			at = 3;
		while (at < text.size()) {
			char c = text[at];
			if (c == '"' || c == '\'')
				skip_string(c);
			else if (c == '#')
				skip_comment();
			else
				step(c);
		}
	}

      private:
	static bool
	is_bare(char c)
	{
		return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
		       c == '-';
	}

	void
	step(char c)
	{
		bool blank = c == ' ' || c == '\t' || c == '\r';

		if (static_cast<unsigned char>(c) >= 0x80)
			throw failure{line, column, "a character that may only stand in quotes or in a comment"};
		if (in_header && !blank) {
			if (!is_bare(c) && c != '[' && c != ']')
				throw failure{line, column, "the name of a table is expected"};
			in_header = c == '[';
		} else if (at_start && c == '[' && brackets == 0) {
			in_header = true;
		}
		at_start = c == '\n' || (at_start && blank);
		column++;
		at++;
		count(c);
	}

	void
	count(char c)
	{
		if (c == '\n') {
			line++;
			column = 1;
			dots = 0;
		} else if (c == '.') {
			if (++dots >= TR_TOML_MAX_DEPTH)
				throw failure{line, column, "the key has too many parts"};
		} else if (c == '[' || c == '{') {
			dots = 0;
			if (++brackets > TR_TOML_MAX_DEPTH)
				throw failure{line, column, "arrays and tables are nested too deep"};
		} else if (c == ']' || c == '}') {
			dots = 0;
			brackets -= brackets > 0;
		} else if (c == '=' || c == ',') {
			dots = 0;
		}
	}

	void
	skip_comment()
	{
		while (at < text.size() && text[at] != '\n')
			at++;
	}

	void
	skip_string(char quote)
	{
		at_start = in_header = false;
		bool many = at + 2 < text.size() && text[at + 1] == quote && text[at + 2] == quote;

		at += many ? 3 : 1;
		column += many ? 3 : 1;
		while (at < text.size()) {
			char c = text[at++];
			column++;
			if (c == '\n') {
				if (!many) /* not TOML: the reader will say so */
					return;
				line++;
				column = 1;
			} else if (c == '\\' && quote == '"') {
				line += at < text.size() && text[at] == '\n';
				at++;
			} else if (c == quote && (!many || ends_many(quote))) {
				return;
			}
		}
	}

	bool
	ends_many(char quote) /* one quote has been read */
	{
		if (at + 1 >= text.size() || text[at] != quote || text[at + 1] != quote)
			return false;
		at += 2;
		while (at < text.size() && text[at] == quote) /* """" ends with a quote of its own */
			at++;
		return true;
	}

	std::string_view text;
	size_t at = 0;
	uint32_t line = 1, column = 1;
	int dots = 0, brackets = 0;
	bool at_start = true, in_header = false; /* of a line; a header's name has not begun */
};

/* --- the tree as a list -------------------------------------------------------------------------------- */

class lister
{
      public:
	explicit lister(tr_toml &document) : doc(document)
	{
	}

	void
	node(const toml::node &node, int depth)
	{
		toml::source_position at = node.source().begin;

		if (const toml::table *table = node.as_table())
			list_table(*table, at, depth);
		else if (const toml::array *array = node.as_array())
			list_array(*array, at, depth);
		else
			list_value(node, at);
	}

      private:
	item &
	add(tr_toml_type type, toml::source_position at)
	{
		doc.items.push_back(item{type, at.line, at.column, 0, 0, 0, 0, false});
		return doc.items.back();
	}

	void
	add_text(tr_toml_type type, toml::source_position at, std::string_view text)
	{
		item &made = add(type, at);
		made.text_at = doc.arena.size();
		made.text_len = text.size();
		doc.arena.append(text);
	}

	void
	check_depth(toml::source_position at, int depth)
	{
		if (depth > TR_TOML_MAX_DEPTH)
			throw failure{at.line, at.column, "arrays and tables are nested too deep"};
	}

	void
	list_table(const toml::table &table, toml::source_position at, int depth)
	{
		using entry = std::pair<const toml::key *, const toml::node *>;
		std::vector<entry> entries;

		check_depth(at, depth);
		add(TR_TOML_TABLE, at);
		entries.reserve(table.size());
		for (auto pair = table.cbegin(); pair != table.cend(); ++pair)
			entries.emplace_back(&pair->first, &pair->second);
		/* tomlplusplus keeps them by name */
		std::stable_sort(entries.begin(), entries.end(), [](const entry &a, const entry &b) {
			return a.first->source().begin < b.first->source().begin;
		});
		for (const entry &one : entries) {
			add_text(TR_TOML_KEY, one.first->source().begin, one.first->str());
			node(*one.second, depth + 1);
		}
		add(TR_TOML_END, toml::source_position{0, 0});
	}

	void
	list_array(const toml::array &array, toml::source_position at, int depth)
	{
		check_depth(at, depth);
		add(TR_TOML_ARRAY, at);
		for (const toml::node &element : array)
			node(element, depth + 1);
		add(TR_TOML_END, toml::source_position{0, 0});
	}

	template <typename T>
	void
	list_time(const T &value, toml::source_position at)
	{
		std::ostringstream text;

		text << value;
		add_text(TR_TOML_TIME, at, text.str());
	}

	void
	list_value(const toml::node &node, toml::source_position at)
	{
		if (auto *text = node.as_string())
			add_text(TR_TOML_STRING, at, text->get());
		else if (auto *integer = node.as_integer())
			add(TR_TOML_INTEGER, at).integer = integer->get();
		else if (auto *real = node.as_floating_point())
			add(TR_TOML_REAL, at).real = real->get();
		else if (auto *boolean = node.as_boolean())
			add(TR_TOML_BOOL, at).boolean = boolean->get();
		else if (auto *date = node.as_date())
			list_time(date->get(), at);
		else if (auto *time = node.as_time())
			list_time(time->get(), at);
		else if (auto *both = node.as_date_time())
			list_time(both->get(), at);
		else
			throw failure{at.line, at.column, "a value of an unknown type"};
	}

	tr_toml &doc;
};

/* What tomlplusplus says, in one line and cut between characters. */
void
set_error(tr_toml_error *error, uint32_t line, uint32_t column, std::string_view text)
{
	size_t len = std::min(text.size(), sizeof error->text - 1);

	while (len < text.size() && len > 0 && (static_cast<unsigned char>(text[len]) & 0xc0) == 0x80)
		len--;
	error->line = line;
	error->column = column;
	for (size_t i = 0; i < len; i++)
		error->text[i] = text[i] == '\n' || text[i] == '\r' || text[i] == '\0' ? ' ' : text[i];
	error->text[len] = '\0';
}

int
parse(std::string_view text, tr_toml **out, tr_toml_error *error)
{
	tr_toml *doc = nullptr;

	try {
		guard(text).run();
		toml::table root = toml::parse(text);
		doc = new tr_toml();
		lister(*doc).node(root, 1);
		*out = doc;
		return TR_OK;
	} catch (const toml::parse_error &raised) {
		toml::source_position at = raised.source().begin;
		set_error(error, at.line, at.column, raised.description());
	} catch (const failure &raised) {
		set_error(error, raised.line, raised.column, raised.text);
	} catch (const std::bad_alloc &) {
		set_error(error, 0, 0, "out of memory");
		delete doc;
		return TR_ENOMEM;
	} catch (const std::exception &raised) {
		set_error(error, 0, 0, raised.what());
	} catch (...) {
		set_error(error, 0, 0, "it cannot be read");
	}
	delete doc;
	return TR_EINVAL;
}

} // namespace

int
tr_toml_parse(const char *text, size_t len, struct tr_toml **out, struct tr_toml_error *error)
{
	*out = nullptr;
	if (len > TR_TOML_MAX_BYTES) {
		set_error(error, 0, 0, "it is larger than 64 MiB");
		return TR_ETOOBIG;
	}
	return parse(std::string_view(len > 0 ? text : "", len), out, error);
}

bool
tr_toml_next(const struct tr_toml *doc, size_t *at, struct tr_toml_item *out)
{
	if (*at >= doc->items.size())
		return false;
	const item &one = doc->items[(*at)++];
	*out = tr_toml_item{one.type, one.line, one.column, doc->arena.data() + one.text_at, one.text_len, one.integer,
		one.real, one.boolean};
	return true;
}

void
tr_toml_free(struct tr_toml *doc)
{
	delete doc;
}
