-- Cancels that were kept in the record of the id come into the inbox, each once. ARGV: tenant, request, conversation,
-- then op, kind, body, … Answer: {view}, or {} when the request is not there.
local tag, tenant, request = ARGV[1], ARGV[5], ARGV[6]
local inc = incarnation(tag)
local keys = keys_of(tag, tenant, ARGV[7])
if redis.call('EXISTS', request_key(tag, tenant, request)) == 0 then return {} end
for i = 8, #ARGV, 3 do
  local op = 'q:' .. ARGV[i]
  if not known_intent(tag, tenant, request, op) then put_intent(tag, tenant, request, op, ARGV[i + 1], ARGV[i + 2]) end
end
return {view_of(keys, conversation_of(keys, '', false), inc, request)}
