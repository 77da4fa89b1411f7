"""What a step does with a router, without its events."""

from __future__ import annotations

from tests.server.gateway.fakes import ASKED

from turnwire_server.gateway.errors import ProviderError
from turnwire_server.gateway.provider import Text
from turnwire_server.gateway.router import NOBODY, Caller, Router


async def ask(router: Router, caller: Caller = NOBODY, accounts: list[str] | None = None) -> str:
    """The name of whoever answered, or the last error. ``accounts`` gets the name of each call when it begins."""
    walk = router.walk(None, caller)
    while (call := await walk.next()) is not None:
        if accounts is not None:
            accounts.append(call.name)
        failure: ProviderError | None = None
        try:
            async with call.provider.stream(ASKED) as stream:
                async for chunks in stream:
                    if isinstance(chunks[0], Text):
                        call.answered()
            return call.name
        except ProviderError as error:
            failure = error
        finally:
            walk.ended(call, failure)
    assert walk.error is not None
    return walk.error.reason
