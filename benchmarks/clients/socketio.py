"""Socket.IO's client, its frames by hand: Engine.IO's packet type, then Socket.IO's, then JSON.

`0{…}` opened, `40` connect (and its answer), `42["name",{…}]` an event, `44{…}` refused, `2` ping, `3` pong. With
connection state recovery on, an offset follows the event's argument; a client would keep it.
"""

from __future__ import annotations

import orjson

from benchmarks.clients.client import Frames, ServerError, websocket


class SocketIO:
    def __init__(self, url: str) -> None:
        self._url = f"{url}/socket.io/?EIO=4&transport=websocket"

    async def stream(self, number: int) -> Frames:
        async with websocket(self._url) as socket:
            async for data in socket:
                assert isinstance(data, str), "nothing binary is sent"
                if data.startswith("42"):
                    name, argument, *_ = orjson.loads(data[2:])
                    if name != "delta":
                        raise ServerError(f"the server said {name} {argument}")
                    yield [argument["text"]]
                elif data == "2":
                    await socket.send("3")
                elif data.startswith("0"):
                    await socket.send("40")
                elif data.startswith("40"):
                    ask = orjson.dumps(["ask", {"request_id": f"r-{number}"}])
                    await socket.send("42" + ask.decode())
                else:
                    raise ServerError(f"the server said {data}")
