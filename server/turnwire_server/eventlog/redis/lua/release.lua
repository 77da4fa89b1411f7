-- Undo a claim that nobody has been shown. ARGV: op, tenant, request, conversation, keep in ms, token of
-- the record, op of the claim ('' = whoever made it; else only that one's is undone). Answer: {token of the record that goes with it, view of the next (if any)}, or {''}: it was shown.
local tag, op, tenant, request, conversation = ARGV[1], ARGV[5], ARGV[6], ARGV[7], ARGV[8]
local inc = incarnation(tag)
local keys = keys_of(tag, tenant, conversation)
local key = request_key(tag, tenant, request)
local done = redis.call('GET', tag .. 'op:' .. op)
local following, token, c
if done then
  token, following = string.match(done, '^(%S*) (.*)$')
  if following == '' then following = nil end
  if following then c = conversation_of(keys, '', false) end
elseif redis.call('EXISTS', key) == 0 then
  token = ARGV[10]
  redis.call('SET', tag .. 'op:' .. op, token .. ' ', 'PX', ARGV[9])
else
  token, c = ARGV[10], conversation_of(keys, '', false)
  local r = redis.call('HMGET', key, 'phase', 'n', 'owner', 'head_before', 'answer', 'claim_op')
  if ARGV[11] ~= '' and r[6] ~= ARGV[11] then return {''} end
  if not r[1] or r[2] ~= '0' or (r[1] ~= 'queued' and r[1] ~= 'running') then return {''} end
  redis.call('DEL', key, inbox_key(tag, tenant, request))
  own(tag, tenant .. '/' .. request, r[3], nil)
  redis.call('ZREM', keys.l, request)
  redis.call('ZREM', keys.k, request)
  redis.call('SREM', keys.a, request)
  -- The newest message is again the one before, unless somebody has built on it meanwhile.
  if c.head == r[5] then redis.call('HSET', keys.c, 'head', r[4]) end
  if c.floor == request then
    redis.call('HSET', keys.c, 'floor', '')
    c.floor = ''
  end
  following = promote(keys, c, inc)
  redis.call('SET', tag .. 'op:' .. op, token .. ' ' .. (following or ''), 'PX', ARGV[9])
end
-- A successor, again, but only while it stands as it was handed out: it may run long since.
if following then
  local f = redis.call('HMGET', request_key(tag, tenant, following), 'phase', 'owner', 'n')
  if f[1] == 'running' and f[2] == OWNER and tonumber(f[3]) <= 2 then
    return {token, view_of(keys, c, inc, following)}
  end
end
return {token}
