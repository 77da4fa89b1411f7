-- The partition's state: {ready, ms since the incarnation began}. ARGV: what to do ('', 'doubt', 'settle'), inc.
-- `settle` counts only for the incarnation that was looked at; `doubt` asks for another look at the archive.
local tag = ARGV[1]
local inc, ready, since = incarnation(tag)
if ARGV[5] == 'settle' and ARGV[6] == inc and not ready then
  redis.call('HSET', tag .. 'meta', 'ready', '1')
  ready = true
elseif ARGV[5] == 'doubt' and ready then
  redis.call('HSET', tag .. 'meta', 'ready', '0')
  publish(tag, {OWNER, 'd'})
  ready = false
end
return {ready and '1' or '0', int(NOW - since), inc}
