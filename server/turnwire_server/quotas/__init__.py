"""How much a tenant may ask for: `base` is the port, `memory` serves one process.

The one for Redis is `eventlog.redis.quotas`: a single folder knows the Redis client. What is asked of either, and what
comes of it for a request, lies in `conversations.quotas`.
"""
