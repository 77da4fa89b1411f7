"""What Chainlit's page sends and reads over Socket.IO, as its version 2.12 does it; the frames are told in socketio.py.

It connects with the session that it made up and says `connection_successful`; once what the app does at the start of a
chat is done, it may send a step of its own making as `client_message`. The answer is `stream_start`, with the first
token as the step's output, then `stream_token`.
"""

from __future__ import annotations

import uuid
from typing import Any

import orjson
from websockets.asyncio.client import ClientConnection

from benchmarks.clients.client import Frames, ServerError, websocket


class Chainlit:
    def __init__(self, url: str) -> None:
        self._url = f"{url}?EIO=4&transport=websocket"

    async def stream(self, number: int) -> Frames:
        async with websocket(self._url) as socket:
            await _start_chat(socket)
            await socket.send(_frame("42", ["client_message", {"message": _step(), "fileReferences": []}]))
            async for data in socket:
                assert isinstance(data, str), "nothing binary is sent"
                if data.startswith("42"):
                    if text := _text(*orjson.loads(data[2:])):
                        yield [text]
                elif data == "2":
                    await socket.send("3")
                else:
                    raise ServerError(f"the server said {data}")


async def _start_chat(socket: ClientConnection) -> None:
    """Connect, and wait until a task has begun and ended; before any begins, the server says that none is running."""
    is_begun = False
    async for data in socket:
        assert isinstance(data, str), "nothing binary is sent"
        if data.startswith("0"):
            await socket.send(_frame("40", _session()))
        elif data.startswith("40"):
            await socket.send('42["connection_successful"]')
        elif data.startswith('42["task_start"'):
            is_begun = True
        elif data.startswith('42["task_end"') and is_begun:
            return
        elif not data.startswith("42"):
            break
    raise ServerError("the server did not start the chat")


def _text(name: str, argument: dict[str, Any]) -> str:
    """What an event adds to the answer; empty for those that add nothing."""
    if name == "stream_token":
        token: str = argument["token"]
        return token
    if name == "stream_start":
        output: str = argument["output"]
        return output
    if name == "new_message" and argument["isError"]:
        raise ServerError(f"the server said {argument}")
    return ""


def _session() -> dict[str, str]:
    return {
        "clientType": "webapp",
        "sessionId": str(uuid.uuid4()),
        "threadId": "",
        "userEnv": "{}",
        "chatProfile": "",
    }


def _step() -> dict[str, str]:
    return {
        "id": str(uuid.uuid4()),
        "threadId": "",
        "name": "User",
        "type": "user_message",
        "output": "Write on and on.",
        "createdAt": "2026-01-01T00:00:00.000Z",
    }


def _frame(kind: str, value: object) -> str:
    return kind + orjson.dumps(value).decode()
