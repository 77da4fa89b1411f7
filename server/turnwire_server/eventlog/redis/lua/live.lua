-- One look at a conversation. ARGV: tenant, conversation, random. Answer: {epoch, seq, trimmed, ordinal, head, sure,
-- {{request, ordinal, n, answer, head before, spec, parent, checkpoint, checkpoint seq, claim seq, phase}, …} by ordinal}.
local tag = ARGV[1]
local inc, ready = incarnation(tag)
local keys = keys_of(tag, ARGV[5], ARGV[6])
local c = conversation_of(keys, ARGV[7], ready)
local out = {}
for _, request in ipairs(redis.call('ZRANGE', keys.l, 0, -1)) do
  local r = redis.call('HMGET', request_key(tag, ARGV[5], request), 'ordinal', 'n', 'answer', 'head_before', 'spec', 'parent',
    'checkpoint', 'checkpoint_seq', 'claim_seq', 'phase')
  if r[10] == 'parked' then r[8] = int(c.seq) end
  table.insert(r, 1, request)
  out[#out + 1] = r
end
return {c.rand .. '.' .. inc, int(c.seq), int(c.trimmed), int(c.ordinal), c.head,
  redis.call('HGET', keys.c, 'sure') == inc and '1' or '0', out}
