-- Events of no running turn. ARGV: op, tenant, conversation, random, keep in ms, then request ('' = none), body, …
local tag, op = ARGV[1], ARGV[5]
local inc, ready = incarnation(tag)
local keys = keys_of(tag, ARGV[6], ARGV[7])
local c = conversation_of(keys, ARGV[8], ready)
local done = redis.call('GET', tag .. 'op:' .. op)
if done then
  local first, last = string.match(done, '^(%d+) (%d+)$')
  return {c.rand .. '.' .. inc, flat(redis.call('XRANGE', keys.s, first .. '-0', last .. '-0'))}
end
local bodies = {}
for i = 10, #ARGV, 2 do
  local told = true
  if ARGV[i] ~= '' then
    local r = redis.call('HMGET', request_key(tag, ARGV[6], ARGV[i]), 'phase', 'n')
    told = r[1] == 'queued' and tonumber(r[2]) > 0
  end
  if told then bodies[#bodies + 1] = ARGV[i + 1] end
end
local out = {}
if #bodies > 0 then
  local first, ts = add_entries(keys, c, bodies, '', 0)
  redis.call('SET', tag .. 'op:' .. op, int(first) .. ' ' .. int(c.seq), 'PX', ARGV[9])
  publish_entries(keys, c, inc, first, ts, bodies)
  for i, body in ipairs(bodies) do
    out[#out + 1], out[#out + 2], out[#out + 3] = int(first + i - 1), int(ts), body
  end
end
return {c.rand .. '.' .. inc, out}
