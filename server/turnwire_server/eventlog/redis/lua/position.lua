-- Where a log ends, and entries after a place. ARGV: tenant, conversation, random ('' = make none), after, limit, bytes
-- (limit 0: no entries). Answer: {epoch, seq, trimmed, {seq, ts, body, …}}; epoch '' when there is no log.
local tag = ARGV[1]
local inc, ready = incarnation(tag)
local keys = keys_of(tag, ARGV[5], ARGV[6])
if ARGV[7] == '' and redis.call('EXISTS', keys.c) == 0 then return {'', '0', '0', {}} end
local c = conversation_of(keys, ARGV[7], ready)
local after, limit, room = tonumber(ARGV[8]), tonumber(ARGV[9]), tonumber(ARGV[10])
local out = {}
if limit > 0 and after >= c.trimmed and after < c.seq then
  local size = 0
  while limit > 0 do
    local page = redis.call('XRANGE', keys.s, int(after + 1) .. '-0', '+', 'COUNT', math.min(limit, 100))
    if #page == 0 then break end
    local taken = {}
    for _, entry in ipairs(page) do
      size = size + #entry[2][4]
      if (#out > 0 or #taken > 0) and size > room then limit = 0 break end
      taken[#taken + 1] = entry
    end
    flat(taken, out)
    if #page < math.min(limit, 100) then limit = 0 else limit = limit - #page end
    if #page > 0 then after = tonumber(string.match(page[#page][1], '^%d+')) end
  end
end
return {c.rand .. '.' .. inc, int(c.seq), int(c.trimmed), out}
