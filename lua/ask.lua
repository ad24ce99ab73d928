--- `tailrace queue` and `tailrace throttle`: what a policy answers for a queue, and what a rate means. runtime/cli/ask.c starts
--- the entries.
local host = require 'tr.host'
local tool = require 'tr.tool'

--- Evaluates the policy.
function host.entry.ask_load(path)
  host.entry.load(path)
end

--- Fires pre_init or init.
function host.entry.ask_fire(event)
  tool.configuring(true)
  host.dispatch(event)
  tool.configuring(false)
end

-- Where the handler was registered that answers for a queue: in the policy, if a helper did it. nil: nobody answers.
local function who_answers(domain, tenant, campaign, routing_domain)
  for i, handler in ipairs(host.handlers_of 'get_queue_config') do
    if select('#', handler(domain, tenant, campaign, routing_domain)) > 0 then
      local stack = host.get_event_registrars('get_queue_config')[i]
      for _, place in ipairs(stack) do
        if not place:find('policy-extras/', 1, true) then
          return place
        end
      end
      return stack[1]
    end
  end
end

--- The configuration of a queue as text: TOML for people, or JSON.
function host.entry.ask_queue(name, as_json)
  local kumo = require 'kumo'
  local config = kumo.invoke_get_queue_config(name)
  if as_json then
    return host.internal('kumo.serde').serde.json_encode_pretty(config) .. '\n'
  end
  local place = who_answers(host.parse_queue_name(name))
  local who = place and 'get_queue_config of ' .. place or 'no handler of get_queue_config answers, these are the defaults'
  return ('# %s: %s\n%s'):format(name, who, kumo.format_queue_config_toml(config))
end

--- What a rate means.
function host.entry.ask_throttle(spec)
  local ok, throttle = pcall(require('kumo').make_throttle, 'tailrace throttle', spec)
  if not ok then
    return (tostring(throttle):gsub('^.-kumo%.make_throttle: ', '')) .. '\n', 65
  end
  return throttle:explain() .. '\n', 0
end
