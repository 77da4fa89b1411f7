"""A chat endpoint as teams write it first: each delta of the SDK's typed stream goes to Redis, then to the socket.

The Redis stream is there so that a client that was away can read what it missed; nobody reads it here. When the client
goes away the answer ends with it.
"""

from __future__ import annotations

import os

from fastapi import FastAPI, WebSocket, WebSocketDisconnect
from openai import AsyncOpenAI
from redis.asyncio import Redis

app = FastAPI()
client = AsyncOpenAI(api_key="none")  # where to: OPENAI_BASE_URL
redis = Redis.from_url(os.environ["REDIS_URL"], decode_responses=True)


@app.websocket("/chat")
async def chat(websocket: WebSocket) -> None:
    await websocket.accept()
    try:
        while True:
            request = await websocket.receive_json()
            stream = await client.chat.completions.create(
                model="bench", messages=[{"role": "user", "content": request["input"]}], stream=True
            )
            async for chunk in stream:
                if text := chunk.choices[0].delta.content:
                    entry_id = await redis.xadd(f"answer:{request['id']}", {"text": text})
                    await websocket.send_json({"type": "delta", "id": entry_id, "text": text})
    except WebSocketDisconnect:
        pass
