-- Where the watched logs end. ARGV after the head: tag, T/C, … Answer: epoch, seq, … ('' for what is not there or in doubt).
local incarnations, out = {}, {}
for i = 5, #ARGV, 2 do
  local tag = ARGV[i]
  if not incarnations[tag] then incarnations[tag] = incarnation(tag) end
  local key = tag .. 'c:' .. ARGV[i + 1]
  local c = redis.call('HMGET', key, 'rand', 'seq', 'seen')
  if c[1] then
    out[#out + 1] = c[1] .. '.' .. incarnations[tag]
    out[#out + 1] = c[2]
    -- Somebody follows it: it is not dropped for being quiet.
    if NOW - tonumber(c[3] or '0') > 600000 then redis.call('HSET', key, 'seen', int(NOW)) end
  else
    out[#out + 1] = ''
    out[#out + 1] = '0'
  end
end
return out
