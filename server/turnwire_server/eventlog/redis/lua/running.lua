-- Which conversations have something that has not ended. ARGV after the head: T/C, … Answer: '1' or '0' each.
local tag = ARGV[1]
incarnation(tag)
local out = {}
for i = 5, #ARGV do
  out[#out + 1] = redis.call('ZCARD', tag .. 'l:' .. ARGV[i]) > 0 and '1' or '0'
end
return out
