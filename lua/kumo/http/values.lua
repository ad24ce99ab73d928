--- What callers of kumo.http give: checked, form-encoded.
local values = {}

-- A character outside of ALPHA / DIGIT / "*-._" is percent-encoded, a blank becomes "+".
local function form_encode(text)
  return (text:gsub('[^%w%*%-%._ ]', function(c)
    return ('%%%02X'):format(c:byte())
  end):gsub(' ', '+'))
end

--- A string, of a number, too. `level`: of functions between this one and the caller to blame; default 1.
function values.check_string(value, what, level)
  local kind = type(value)
  if kind == 'string' then
    return value
  elseif kind ~= 'number' then
    error(('%s: string expected, got %s'):format(what, kind), (level or 1) + 2)
  end
  return tostring(value)
end

function values.check_table(value, what)
  if type(value) ~= 'table' then
    error(('%s: table expected, got %s'):format(what, type(value)), 3)
  end
end

--- Form-encoded.
function values.encode_pairs(params, what)
  local out = {}
  for name, value in pairs(params) do
    name = values.check_string(name, what .. ' key', 2)
    out[#out + 1] = form_encode(name) .. '=' .. form_encode(values.check_string(value, what .. ' ' .. name, 2))
  end
  return table.concat(out, '&')
end


return values
