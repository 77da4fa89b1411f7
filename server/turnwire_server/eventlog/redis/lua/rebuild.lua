-- Enter what the archive holds as not ended and this log does not know. ARGV: op, tenant, conversation, base ordinal,
-- base head, random, the highest fence given so far, then for each: request, user, fingerprint, answer id, spec, parent, ordinal. By ordinal.
-- Answer: the requests that were entered (by this op, now or before).
local tag, op, tenant = ARGV[1], ARGV[5], ARGV[6]
local inc = incarnation(tag)
local keys = keys_of(tag, tenant, ARGV[7])
local c = conversation_of(keys, ARGV[10], true)
if tonumber(ARGV[8]) > c.ordinal then
  redis.call('HSET', keys.c, 'ordinal', ARGV[8], 'head', ARGV[9])
  c.ordinal = tonumber(ARGV[8])
end
redis.call('HSET', keys.c, 'sure', inc)
local entered, is_new = {}, false
for i = 12, #ARGV, 7 do
  local request = ARGV[i]
  local key = request_key(tag, tenant, request)
  local known = redis.call('HGET', key, 'claim_op')
  if known then
    if known == op then entered[#entered + 1] = request end
  else
    local first = c.floor == '' and redis.call('ZCARD', keys.k) == 0
    redis.call('HSET', key, 'phase', first and 'running' or 'queued', 'state', first and 'preparing' or 'queued',
      'conversation', ARGV[7], 'user', ARGV[i + 1], 'fingerprint', ARGV[i + 2], 'answer', ARGV[i + 3],
      'spec', ARGV[i + 4], 'parent', ARGV[i + 5], 'ordinal', ARGV[i + 6], 'owner', '-', 'inc', inc,
      'fence', int(fence_after(ARGV[11])), 'run', '1', 'n', '0', 'claim_seq', int(c.seq), 'last_seq', int(c.seq), 'taken', '0',
      'checkpoint', '', 'checkpoint_seq', '0', 'ending', '', 'outcome', '', 'claim_op', op, 'token', '', 'head_before', ARGV[i + 5],
      'at', int(NOW), 'handed', '0', 'archived', '1', 'rebuilt', '1')
    redis.call('ZADD', keys.l, ARGV[i + 6], request)
    redis.call('SADD', keys.a, request)
    if first then
      redis.call('HSET', keys.c, 'floor', request)
      c.floor = request
    else
      redis.call('ZADD', keys.k, ARGV[i + 6], request)
    end
    own(tag, tenant .. '/' .. request, nil, '-')
    entered[#entered + 1] = request
    is_new = true
  end
end
if free_the_queue(keys, c, inc) then publish_orphan(tag) end
if is_new then
  new_epoch(keys, c, ARGV[10])
  publish_epoch(keys, c, inc)
  publish_orphan(tag)
end
return entered
