-- Own a request whose owner is gone. ARGV: op, tenant, request, conversation. Answer: {} or {view}.
local tag, op, tenant, request = ARGV[1], ARGV[5], ARGV[6], ARGV[7]
local inc, ready, since = incarnation(tag)
local keys = keys_of(tag, tenant, ARGV[8])
local key = request_key(tag, tenant, request)
if redis.call('EXISTS', key) == 0 then return {} end
local c = conversation_of(keys, '', false)
if ready and free_the_queue(keys, c, inc) then publish_orphan(tag) end
local r = redis.call('HMGET', key, 'phase', 'owner', 'fence', 'run', 'n', 'handed', 'takeover_op', 'inc')
if r[1] ~= 'queued' and r[1] ~= 'running' and r[1] ~= 'sealed' then return {} end
if r[7] == op and r[2] == OWNER then return {view_of(keys, c, inc, request)} end
local expiry = r[2] ~= '-' and redis.call('ZSCORE', tag .. 'leases', r[2])
if expiry and tonumber(expiry) >= NOW then return {} end
-- Leases and take-overs may be among what was lost: the living get one lease time to show themselves. What was given up
-- since the loss is nobody's for certain.
if not (r[2] == '-' and r[8] == inc) and (not ready or NOW - since < LEASE or attended(tag) < LEASE) then return {} end
-- A queued request has nobody who ran it, one that was handed over nobody who died: neither is a further run.
local run = tonumber(r[4])
if r[1] == 'running' and tonumber(r[5]) > 0 and r[6] ~= '1' then run = run + 1 end
redis.call('HSET', key, 'owner', OWNER, 'inc', inc, 'fence', int(fence_after(r[3])), 'run', int(run), 'takeover_op', op,
  'handed', '0')
if r[8] ~= inc then redis.call('HSET', key, 'lossy', '1') end
own(tag, tenant .. '/' .. request, r[2], OWNER)
hold_lease(tag)
return {view_of(keys, c, inc, request)}
