-- Requests whose owner is gone (parked ones whose time has come among them), and when the next lease may run out. ARGV: limit.
-- Answer: {{tenant, request, conversation}, …}, ms until the earliest lease ends ('' = none).
local tag, limit = ARGV[1], tonumber(ARGV[5])
local inc, ready, since = incarnation(tag)
local out, certain = {}, attended(tag) >= LEASE and ready and NOW - since >= LEASE  -- see `take_over`
local function look(owner)
  for _, id in ipairs(redis.call('SMEMBERS', tag .. 'o:' .. owner)) do
    if #out >= limit then return end
    local r = redis.call('HMGET', tag .. 'r:' .. id, 'conversation', 'inc')
    local tenant, request = string.match(id, '^([^/]*)/(.*)$')
    if not r[1] then redis.call('SREM', tag .. 'o:' .. owner, id)
    elseif certain or r[2] == inc then out[#out + 1] = {tenant, request, r[1]} end
  end
end
for _, id in ipairs(redis.call('ZRANGEBYSCORE', tag .. 'timers', '-inf', int(NOW), 'LIMIT', 0, 100)) do
  local r = redis.call('HMGET', tag .. 'r:' .. id, 'phase', 'conversation')
  if r[1] == 'parked' then wake(tag, id, r[2]) else redis.call('ZREM', tag .. 'timers', id) end
end
look('-')
if certain then
  for _, owner in ipairs(redis.call('ZRANGEBYSCORE', tag .. 'leases', '-inf', '(' .. int(NOW), 'LIMIT', 0, 100)) do
    if redis.call('SCARD', tag .. 'o:' .. owner) == 0 then redis.call('ZREM', tag .. 'leases', owner) else look(owner) end
  end
end
local next = redis.call('ZRANGEBYSCORE', tag .. 'leases', int(NOW), '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
return {out, next[2] and int(tonumber(next[2]) - NOW) or ''}
