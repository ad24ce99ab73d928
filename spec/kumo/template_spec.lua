local template = require 'kumo.template'

local function render(text, context, options)
  return template.compile(text, options):render(context or {})
end

local raised = require('helper').raised

local CONTEXT = {
  name = 'Ann',
  n = 3,
  half = 0.5,
  yes = true,
  empty = {},
  list = { 'a', 'b', 'c' },
  rows = { { id = 1 }, { id = 2 } },
  map = { b = 2, a = 1 },
  deep = { er = { still = 'here' } },
  html = '<b>"x" & \'y\'</b>',
}

describe('kumo.template renders', function()
  for text, expected in pairs {
    [''] = '',
    ['plain { text } 100%'] = 'plain { text } 100%',
    ['{{ name }}'] = 'Ann',
    ['{{name}}, {{ n }} {{ half }} {{ yes }}'] = 'Ann, 3 0.5 true',
    ['[{{ missing }}{{ missing.too.deep }}]'] = '[]',
    ['{{ deep.er.still }} {{ deep["er"].still }} {{ deep["e" ~ "r"]["still"] }}'] = 'here here here',
    ['{{ list[0] }}{{ list.2 }}{{ list[-1] }}{{ list[9] }}'] = 'acc',
    ['a {# comment {{ }} #}b'] = 'a b',
    ["{{ '}}' }}{{ \"%}\" }}{{ 'it\\'s' }}"] = "}}%}it's",
    ['a {{- name -}} b'] = 'aAnnb',
    ['x\n  {%- if yes %}\ny{% endif -%}\n z'] = 'x\nyz',
    ['{{ 1 + 2 * 3 - 4 / 2 }} {{ (1 + 2) * 3 }} {{ -n }}'] = '5 9 -3',
    ['{{ name ~ n ~ missing }}'] = 'Ann3',
    ['{{ n == 3 and name != "Bob" }} {{ n < 3 or not yes }} {{ n >= 3 }}'] = 'true false true',
    ['{{ "b" in list }} {{ "z" not in list }} {{ "nn" in name }} {{ "a" in map }}'] = 'true true true true',
    ['{{ name is defined }} {{ missing is defined }} {{ missing is not defined }} {{ missing is none }}'] =
      'true false true true',
    ['{{ "x" if n > 2 else "y" }}{{ "x" if n > 5 }}'] = 'x',
    ['{% if n > 5 %}a{% elif n > 2 %}b{% else %}c{% endif %}'] = 'b',
    ['{% if empty %}a{% else %}c{% endif %}'] = 'c',
    ['{% for x in list %}{{ loop.index }}{{ x }}{% if not loop.last %},{% endif %}{% endfor %}'] = '1a,2b,3c',
    ['{% for r in rows %}{{ r.id }}{{ name }}{% endfor %}'] = '1Ann2Ann',
    ['{% for k, v in map %}{{ k }}={{ v }};{% endfor %}'] = 'a=1;b=2;',
    ['{% for x in missing %}x{% else %}none{% endfor %}'] = 'none',
    ['{{ name | upper | lower }} {{ name|length }} {{ list | length }} {{ map | length }}'] = 'ann 3 3 2',
    ['{{ missing | default("d") }} {{ "" | default("d") }} {{ "" | default("d", true) }}'] = 'd  d',
    ['{{ list | join(", ") }} {{ missing | join }}'] = 'a, b, c ',
    ['{{ "a.b.c" | replace(".", "%1") }}'] = 'a%1b%1c',
    ['{{ html | escape }}'] = '&lt;b&gt;&quot;x&quot; &amp; &#x27;y&#x27;&lt;/b&gt;',
    ['{{ " x " | trim }}{{ list | first }}{{ list | last }}'] = 'xac',
    ['{{ list | tojson }} {{ name | tojson }}'] = '["a","b","c"] "Ann"',
    ['{{ "gr\195\188n" | length }}'] = '4',
  } do
    it(('%q'):format(text), function()
      assert.are.equal(expected, render(text, CONTEXT))
    end)
  end

  it('escapes by itself when asked, but not twice', function()
    local text = '{{ x }}|{{ x | escape }}|{{ x | safe }}'
    assert.are.equal('&lt;i&gt;|&lt;i&gt;|<i>', render(text, { x = '<i>' }, { autoescape = true }))
  end)

  it('gives back the JSON text that a table came from', function()
    local record = { b = 1, a = 2 }
    template.keep_json(record, '{"b":1, "a":2}')
    assert.are.equal('{"b":1, "a":2}', render('{{ r | tojson }}', { r = record }))
  end)

  it('sees changes of the context, not of an earlier one', function()
    local made = template.compile '{{ x }}'
    assert.are.equal('1', made:render { x = 1 })
    assert.are.equal('', made:render {})
  end)
end)

describe('kumo.template refuses', function()
  for text, expected in pairs {
    ['{{ name'] = "t:1: '}}' is missing",
    ['\n\n{% if x %}'] = "t:3: the block is not ended: 'endif' is missing",
    ['{% for x in y %}'] = "t:1: the block is not ended: 'endfor' is missing",
    ['a\n{% include "x" %}'] = "t:2: unknown tag 'include'",
    ['{% endif %}'] = "t:1: unknown tag 'endif'",
    ['{% if x %}{% else %}{% else %}{% endif %}'] = "t:1: unknown tag 'else'",
    ['{% if x %}{% else %}{% elif y %}{% endif %}'] = "t:1: 'elif' after 'else'",
    ['{{ x | uper }}'] = "t:1: unknown filter 'uper' (did you mean 'upper'?)",
    ['{{ x | upper("a") }}'] = 't:1: upper: at most 0 arguments expected',
    ['{{ }}'] = "t:1: 'the end' is not expected here",
    ['{{ a b }}'] = "t:1: 'b' is not expected here",
    ['{{ a; }}'] = "t:1: ';' is not expected here",
    ['{{ "a }}'] = 't:1: a text without its closing quote',
    ['{# a'] = "t:1: '#}' is missing",
    ['{{ x is odd }}'] = "t:1: unknown test 'odd'",
    ['{% for if in x %}{% endfor %}'] = "t:1: 'if' is not expected here",
  } do
    it(('%q'):format(text), function()
      assert.are.equal(expected, raised(template.compile, text, { name = 't' }))
    end)
  end

  it('expressions and blocks nested without end', function()
    assert.truthy(raised(template.compile, '{{ ' .. ('('):rep(1000) .. '1' .. (')'):rep(1000) .. ' }}'):find 'nested deeper')
    assert.truthy(raised(template.compile, ('{% if a %}'):rep(1000)):find 'nested deeper')
  end)

  it('values that do not fit, with the line', function()
    local made = template.compile('\n{{ n < "x" }}', { name = 't' })
    assert.are.equal("t:2: '<': two numbers or two texts expected", raised(made.render, made, { n = 1 }))
    made = template.compile('{% for x in n %}{% endfor %}', { name = 't' })
    assert.are.equal('t:1: for: list or map expected, got number', raised(made.render, made, { n = 1 }))
  end)
end)
