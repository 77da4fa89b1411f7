-- Keep how far an answer was presented; it only grows. ARGV: tenant, request, presented. Answer: '1', or '0': too late.
local tag, tenant, request = ARGV[1], ARGV[5], ARGV[6]
incarnation(tag)
local key = request_key(tag, tenant, request)
local r = redis.call('HMGET', key, 'phase', 'presented')
if r[1] ~= 'queued' and r[1] ~= 'running' and r[1] ~= 'parked' then return '0' end
if tonumber(ARGV[7]) > tonumber(r[2] or '0') then redis.call('HSET', key, 'presented', ARGV[7]) end
return '1'
