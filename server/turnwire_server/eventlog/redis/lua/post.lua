-- Say something to a turn, where its conversation lies. ARGV: op, tenant, request, conversation, kind, body, user,
-- any user, outcome and ending for a queued one ('' = none), what it decides ('' = nothing).
-- Answer: {'absent'}, {'other'}, {'recorded'}, {'stored', k}, {'ended', k, view, outcome}, {'settled', outcome},
-- {'decided', k, kind, body}.
local tag, op, tenant, request, conversation = ARGV[1], ARGV[5], ARGV[6], ARGV[7], ARGV[8]
local inc = incarnation(tag)
local key = request_key(tag, tenant, request)
local r = redis.call('HMGET', key, 'phase', 'user', 'n', 'post_op', 'outcome', 'owner', 'fence')
if not r[1] then return {'absent'} end
if r[2] ~= ARGV[11] and ARGV[12] ~= '1' then return {'other'} end
local keys = keys_of(tag, tenant, conversation)
local c = conversation_of(keys, '', false)
-- What was kept in the record of the id and came in with the claim.
if known_intent(tag, tenant, request, 'q:' .. op) then return {'recorded'} end
local k = known_intent(tag, tenant, request, op)
if k then
  if r[4] == op then return {'ended', int(k), view_of(keys, c, inc, request), r[5]} end
  return {'stored', int(k)}
end
if r[1] == 'sealed' or r[1] == 'finished' then return {'settled', r[5]} end
if ARGV[15] ~= '' then
  local first = redis.call('HGET', key, 'd:' .. ARGV[15])
  if first then
    local intent = cmsgpack.unpack(redis.call('LINDEX', inbox_key(tag, tenant, request), first - 1))
    return {'decided', first, intent[2], intent[3]}
  end
end
k = put_intent(tag, tenant, request, op, ARGV[9], ARGV[10])
if ARGV[15] ~= '' then redis.call('HSET', key, 'd:' .. ARGV[15], int(k)) end
-- Not before its creator has shown it (n > 0): until then the creator hears the intent itself.
if r[1] == 'queued' and ARGV[13] ~= '' and tonumber(r[3]) > 0 then
  redis.call('HSET', key, 'phase', 'sealed', 'outcome', ARGV[13], 'ending', ARGV[14], 'owner', OWNER, 'inc', inc,
    'fence', int(fence_after(r[7])), 'post_op', op, 'taken', int(k))
  redis.call('ZREM', keys.k, request)
  own(tag, tenant .. '/' .. request, r[6], OWNER)
  hold_lease(tag)
  return {'ended', int(k), view_of(keys, c, inc, request), ARGV[13]}
end
if r[1] == 'parked' then
  wake(tag, tenant .. '/' .. request, conversation)
  publish_orphan(tag)
else
  publish(tag, {OWNER, 'i', tenant, request, conversation, k, ARGV[9], ARGV[10]})
end
return {'stored', int(k)}
