-- Drop a conversation. ARGV: op, tenant, conversation, keep in ms. Answer: {request, token of its record, …}.
local tag, op, tenant = ARGV[1], ARGV[5], ARGV[6]
local inc, ready = incarnation(tag)
if not ready then refuse('DOUBT ' .. tag) end
local keys = keys_of(tag, tenant, ARGV[7])
local done = redis.call('GET', tag .. 'op:' .. op)
if done then return cmsgpack.unpack(done) end
if redis.call('EXISTS', keys.c) == 0 then return {} end
local requests = {}
for _, request in ipairs(redis.call('SMEMBERS', keys.a)) do
  local key, id = request_key(tag, tenant, request), tenant .. '/' .. request
  local r = redis.call('HMGET', key, 'owner', 'token')
  requests[#requests + 1], requests[#requests + 2] = request, r[2] or ''
  own(tag, id, r[1], nil)
  redis.call('DEL', key, inbox_key(tag, tenant, request))
  redis.call('ZREM', tag .. 'u', id)
  redis.call('ZREM', tag .. 'timers', id)
  redis.call('ZREM', tag .. 'retention', 'r|' .. id)
end
redis.call('DEL', keys.c, keys.s, keys.l, keys.k, keys.a, keys.n)
redis.call('ZREM', tag .. 'retention', 'c|' .. keys.name)
redis.call('SET', tag .. 'op:' .. op, cmsgpack.pack(requests), 'PX', ARGV[8])
publish(tag, {OWNER, 'n', tenant, ARGV[7], '', 0})
return requests
