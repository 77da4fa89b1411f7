"""How long one client waits: it asks one thing after the other, and nothing else goes on.

`turnwire` asks the server, `direct` asks the provider through the openai SDK, which only knows `first_token`.
"""

from __future__ import annotations

import argparse
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from websockets.asyncio.client import ClientConnection

from benchmarks.clients import ServerError
from benchmarks.clients.client import send, websocket
from benchmarks.clients.turnwire import hello, messages
from benchmarks.processes import Answer, obey, run, say
from benchmarks.provider import Pace

_SHORT = Pace(1000, tokens=2, at_once=True)
_ENDLESS = Pace(200, at_once=True)


class Direct:
    """The provider, asked through the SDK."""

    def __init__(self, url: str) -> None:
        from openai import AsyncOpenAI  # the other client starts in half the time without it

        self._client = AsyncOpenAI(base_url=url, api_key="none", max_retries=0)

    async def first_token(self, order: Answer) -> Answer:
        """Seconds from each of `count` requests to its first token."""
        return {"s": [await self._first_token() for _ in range(order["count"])]}

    async def _first_token(self) -> float:
        began, first = time.monotonic(), 0.0
        stream = await self._client.chat.completions.create(
            model="bench", messages=[{"role": "user", "content": str(_SHORT)}], stream=True
        )
        async for chunk in stream:
            if not first and chunk.choices and chunk.choices[0].delta.content:
                first = time.monotonic()
        return first - began


class Line:
    """A connection to Turnwire, message by message. None is lost, however many a frame holds."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._came: deque[dict[str, Any]] = deque()

    async def send(self, command: str, **fields: Any) -> None:
        await send(self._socket, {"type": command, **fields})

    async def next(self) -> dict[str, Any]:
        """The next message. Raises `ServerError` for an error."""
        while not self._came:
            self._came.extend(messages(await self._socket.recv()))
        message = self._came.popleft()
        if message["type"] == "error":
            raise ServerError(f"the server said {message}")
        return message

    async def until(self, kind: str) -> dict[str, Any]:
        """The next message of this type."""
        while (message := await self.next())["type"] != kind:
            pass
        return message

    async def until_ended(self) -> dict[str, Any]:
        """The next terminal event."""
        while not (message := await self.next()).get("terminal"):
            pass
        return message


@asynccontextmanager
async def _line(url: str) -> AsyncIterator[Line]:
    async with websocket(url) as socket:
        await hello(socket, 0)
        yield Line(socket)


class Turnwire:
    """A client with one connection, `line`, for its requests, and a new one whenever it comes back."""

    def __init__(self, url: str, line: Line) -> None:
        self._url = url
        self._line = line
        self._number = 0

    async def first_token(self, order: Answer) -> Answer:
        """Seconds to the first delta: of `count` requests that make a conversation, and of the next one in each."""
        begun = self._number
        new = [await self._first_token(f"first-{begun + each}") for each in range(order["count"])]
        return {"s": [await self._first_token(f"first-{begun + each}") for each in range(order["count"])], "new": new}

    async def cancel(self, order: Answer) -> Answer:
        """Start an answer and cancel it when its first delta is there, `count` times; when each cancel was sent."""
        return {"at": [await self._cancel() for _ in range(order["count"])]}

    async def miss(self, order: Answer) -> Answer:
        """An answer of `tokens` tokens in `conversation`, `rate` a second; the cursor after it. Goes on following."""
        pace = Pace(order["rate"], tokens=order["tokens"], at_once=True)
        await self._create(order["conversation"], pace)
        epoch = (await self._line.until("ack"))["epoch"]
        return {"epoch": epoch, "seq": (await self._line.until_ended())["seq"]}

    async def leave(self, order: Answer) -> Answer:
        """Follow `conversation` no more."""
        await self._line.send("conversation.leave", conversation_id=order["conversation"])
        await self._line.until("ack")
        return {}

    async def resume(self, order: Answer) -> Answer:
        """Seconds from opening `conversation` with the cursor `since` to the last event that was missed.

        `count` times, each on a new connection, and how many events were missed.
        """
        waits = []
        for _ in range(order["count"]):
            async with _line(self._url) as line:
                began = time.monotonic()
                await line.send("conversation.open", conversation_id=order["conversation"], since=order["since"])
                opened = await line.until("conversation.opened")
                if opened["verdict"] != "replayed":
                    raise ServerError(f"nothing is replayed: {opened}")
                while (await line.next()).get("seq") != opened["seq"]:
                    pass
                waits.append(time.monotonic() - began)
        return {"s": waits, "missed": opened["missed"]}

    async def _create(self, conversation: str, pace: Pace) -> str:
        self._number += 1
        request = f"w-{self._number}"
        await self._line.send("request.create", request_id=request, conversation_id=conversation, input=str(pace))
        return request

    async def _first_token(self, conversation: str) -> float:
        began = time.monotonic()
        await self._create(conversation, _SHORT)
        await self._line.until("output_text.delta")
        first = time.monotonic()
        await self._line.until_ended()
        return first - began

    async def _cancel(self) -> float:
        request = await self._create(f"cancelled-{self._number}", _ENDLESS)
        await self._line.until("output_text.delta")
        sent = time.monotonic()
        await self._line.send("request.cancel", request_id=request)
        await self._line.until_ended()
        return sent


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--url", required=True)
    parser.add_argument("--client", choices=("turnwire", "direct"), required=True)
    arguments = parser.parse_args()
    if arguments.client == "direct":
        say({})
        await obey({"first_token": Direct(arguments.url).first_token})
        return
    async with _line(arguments.url) as line:
        client = Turnwire(arguments.url, line)
        say({})
        orders = (client.first_token, client.cancel, client.miss, client.leave, client.resume)
        await obey({order.__name__: order for order in orders})


if __name__ == "__main__":
    run(main())
