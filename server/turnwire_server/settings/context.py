"""`[context]`: what becomes of turns that a prompt has no room for."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from turnwire_server.settings.section import MOST_COUNT, Count, Name, Section


class ContextSettings(Section):
    """What goes into prompts of what was said before."""

    tool_result_tokens: Count = 2_000
    """Tokens that a tool's result has in the prompts of later turns at most: of a longer one they see the head and the
    tail. The turn that called the tool sees all of it."""
    summary_route: Name | None = None
    """Route whose model makes summaries of what there is no room for, after a turn has ended; a small model will do.
    Absent: there are none. A tenant that may not use the route has none."""
    summary_tokens: Count = 600
    """Tokens of a summary at most."""
    memory_tokens: Annotated[int, Field(ge=0, le=MOST_COUNT)] = 400
    """Tokens of earlier messages that are found again by the words of what is asked and stand beside the summary, at
    most; 0: none are looked for."""
