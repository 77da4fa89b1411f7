"""Chainlit's own example of streaming (docs.chainlit.io, "Streaming"), without its sampling settings."""

from __future__ import annotations

import chainlit as cl
from openai import AsyncOpenAI

client = AsyncOpenAI(api_key="none")  # where to: OPENAI_BASE_URL


@cl.on_chat_start
def start_chat() -> None:
    cl.user_session.set("message_history", [{"role": "system", "content": "You are a helpful assistant."}])


@cl.on_message
async def main(message: cl.Message) -> None:
    history = cl.user_session.get("message_history")
    history.append({"role": "user", "content": message.content})
    answer = cl.Message(content="")
    stream = await client.chat.completions.create(model="bench", messages=history, stream=True)
    async for part in stream:
        if token := part.choices[0].delta.content or "":
            await answer.stream_token(token)
    history.append({"role": "assistant", "content": answer.content})
    await answer.update()
