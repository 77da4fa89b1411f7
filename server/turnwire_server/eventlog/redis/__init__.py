"""The clustered event log: Redis holds the steps, every node serves every client.

`log` carries out the port, one Lua file a step (``lua/``); `scripts` runs them and knows what a refused one means;
`server` finds the server or servers behind a URL; `follow` hears what other nodes write; `leases` keeps this node's
ownership alive; `views` reads what the scripts answer. How it all holds together is in DECISIONS 13 and 14. `board` and
`quotas` are two other, smaller ports: what nodes tell each other besides the log, and what tenants use.
"""

from .board import RedisBoard
from .log import RedisEventLog
from .quotas import RedisQuotas

__all__ = ["RedisBoard", "RedisEventLog", "RedisQuotas"]
