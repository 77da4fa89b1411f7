-- Finished requests of one conversation that the archive does not have yet. ARGV: tenant, conversation. Answer: views.
local tag = ARGV[1]
local inc = incarnation(tag)
local keys = keys_of(tag, ARGV[5], ARGV[6])
local out = {}
for _, request in ipairs(redis.call('SMEMBERS', keys.n)) do
  if redis.call('EXISTS', request_key(tag, ARGV[5], request)) == 1 then
    out[#out + 1] = view_of(keys, conversation_of(keys, '', false), inc, request)
  else
    redis.call('SREM', keys.n, request)
  end
end
return out
