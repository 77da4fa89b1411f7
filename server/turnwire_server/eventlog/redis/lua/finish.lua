-- The last events of a sealed request; the floor to the next. ARGV: tenant, request, conversation, fence, archived,
-- retention in ms, epoch, re-entry (packed), then the bodies.
-- Answer: {'fenced'} or {'finished', epoch, {seq, ts, body, …}, waiting, view of the next (if any)}.
local tag, tenant, request = ARGV[1], ARGV[5], ARGV[6]
local inc, ready = incarnation(tag)
local keys = keys_of(tag, tenant, ARGV[7])
local key = request_key(tag, tenant, request)
local fields = {'fence', 'phase', 'n', 'last_seq', 'claim_seq', 'finish_n', 'next', 'owner', 'outcome', 'inc'}
local r = redis.call('HMGET', key, unpack(fields))
if ARGV[12] ~= '' and r[2] ~= 'finished' and is_forgotten(r[1], r[10], r[2], ARGV[8], ARGV[11], inc, ready) then
  enter(keys, request, inc, ARGV[8], ARGV[12])
  r = redis.call('HMGET', key, unpack(fields))
end
if r[1] ~= ARGV[8] or (r[2] ~= 'sealed' and r[2] ~= 'finished') then return {'fenced'} end
local c = conversation_of(keys, '', false)
local entries, following = {}, nil
if r[2] == 'finished' then
  flat(entries_of(keys, request, tonumber(r[4]), tonumber(r[5]), tonumber(r[6]), tonumber(r[3])), entries)
  if r[7] and r[7] ~= '' then
    local f = redis.call('HMGET', request_key(tag, tenant, r[7]), 'phase', 'owner', 'n')
    if f[1] == 'running' and f[2] == OWNER and tonumber(f[3]) <= 2 then following = r[7] end
  end
else
  local bodies, n = {}, tonumber(r[3])
  for i = 13, #ARGV do bodies[#bodies + 1] = ARGV[i] end
  local first, ts = add_entries(keys, c, bodies, request, n)
  for i, body in ipairs(bodies) do
    entries[#entries + 1], entries[#entries + 2], entries[#entries + 3] = int(first + i - 1), int(ts), body
  end
  own(tag, tenant .. '/' .. request, r[8], nil)
  redis.call('HSET', key, 'phase', 'finished', 'state', r[9], 'owner', '', 'archived', ARGV[9], 'finish_n', int(n),
    'n', int(n + #bodies), 'last_seq', int(c.seq), 'at', int(NOW), 'checkpoint', '')
  redis.call('ZREM', keys.l, request)
  redis.call('ZREM', keys.k, request)
  if c.floor == request then
    redis.call('HSET', keys.c, 'floor', '')
    c.floor = ''
  end
  if ARGV[9] == '0' then
    redis.call('ZADD', tag .. 'u', int(NOW), tenant .. '/' .. request)
    redis.call('SADD', keys.n, request)
  end
  local due = int(NOW + tonumber(ARGV[10]) + 1)
  redis.call('ZADD', tag .. 'retention', due, 'r|' .. tenant .. '/' .. request)
  following = promote(keys, c, inc)
  redis.call('HSET', key, 'next', following or '')
  publish_entries(keys, c, inc, first, ts, bodies)
end
local answer = {'finished', c.rand .. '.' .. inc, entries, redis.call('ZRANGE', keys.k, 0, -1)}
if following then answer[5] = view_of(keys, c, inc, following) end
return answer
