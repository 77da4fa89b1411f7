-- What all steps share: it stands in front of each script when it is loaded.
--
-- KEYS[1] is the partition's `meta` key; it routes the call. All other keys of a step carry the same hash tag and so lie
-- in the same slot. ARGV begins with: tag, now in ms ('' = the server's clock), owner, lease in ms.
--
-- Keys of a partition, behind its tag (T/C is tenant/conversation, T/R tenant/request):
--   meta     replid, inc (incarnation), since (ms, when it began), ready (0: in doubt, DECISIONS 14), asked, attended
--   c:T/C    rand, seq, ts, trimmed, ordinal, head, floor (the request that has it), seen, sure (the
--            incarnation in which ordinal and head were not older than the archive's)
--   s:T/C    the stream; the id of an entry is seq-0
--   l:T/C    requests that have not ended, by ordinal      k:T/C  those that wait, by ordinal
--   n:T/C    those that have finished and are not archived
--   a:T/C    every request that is known                   r:T/R  a request (see `claim`)
--   i:T/R    its inbox: packed {op, kind, body}, k is the place from 1
--   leases   owner -> expiry      o:OWNER  what it owns ('-': nobody)
--   u        finished, not archived, by time      timers  T/R -> when a parked turn goes on
--   retention  c|T/C, r|T/R -> when to look whether it can go
--   w:T/C    node -> {until when, version} of those who follow there
--   x:T/C/NODE  user there -> {when the state was said, state, instances}
--   op:OP    the answer of a step, for its repeat      q:T/R  the record of a request id (in the id's own partition)

local function refuse(why) error({err = why}) end

local clock = redis.call('TIME')
local NOW = tonumber(ARGV[2]) or (clock[1] * 1000 + math.floor(clock[2] / 1000))
local NOW_US = ARGV[2] ~= '' and NOW * 1000 or (clock[1] * 1000000 + clock[2])
local OWNER, LEASE = ARGV[3], tonumber(ARGV[4])

-- A server that was started anew or promoted has another replid: it may have lost what somebody has seen.
local REPLID = string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)')

local function incarnation(tag)
  local meta = redis.call('HMGET', tag .. 'meta', 'replid', 'inc', 'ready', 'since')
  if meta[1] ~= REPLID then refuse('INCARNATION ' .. tag) end
  return meta[2], meta[3] == '1', tonumber(meta[4])
end

-- Numbers stay whole: Lua would print large ones with an exponent.
local function int(number) return string.format('%.0f', number) end

local function fence_after(previous) return math.max((tonumber(previous) or 0) + 1, NOW_US) end

-- For how long somebody has looked for orphans all the time. When nobody did for a lease time, the server or the way to it
-- stood still for all, and leases have run out that nobody could renew: the living get the time to do so.
local function attended(tag)
  local meta = redis.call('HMGET', tag .. 'meta', 'asked', 'attended')
  local asked, began = tonumber(meta[1] or '0'), tonumber(meta[2] or '0')
  if NOW - asked > LEASE or NOW < began then
    began = NOW
    redis.call('HSET', tag .. 'meta', 'attended', int(NOW))
  end
  if NOW - asked > LEASE / 8 or NOW < asked then redis.call('HSET', tag .. 'meta', 'asked', int(NOW)) end
  return NOW - began
end

local function keys_of(tag, tenant, conversation)
  local name = tenant .. '/' .. conversation
  return {
    c = tag .. 'c:' .. name, s = tag .. 's:' .. name, l = tag .. 'l:' .. name, k = tag .. 'k:' .. name,
    a = tag .. 'a:' .. name, n = tag .. 'n:' .. name, name = name, tag = tag, tenant = tenant, conversation = conversation,
  }
end

local function request_key(tag, tenant, request) return tag .. 'r:' .. tenant .. '/' .. request end
local function inbox_key(tag, tenant, request) return tag .. 'i:' .. tenant .. '/' .. request end

-- The conversation's hash; made when absent, with the given random text. Never while the partition is in doubt: its
-- state would be taken for the whole truth.
local function conversation_of(keys, rand, ready)
  local found = redis.call('HMGET', keys.c, 'rand', 'seq', 'ts', 'trimmed', 'ordinal', 'head', 'floor')
  if not found[1] then
    if not ready then refuse('DOUBT ' .. keys.tag) end
    redis.call('HSET', keys.c, 'rand', rand, 'seq', '0', 'ts', '0', 'trimmed', '0', 'ordinal', '0', 'head', '',
      'floor', '', 'sure', '', 'seen', int(NOW))
    redis.call('ZADD', keys.tag .. 'retention', 'NX', int(NOW + 3600000), 'c|' .. keys.name)
    found = {rand, '0', '0', '0', '0', '', ''}
  end
  return {
    rand = found[1], seq = tonumber(found[2]), ts = tonumber(found[3]), trimmed = tonumber(found[4]),
    ordinal = tonumber(found[5]), head = found[6], floor = found[7],
  }
end

local function own(tag, id, from, to)
  if from == to then return end
  if from and from ~= '' then redis.call('SREM', tag .. 'o:' .. from, id) end
  if to and to ~= '' then redis.call('SADD', tag .. 'o:' .. to, id) end
end

local function hold_lease(tag)
  redis.call('ZADD', tag .. 'leases', 'GT', int(NOW + LEASE), OWNER)
end

-- Entries at the end of a conversation. Returns the first seq and the ts they all have.
local function add_entries(keys, c, bodies, request, n)
  local ts = math.max(NOW, c.ts)
  local first = c.seq + 1
  -- The first entry of an empty stream: `trim` finds out by itself when it has to look again.
  if c.seq == c.trimmed then redis.call('ZADD', keys.tag .. 'retention', 'LT', int(NOW), 'c|' .. keys.name) end
  for i = 1, #bodies do
    redis.call('XADD', keys.s, int(c.seq + i) .. '-0', 't', int(ts), 'b', bodies[i], 'r', request, 'n', int(n + i - 1))
  end
  c.seq, c.ts = c.seq + #bodies, ts
  redis.call('HSET', keys.c, 'seq', int(c.seq), 'ts', int(ts))
  return first, ts
end

-- {seq, ts, body, …} of stream entries.
local function flat(entries, out)
  out = out or {}
  for _, entry in ipairs(entries) do
    out[#out + 1] = string.match(entry[1], '^%d+')
    out[#out + 1] = entry[2][2]
    out[#out + 1] = entry[2][4]
  end
  return out
end

-- The entries first_n .. end_n - 1 of a request, found from its last one backwards. For repeats, which are rare.
local function entries_of(keys, request, last_seq, claim_seq, first_n, end_n)
  local found, upper = {}, last_seq
  while upper > claim_seq do
    local page = redis.call('XREVRANGE', keys.s, int(upper) .. '-0', int(claim_seq + 1) .. '-0', 'COUNT', 200)
    if #page == 0 then break end
    for _, entry in ipairs(page) do
      local n = tonumber(entry[2][8])
      if entry[2][6] == request and n >= first_n and n < end_n then table.insert(found, 1, entry) end
      if entry[2][6] == request and n < first_n then return found end
    end
    upper = tonumber(string.match(page[#page][1], '^%d+')) - 1
  end
  return found
end

local function intents_after(tag, tenant, request, taken)
  local out = {}
  for i, packed in ipairs(redis.call('LRANGE', inbox_key(tag, tenant, request), taken, -1)) do
    local intent = cmsgpack.unpack(packed)
    out[#out + 1] = int(taken + i)
    out[#out + 1] = intent[2]
    out[#out + 1] = intent[3]
  end
  return out
end

local function put_intent(tag, tenant, request, op, kind, body)
  if redis.call('LLEN', inbox_key(tag, tenant, request)) >= 1000 then refuse('FULL too much waits to be heard') end
  return redis.call('RPUSH', inbox_key(tag, tenant, request), cmsgpack.pack({op, kind, body}))
end

-- The place of an intent that came with this op, or nil.
local function known_intent(tag, tenant, request, op)
  for k, packed in ipairs(redis.call('LRANGE', inbox_key(tag, tenant, request), 0, -1)) do
    if cmsgpack.unpack(packed)[1] == op then return k end
  end
  return nil
end

-- Where a queued request stands, from 1, and whom it waits for. '' for all others.
local function place_of(keys, c, request)
  local rank = redis.call('ZRANK', keys.k, request)
  if not rank then return {'', ''} end
  local ahead = rank + (c.floor ~= '' and 1 or 0)
  local behind = c.floor
  if behind == '' and rank > 0 then behind = redis.call('ZRANGE', keys.k, 0, 0)[1] end
  return {int(math.max(ahead, 1)), behind}
end

-- Everything that is known of a request: its hash, the epoch, its intents, its place.
local function view_of(keys, c, inc, request)
  local key = request_key(keys.tag, keys.tenant, request)
  local taken = tonumber(redis.call('HGET', key, 'taken') or '0')
  return {
    keys.tenant, request, keys.conversation, c.rand .. '.' .. inc, redis.call('HGETALL', key),
    intents_after(keys.tag, keys.tenant, request, taken), place_of(keys, c, request),
    int(NOW - tonumber(redis.call('HGET', key, 'at') or NOW)),
  }
end

-- The floor to whoever waits longest, if nobody has it. Returns the request, now owned by the caller, or nil.
local function promote(keys, c, inc)
  if c.floor ~= '' then return nil end
  local request = redis.call('ZRANGE', keys.k, 0, 0)[1]
  if not request then return nil end
  local key = request_key(keys.tag, keys.tenant, request)
  local was = redis.call('HMGET', key, 'owner', 'fence')
  redis.call('ZREM', keys.k, request)
  redis.call('HSET', keys.c, 'floor', request)
  redis.call('HSET', key, 'phase', 'running', 'state', 'preparing', 'owner', OWNER, 'inc', inc,
    'fence', int(fence_after(was[2])), 'handed', '0')
  own(keys.tag, keys.tenant .. '/' .. request, was[1], OWNER)
  hold_lease(keys.tag)
  c.floor = request
  return request
end

-- What waits while nobody has the floor would wait for ever (a loss can leave that): the first becomes an orphan that runs.
local function free_the_queue(keys, c, inc)
  if c.floor ~= '' then return false end
  local request = redis.call('ZRANGE', keys.k, 0, 0)[1]
  if not request then return false end
  local key = request_key(keys.tag, keys.tenant, request)
  local was = redis.call('HMGET', key, 'owner', 'fence')
  redis.call('ZREM', keys.k, request)
  redis.call('HSET', keys.c, 'floor', request)
  redis.call('HSET', key, 'phase', 'running', 'state', 'preparing', 'owner', '-', 'inc', inc,
    'fence', int(fence_after(was[2])), 'handed', '1')
  own(keys.tag, keys.tenant .. '/' .. request, was[1], '-')
  c.floor = request
  return true
end

-- A conversation whose state changed otherwise than by entries: followers must begin anew (DECISIONS 14).
local function new_epoch(keys, c, rand)
  redis.call('HSET', keys.c, 'rand', rand)
  c.rand = rand
end

-- A parked turn goes on: an orphan that nobody died with. Nothing of it has come after what the archive holds.
local function wake(tag, id, conversation)
  local tenant = string.match(id, '^([^/]*)/')
  redis.call('HSET', tag .. 'r:' .. id, 'phase', 'running', 'owner', '-', 'handed', '1',
    'checkpoint_seq', redis.call('HGET', tag .. 'c:' .. tenant .. '/' .. conversation, 'seq'))
  redis.call('ZREM', tag .. 'timers', id)
  own(tag, id, nil, '-')
end

-- Whether an owner knows more of its turn than the log does: `held` and the rest is what the log has, `fence` and `epoch`
-- are the owner's. Without a trace of it: only in doubt, since it may have ended and gone. An older fence: the take-over
-- that gave the newer one is among what was lost.
local function is_forgotten(held, stamp, phase, fence, epoch, inc, ready)
  local knew = string.match(epoch, '%.(.*)$')
  if not held then return not ready and knew ~= inc end
  if held == fence then return stamp ~= inc end
  return phase ~= 'finished' and knew and knew ~= inc and tonumber(held) < tonumber(fence)
end

-- Whether the archive was asked about a re-entry before the newest loss: a successor may have come and be lost since.
local function asked_before(packed, inc)
  local asked = cmsgpack.unpack(packed).inc
  return asked ~= '' and asked ~= inc
end

local publish, publish_epoch

-- An owner that lives puts its turn back into a log that has lost it, or has lost of it (DECISIONS 14). All that it ever
-- said is in the checkpoint; followers learn it from snapshots, in a new epoch.
local function enter(keys, request, inc, fence, packed)
  local e = cmsgpack.unpack(packed)
  local key = request_key(keys.tag, keys.tenant, request)
  local was = redis.call('HGET', key, 'owner')
  local c = conversation_of(keys, e.rand, true)
  new_epoch(keys, c, e.rand)
  redis.call('HSET', key, 'phase', e.ending ~= '' and 'sealed' or 'running', 'state', e.state, 'conversation',
    keys.conversation, 'user', e.user, 'fingerprint', e.fingerprint, 'answer', e.answer, 'spec', e.spec,
    'parent', e.parent, 'ordinal', e.ordinal, 'owner', OWNER, 'inc', inc, 'fence', fence, 'run', e.run, 'n', e.n,
    'claim_seq', int(c.seq), 'last_seq', int(c.seq), 'checkpoint', e.checkpoint, 'checkpoint_seq', int(c.seq),
    'ending', e.ending, 'outcome', e.outcome, 'handed', '0', 'archived', '1')
  redis.call('HSETNX', key, 'taken', '0')
  redis.call('HSETNX', key, 'claim_op', '-')
  redis.call('HSETNX', key, 'token', '')
  redis.call('HSETNX', key, 'head_before', e.parent)
  redis.call('HSETNX', key, 'at', int(NOW))
  if tonumber(e.ordinal) > c.ordinal then
    redis.call('HSET', keys.c, 'ordinal', e.ordinal, 'head', e.answer)
    c.ordinal = tonumber(e.ordinal)
  end
  redis.call('ZADD', keys.l, e.ordinal, request)
  redis.call('SADD', keys.a, request)
  redis.call('ZREM', keys.k, request)
  if c.floor ~= '' and c.floor ~= request then
    -- A fail-over may bring back a claim that had been released: nobody was shown it, so it waits again.
    local other = request_key(keys.tag, keys.tenant, c.floor)
    local o = redis.call('HMGET', other, 'n', 'inc', 'ordinal', 'phase')
    if o[1] == '0' and o[2] ~= inc and o[4] == 'running' then
      redis.call('HSET', other, 'phase', 'queued', 'state', 'queued')
      redis.call('ZADD', keys.k, o[3], c.floor)
      c.floor = ''
    end
  end
  if c.floor == '' then
    redis.call('HSET', keys.c, 'floor', request)
    c.floor = request
  end
  own(keys.tag, keys.tenant .. '/' .. request, was, OWNER)
  hold_lease(keys.tag)
  publish_epoch(keys, c, inc)
  return c
end

-- Nothing depends on it but speed, and it comes after writes: it must not make a step fail (a user without channels, say).
publish = function(tag, message) redis.pcall('SPUBLISH', tag .. 'ch', cmsgpack.pack(message)) end
local function publish_entries(keys, c, inc, first, ts, bodies)
  if #bodies > 0 then
    publish(keys.tag, {OWNER, 'e', {{keys.tenant, keys.conversation, c.rand .. '.' .. inc, first, ts, bodies}}})
  end
end
publish_epoch = function(keys, c, inc) publish(keys.tag, {OWNER, 'n', keys.tenant, keys.conversation, c.rand .. '.' .. inc, c.seq}) end
local function publish_orphan(tag) publish(tag, {OWNER, 'o'}) end
