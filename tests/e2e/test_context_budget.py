"""What goes into a prompt of what was said before, told with each step."""

from __future__ import annotations

from tests.support.client import connected
from tests.support.provider import Script
from tests.support.stack import running_stack

from turnwire_server.gateway.usage import TokenCounter


async def test_each_step_tells_what_its_prompt_has_and_what_had_no_room() -> None:
    counter = TokenCounter.load()
    async with running_stack(tenants={"default": {"max_context_tokens": 150, "system_prompt": "Be brief."}}) as stack:
        provider, app = stack
        async with connected(app.url) as alice:
            for number in range(8):
                provider.script(Script.text(f"answer {number} ", "and so on " * 8))
                await alice.create(f"r{number}", "c1", f"question {number}")
                context = (await alice.event("step.started", f"r{number}"))["context"]
                await alice.terminal(f"r{number}")
                prompt = provider.requests[-1].messages
                assert context["tokens"] == counter.estimate_prompt_tokens(prompt) <= context["budget"] == 150
                assert context["messages"] == len(prompt) - 2
                assert context["messages"] + context["left_out"] == 2 * number
                assert prompt[0] == {"role": "system", "content": "Be brief."}
                assert prompt[-1] == {"role": "user", "content": f"question {number}"}
            assert 2 <= context["messages"] <= 10
            assert prompt[1]["role"] == "user"
