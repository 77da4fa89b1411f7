"""What nodes tell each other about deployments: `base` is the port, `sharing` uses it, `memory` is one for one process.

The one for Redis is `eventlog.redis.board`: a single folder knows the Redis client.
"""
