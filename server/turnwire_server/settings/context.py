"""`[context]`: what becomes of turns that a prompt has no room for."""

from __future__ import annotations

from turnwire_server.settings.section import Count, Name, Section


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
