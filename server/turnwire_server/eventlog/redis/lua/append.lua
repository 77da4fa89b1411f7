-- Events of several turns, in one or many partitions of this server; each is answered by itself.
-- ARGV after the head: packed, for each append {tag, tenant, request, conversation, fence, n, taken, state, checkpoint,
-- epoch, re-entry ('' or packed, see `enter`; then there are no bodies), bodies}.
-- Answer, for each: 'F' fenced, 'G' and the incarnation: forgotten, or {epoch, first seq, ts, new, {seq, ts, body, …} of a repeat, intents}.
local incarnations, out, told, order = {}, {}, {}, {}

for _, append in ipairs(cmsgpack.unpack(ARGV[5])) do
  local tag, tenant, request, conversation, fence, n, taken, state, checkpoint, epoch, entering, bodies = unpack(append)
  local count = #bodies
  if not incarnations[tag] then incarnations[tag] = {incarnation(tag)} end
  local inc, ready = incarnations[tag][1], incarnations[tag][2]
  local keys = keys_of(tag, tenant, conversation)
  local key = request_key(tag, tenant, request)
  local r = redis.call('HMGET', key, 'fence', 'phase', 'n', 'inc', 'last_seq', 'claim_seq', 'owner')
  local is_lost = is_forgotten(r[1], r[4], r[2], fence, epoch, inc, ready)
  local answer
  if is_lost and (entering == '' or asked_before(entering, inc)) then
    answer = 'G' .. inc
  elseif is_lost then
    local c = enter(keys, request, inc, fence, entering)
    answer = {c.rand .. '.' .. inc, '0', int(math.max(NOW, c.ts)), '0', {}, intents_after(tag, tenant, request, taken)}
  elseif not r[1] or r[1] ~= fence or r[7] ~= OWNER or (r[2] ~= 'running' and r[2] ~= 'queued') then
    answer = 'F'
  else
    local has = tonumber(r[3])
    if n > has then refuse('GAP a turn counts its own events; a gap in n is a bug in its writer') end
    local c = conversation_of(keys, '', false)
    local skip, repeated = has - n, {}
    if skip > 0 and count > 0 and entering == '' then
      flat(entries_of(keys, request, tonumber(r[5]), tonumber(r[6]), n, n + math.min(skip, count)), repeated)
    end
    local fresh = {}
    for i = skip + 1, count do fresh[#fresh + 1] = bodies[i] end
    local first, ts = 0, 0
    if #fresh > 0 then
      first, ts = add_entries(keys, c, fresh, request, has)
      redis.call('HSET', key, 'n', int(has + #fresh), 'last_seq', int(c.seq))
      if state ~= '' then redis.call('HSET', key, 'state', state) end
      if checkpoint ~= '' then redis.call('HSET', key, 'checkpoint', checkpoint, 'checkpoint_seq', int(c.seq)) end
      if not told[tag] then
        told[tag] = {}
        order[#order + 1] = tag
      end
      table.insert(told[tag], {tenant, conversation, c.rand .. '.' .. inc, first, ts, fresh})
    end
    answer = {c.rand .. '.' .. inc, int(first), int(ts), int(#fresh), repeated, intents_after(tag, tenant, request, taken)}
  end
  out[#out + 1] = answer
end
for _, tag in ipairs(order) do publish(tag, {OWNER, 'e', told[tag]}) end
return out
