-- The turn of a reserved request: running when nobody has the floor, else queued. Nobody sees it yet.
-- ARGV: op, tenant, request, conversation, user, fingerprint, answer id, spec, has parent, parent, base ordinal, base head,
-- on busy (queue, reject, front, parallel), queue limit, random, token of the record, whether the base is fresh.
local tag, op, tenant, request, conversation = ARGV[1], ARGV[5], ARGV[6], ARGV[7], ARGV[8]
local inc, ready, since = incarnation(tag)
if not ready then refuse('DOUBT ' .. tag) end
local keys = keys_of(tag, tenant, conversation)
local key = request_key(tag, tenant, request)
local c = conversation_of(keys, ARGV[19], ready)
-- A claim that comes after its release was late on its way.
if redis.call('EXISTS', tag .. 'op:' .. op) == 1 then return {'released'} end
local was = redis.call('HMGET', key, 'claim_op', 'claim_seq', 'owner', 'takeover_op')
if was[1] then
  return {'claimed', was[1] == op and was[3] == OWNER and not was[4] and '1' or '0', was[2], view_of(keys, c, inc, request), int(NOW - since)}
end
-- What the caller remembers of the archive may be older than what this log has lost.
if redis.call('HGET', keys.c, 'sure') ~= inc then
  if ARGV[21] ~= '1' then return {'outdated'} end
  redis.call('HSET', keys.c, 'sure', inc)
end
if free_the_queue(keys, c, inc) then publish_orphan(tag) end
local on_busy = ARGV[17]
local others = redis.call('ZCARD', keys.k) + (c.floor ~= '' and 1 or 0)
local first = c.floor ~= '' and c.floor or redis.call('ZRANGE', keys.k, 0, 0)[1]
if on_busy == 'parallel' then
  others = redis.call('ZCARD', keys.l)
  first = first or redis.call('ZRANGE', keys.l, 0, 0)[1]
end
if others > 0 and (on_busy == 'reject' or others > tonumber(ARGV[18])) then
  return {'busy', first, on_busy == 'reject' and '0' or '1'}
end
local waits = others > 0 and on_busy ~= 'parallel'
local base = tonumber(ARGV[15])
local ordinal = math.max(c.ordinal, base) + 1
local head = base > c.ordinal and ARGV[16] or c.head
local parent = ARGV[13] == '1' and ARGV[14] or head
local phase = waits and 'queued' or 'running'
redis.call('HSET', key, 'phase', phase, 'state', waits and 'queued' or 'preparing', 'conversation', conversation,
  'user', ARGV[9], 'fingerprint', ARGV[10], 'answer', ARGV[11], 'spec', ARGV[12], 'parent', parent,
  'ordinal', int(ordinal), 'owner', OWNER, 'inc', inc, 'fence', int(fence_after(0)), 'run', '1', 'n', '0',
  'claim_seq', int(c.seq), 'last_seq', int(c.seq), 'taken', '0', 'checkpoint', '', 'checkpoint_seq', '0', 'ending', '',
  'outcome', '', 'claim_op', op, 'token', ARGV[20], 'head_before', head, 'at', int(NOW), 'handed', '0', 'archived', '1')
redis.call('HSET', keys.c, 'ordinal', int(ordinal), 'head', on_busy == 'parallel' and head or ARGV[11])
redis.call('ZADD', keys.l, ordinal, request)
redis.call('SADD', keys.a, request)
if waits then
  local place = ordinal
  local before = on_busy == 'front' and redis.call('ZRANGE', keys.k, 0, 0, 'WITHSCORES')[2]
  if before then place = tonumber(before) - 1 end
  redis.call('ZADD', keys.k, place, request)
elseif on_busy ~= 'parallel' then
  redis.call('HSET', keys.c, 'floor', request)
  c.floor = request
end
own(tag, tenant .. '/' .. request, nil, OWNER)
hold_lease(tag)
return {'claimed', '1', int(c.seq), view_of(keys, c, inc, request), int(NOW - since)}
