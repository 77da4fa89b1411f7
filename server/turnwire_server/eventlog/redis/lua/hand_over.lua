-- Give a running turn up for another node. ARGV: tenant, request, conversation, fence, until ('' = at once; ms: parked
-- until then or until something is said to it, which may have happened), how far the inbox was read. Answer: '1' or '0' (fenced). A repeat finds it done.
local tag, tenant, request = ARGV[1], ARGV[5], ARGV[6]
incarnation(tag)
local key = request_key(tag, tenant, request)
local id = tenant .. '/' .. request
local r = redis.call('HMGET', key, 'phase', 'owner', 'fence')
if r[3] ~= ARGV[8] then return '0' end
if r[2] == '-' or r[1] == 'parked' then return '1' end
if r[1] ~= 'running' or r[2] ~= OWNER then return '0' end
if ARGV[9] == '' or redis.call('LLEN', inbox_key(tag, tenant, request)) > tonumber(ARGV[10]) then
  redis.call('HSET', key, 'owner', '-', 'handed', '1')
  own(tag, id, r[2], '-')
  publish_orphan(tag)
else
  redis.call('HSET', key, 'phase', 'parked', 'owner', '', 'checkpoint', '')
  own(tag, id, r[2], nil)
  redis.call('ZADD', tag .. 'timers', ARGV[9], id)
end
return '1'
