-- The record of a request id, in the id's own partition. ARGV: T/R, conversation, user, fingerprint, keep in ms, token,
-- token of a lapsed record that may be replaced ('' = none). Answer: {conversation, user, fingerprint, at, token, now}.
local tag = ARGV[1]
incarnation(tag)
local key = tag .. 'q:' .. ARGV[5]
local was = redis.call('HMGET', key, 'conversation', 'user', 'fingerprint', 'at', 'token')
if not was[1] or (ARGV[11] ~= '' and was[5] == ARGV[11]) then
  redis.call('HSET', key, 'conversation', ARGV[6], 'user', ARGV[7], 'fingerprint', ARGV[8], 'at', int(NOW), 'token', ARGV[10])
  redis.call('PEXPIRE', key, ARGV[9])
  return {ARGV[6], ARGV[7], ARGV[8], int(NOW), ARGV[10], int(NOW)}
end
return {was[1], was[2], was[3], was[4], was[5], int(NOW)}
