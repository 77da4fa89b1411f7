-- The node lives: its lease in this partition goes on. ARGV: '1' to give the lease up, and all that is owned. Answer: '0' when it owns nothing
-- here (any more), else '1'; then {T/R, conversation, intents} of what it owns that was ever said anything; then all T/R;
-- then the incarnation.
local tag = ARGV[1]
local inc = incarnation(tag)
local mine = redis.call('SMEMBERS', tag .. 'o:' .. OWNER)
if ARGV[5] == '1' or #mine == 0 then
  redis.call('ZREM', tag .. 'leases', OWNER)
  for _, id in ipairs(mine) do
    redis.call('HSET', tag .. 'r:' .. id, 'owner', '-')
    own(tag, id, OWNER, '-')
  end
  if #mine > 0 then publish_orphan(tag) end
  return {'0', {}, {}, inc}
end
redis.call('ZADD', tag .. 'leases', int(NOW + LEASE), OWNER)
local inboxes = {}
for _, id in ipairs(mine) do
  local packed = redis.call('LRANGE', tag .. 'i:' .. id, 0, -1)
  if #packed > 0 then
    local intents = {}
    for k, p in ipairs(packed) do
      local intent = cmsgpack.unpack(p)
      intents[#intents + 1], intents[#intents + 2], intents[#intents + 3] = int(k), intent[2], intent[3]
    end
    inboxes[#inboxes + 1] = {id, redis.call('HGET', tag .. 'r:' .. id, 'conversation') or '', intents}
  end
end
return {'1', inboxes, mine, inc}
