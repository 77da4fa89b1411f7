-- Drop what is past its retention and needed by nothing live.
-- ARGV: retention in ms, how long a quiet conversation is kept in ms, limit.
-- Answer: how many entries went, how many of the limit's looks were used.
local tag, retention, quiet, limit = ARGV[1], tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local inc, ready = incarnation(tag)
if not ready then return {'0', '0'} end
local keep, gone = NOW - retention, 0

local function trim_conversation(name)
  local tenant, conversation = string.match(name, '^([^/]*)/(.*)$')
  local keys = keys_of(tag, tenant, conversation)
  if redis.call('EXISTS', keys.c) == 0 then return nil end
  local c = conversation_of(keys, '', false)
  -- What the newest checkpoint of a live request still needs after it stays.
  local needed = c.seq
  for _, request in ipairs(redis.call('ZRANGE', keys.l, 0, -1)) do
    local r = redis.call('HMGET', request_key(tag, tenant, request), 'checkpoint_seq', 'claim_seq', 'phase')
    if r[1] and r[3] ~= 'parked' then needed = math.min(needed, math.max(tonumber(r[1]), tonumber(r[2]))) end
  end
  -- ts never falls with seq: the last entry that is old enough is found by walking from the front.
  local cut, after = c.trimmed, c.trimmed
  while true do
    local page = redis.call('XRANGE', keys.s, int(after + 1) .. '-0', '+', 'COUNT', 200)
    if #page == 0 then break end
    local stop = false
    for _, entry in ipairs(page) do
      local seq = tonumber(string.match(entry[1], '^%d+'))
      if seq > needed or tonumber(entry[2][2]) >= keep then stop = true break end
      cut = seq
    end
    after = tonumber(string.match(page[#page][1], '^%d+'))
    if stop then break end
  end
  if cut > c.trimmed then
    gone = gone + redis.call('XTRIM', keys.s, 'MINID', '=', int(cut + 1) .. '-0')
    redis.call('HSET', keys.c, 'trimmed', int(cut))
  end
  local oldest = redis.call('XRANGE', keys.s, '-', '+', 'COUNT', 1)[1]
  if oldest then return math.max(tonumber(oldest[2][2]) + retention + 1, NOW + 1) end
  local seen = tonumber(redis.call('HGET', keys.c, 'seen') or '0')
  local last = math.max(c.ts, seen)
  if redis.call('SCARD', keys.a) > 0 or NOW - last < quiet then return math.max(last + quiet + 1, NOW + 60000) end
  redis.call('DEL', keys.c, keys.s, keys.l, keys.k, keys.a, keys.n)
  return nil
end

local function drop_request(id)
  local key = tag .. 'r:' .. id
  local r = redis.call('HMGET', key, 'phase', 'archived', 'at', 'conversation')
  if r[1] ~= 'finished' then return nil end
  if r[2] ~= '1' then return NOW + retention end
  if tonumber(r[3]) >= keep then return tonumber(r[3]) + retention + 1 end
  local tenant, request = string.match(id, '^([^/]*)/(.*)$')
  redis.call('DEL', key, tag .. 'i:' .. id)
  redis.call('SREM', tag .. 'a:' .. tenant .. '/' .. r[4], request)
  return nil
end

local due = redis.call('ZRANGEBYSCORE', tag .. 'retention', '-inf', int(NOW), 'LIMIT', 0, limit)
-- Requests first: a conversation is dropped only when it has none left.
table.sort(due, function(a, b) return a > b end)
for _, member in ipairs(due) do
  local kind, id = string.sub(member, 1, 1), string.sub(member, 3)
  local again
  if kind == 'c' then again = trim_conversation(id)
  else again = drop_request(id) end
  if again then redis.call('ZADD', tag .. 'retention', int(again), member)
  else redis.call('ZREM', tag .. 'retention', member) end
end
return {int(gone), int(#due)}
