-- Looks at the record of a request id and does one thing with it. ARGV: T/R, what, and
--   look   keep in ms ('' leaves its time alone)
--   cancel user, op, kind, body, keep in ms: kept for whoever creates the request, and asked for by its claim
--   drop   token: forget the id, unless it has been reserved anew; recorded cancels stay
--   write  conversation, user, fingerprint, keep in ms: the request lives, so its record does
-- Answer: {conversation, user, fingerprint, at, token}, then {user, at, op, kind, body, …} of the recorded cancels, then now.
local tag, what = ARGV[1], ARGV[6]
incarnation(tag)
local key = tag .. 'q:' .. ARGV[5]
if what == 'look' and ARGV[7] ~= '' and redis.call('EXISTS', key) == 1 then
  redis.call('PEXPIRE', key, ARGV[7], 'GT')
elseif what == 'cancel' then
  local field = 'cancel:' .. ARGV[7]
  local was = redis.call('HGET', key, field)
  local op = was and cmsgpack.unpack(was)[2] or ARGV[8]
  local fresh = was and NOW - tonumber(cmsgpack.unpack(was)[1]) > tonumber(ARGV[11])
  if fresh then op = ARGV[8] end
  redis.call('HSET', key, field, cmsgpack.pack({int(NOW), op, ARGV[9], ARGV[10]}))
  local ttl = redis.call('PTTL', key)
  if ttl < tonumber(ARGV[11]) * 2 then redis.call('PEXPIRE', key, tonumber(ARGV[11]) * 2) end
elseif what == 'drop' then
  if redis.call('HGET', key, 'token') == ARGV[7] then
    redis.call('HDEL', key, 'conversation', 'user', 'fingerprint', 'at', 'token')
  end
elseif what == 'write' then
  redis.call('HSET', key, 'conversation', ARGV[7], 'user', ARGV[8], 'fingerprint', ARGV[9])
  redis.call('HSETNX', key, 'at', int(NOW))
  redis.call('HSETNX', key, 'token', '')
  redis.call('PEXPIRE', key, ARGV[10])
end
local record, cancels = {'', '', '', '', ''}, {}
local all = redis.call('HGETALL', key)
for i = 1, #all, 2 do
  local user = string.match(all[i], '^cancel:(.*)$')
  if all[i] == 'conversation' then record[1] = all[i + 1]
  elseif all[i] == 'user' then record[2] = all[i + 1]
  elseif all[i] == 'fingerprint' then record[3] = all[i + 1]
  elseif all[i] == 'at' then record[4] = all[i + 1]
  elseif all[i] == 'token' then record[5] = all[i + 1]
  elseif user then
    local kept = cmsgpack.unpack(all[i + 1])
    cancels[#cancels + 1] = user
    for j = 1, 4 do cancels[#cancels + 1] = kept[j] end
  end
end
return {record, cancels, int(NOW)}
