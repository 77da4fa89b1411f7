-- Decide the ending, once. ARGV: tenant, request, conversation, fence, outcome, ending, taken, epoch
-- ('' = whatever it was).
-- Answer: {'sealed', ending, presented}, {'unheard', intents}, {'fenced'}, {'forgotten', incarnation}.
local tag, tenant, request = ARGV[1], ARGV[5], ARGV[6]
local inc, ready = incarnation(tag)
local keys = keys_of(tag, tenant, ARGV[7])
local key = request_key(tag, tenant, request)
local r = redis.call('HMGET', key, 'fence', 'ending', 'inc', 'phase', 'presented')
if r[1] == ARGV[8] and r[2] ~= '' then return {'sealed', r[2], r[5] or '0'} end
-- Who has it now and what was said to it may be among what was lost: the owner asks the archive and puts it back.
if ARGV[12] ~= '' and is_forgotten(r[1], r[3], r[4], ARGV[8], ARGV[12], inc, ready) then
  return {'forgotten', inc}
end
if r[1] ~= ARGV[8] or r[4] == 'parked' then return {'fenced'} end
if ARGV[9] ~= 'cancelled' then
  local unheard = intents_after(tag, tenant, request, tonumber(ARGV[11]))
  if #unheard > 0 then return {'unheard', unheard} end
end
redis.call('HSET', key, 'phase', 'sealed', 'outcome', ARGV[9], 'ending', ARGV[10], 'inc', inc)
return {'sealed', ARGV[10], r[5] or '0'}
