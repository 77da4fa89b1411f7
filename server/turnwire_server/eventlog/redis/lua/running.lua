-- Which conversations have something that waits or has the floor. ARGV after the head: T/C, … Answer: '1' or '0' each.
local tag = ARGV[1]
incarnation(tag)
local out = {}
for i = 5, #ARGV do
  local floor = redis.call('HGET', tag .. 'c:' .. ARGV[i], 'floor')
  out[#out + 1] = ((floor and floor ~= '') or redis.call('ZCARD', tag .. 'k:' .. ARGV[i]) > 0) and '1' or '0'
end
return out
