-- Finished requests that the archive does not have yet, oldest first. ARGV: limit. Answer: {at, view, …}.
local tag = ARGV[1]
local inc = incarnation(tag)
local out = {}
local found = redis.call('ZRANGE', tag .. 'u', 0, tonumber(ARGV[5]) - 1, 'WITHSCORES')
for i = 1, #found, 2 do
  local tenant, request = string.match(found[i], '^([^/]*)/(.*)$')
  local conversation = redis.call('HGET', tag .. 'r:' .. found[i], 'conversation')
  if conversation then
    local keys = keys_of(tag, tenant, conversation)
    out[#out + 1] = found[i + 1]
    out[#out + 1] = view_of(keys, conversation_of(keys, '', false), inc, request)
  else
    redis.call('ZREM', tag .. 'u', found[i])
  end
end
return out
