"""What a tool may raise to say how it failed, and what is raised about a tool that is wrong in itself."""

from __future__ import annotations


class ToolError(Exception):
    """The tool could not do it; the text is told to the model and shown to the user, so it must hold no secrets."""


class RetryableToolError(ToolError):
    """As `ToolError`, and trying again may help. `retry_after_s` is the least time in seconds to wait before."""

    def __init__(self, text: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(text)
        self.retry_after_s = retry_after_s


class ToolEffectUnknown(Exception):
    """Contact was lost while the tool ran elsewhere: it may have done its work. The text is told to the model."""


class InvalidArguments(Exception):
    """Arguments that do not fit the tool's schema. The text says where and what was expected, for the model."""


class ToolDeclarationError(TypeError):
    """A tool is declared wrongly. The text names the tool and what has to be changed."""
