--- Repeatable chance: xorshift of 32 bits, apart from math.random, which the policy's state has its own of.
local bit = require 'bit'

local random = {}
random.__index = random

function random.new(seed)
  local self = setmetatable({ x = bit.tobit(seed * 2654435761 % 2 ^ 32) }, random)
  if self.x == 0 then
    self.x = 0x2545f491
  end
  for _ = 1, 8 do
    self:next()
  end
  return self
end

--- 0 <= value < 1
function random:next()
  local x = self.x
  x = bit.bxor(x, bit.lshift(x, 13))
  x = bit.bxor(x, bit.rshift(x, 17))
  x = bit.bxor(x, bit.lshift(x, 5))
  self.x = x
  return (x % 2 ^ 32) / 2 ^ 32
end

--- A whole number from..to, both included.
function random:int(from, to)
  return from + math.floor(self:next() * (to - from + 1))
end

function random:chance(p)
  return self:next() < p
end

function random:of(list)
  return list[self:int(1, #list)]
end

--- A whole number from..to, small ones more often: its logarithm is even.
function random:log(from, to)
  return math.floor(math.exp(math.log(from) + self:next() * (math.log(to + 1) - math.log(from))))
end

--- One of { { weight, value }, ... }.
function random:weighted(list)
  local sum = 0
  for _, entry in ipairs(list) do
    sum = sum + entry[1]
  end
  local at = self:next() * sum
  for _, entry in ipairs(list) do
    at = at - entry[1]
    if at < 0 then
      return entry[2]
    end
  end
  return list[#list][2]
end

--- Another source, which this one's later numbers do not depend on.
function random:fork()
  return random.new(self:int(1, 2 ^ 31))
end

return random
