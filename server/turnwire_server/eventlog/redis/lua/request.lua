-- What is known of requests of one partition. ARGV after the head: tenant, request, conversation, …
-- Answer: a view each, or {} for what is not there.
local tag = ARGV[1]
local inc = incarnation(tag)
local out = {}
for i = 5, #ARGV, 3 do
  local keys = keys_of(tag, ARGV[i], ARGV[i + 2])
  if redis.call('EXISTS', request_key(tag, ARGV[i], ARGV[i + 1])) == 1 and redis.call('EXISTS', keys.c) == 1 then
    out[#out + 1] = view_of(keys, conversation_of(keys, '', false), inc, ARGV[i + 1])
  else
    out[#out + 1] = {}
  end
end
return out
