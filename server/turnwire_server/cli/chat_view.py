"""What `turnwire chat` shows: the answer as it grows, and everything else that happens, dimmed, on lines of its own.

The view compares what it has shown with what the fold has, so it never shows text twice, whether text comes as
deltas, merged, or in a snapshot after a reconnect; what a fallback took back is said and shown anew.
"""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.markup import escape

from turnwire_protocol import ConversationFold, ReasoningPart, TextPart, ToolCallPart

_TOOL_SIGNS = {"completed": "[green]✓[/green]", "failed": "[red]✗[/red]", "running": "…"}


class View:
    """Follows one request at a time, the one that streams."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._shown = ""
        self._request: str | None = None
        self._in_line = False
        self._calls: dict[str, str] = {}

    def begin(self, conversation_id: str, *, is_terminal: bool) -> None:
        if is_terminal:
            self._note(f"conversation {conversation_id} · Ctrl-C cancels an answer, again it leaves")

    def prompt(self, *, is_terminal: bool) -> None:
        if is_terminal:
            self._end_line()
            self._console.print("[bold cyan]you ›[/bold cyan] ", end="")

    def leave(self, running: str | None) -> None:
        self._end_line()
        if running is not None:
            self._note(f"the answer goes on without you; take it up with: turnwire chat --resume {running}")

    def error(self, text: str) -> None:
        self._end_line()
        self._console.print(f"[red]{escape(text)}[/red]")

    def connection(self, text: str) -> None:
        self._note(text)

    def frame(self, fold: ConversationFold, messages: list[dict[str, Any]]) -> None:
        """Show what has changed."""
        for request in fold.active.values():
            if request.message_id is not None:
                self._show(request.request_id, request.partial.to_parts())
        for message in messages:
            self._event(fold, message)

    def _event(self, fold: ConversationFold, message: dict[str, Any]) -> None:
        match message["type"]:
            case "request.queued":
                self._note(f"waiting, place {message['position']}")
            case "request.delayed":
                self._note(f"{message['reason']}: waiting to be tried again")
            case "step.failed":
                following = f"; trying {message['next']}" if message.get("next") else ""
                self._note(f"{message['deployment']}: {message['reason']}{following}")
            case "retrieval.completed":
                self._note(f"looked up {message['documents']} documents")
            case "usage.completed":
                tokens = f"{message['input_tokens']} + {message['output_tokens']} tokens"
                about = "" if message["source"] == "provider" else ", estimated"
                cost = "" if message["cost_usd"] == "0" else f" · ${message['cost_usd']}"
                self._note(f"{tokens}{about}{cost}")
            case "message.cancelled" | "message.incomplete" | "message.failed":
                self._ended(message)
            case "message.completed":
                self._show_whole(message)
            case "conversation.snapshot":
                self._after_snapshot(fold)

    def ended(self, request_id: str, state: str, message: dict[str, Any] | None) -> None:
        """A request that had ended before it was asked for; `message` is its answer, where it got as far as one."""
        self._show_whole({"request_id": request_id, "message": message})
        if state != "completed":
            self._note(state)

    def _ended(self, message: dict[str, Any]) -> None:
        self._show_whole(message)
        if message["type"] == "message.failed":
            self.error(message["error"]["message"])
        else:
            self._note(message["type"].removeprefix("message.") + f" {message.get('reason') or ''}".rstrip())

    def _show_whole(self, message: dict[str, Any]) -> None:
        """The end of an answer: what was not shown yet."""
        parts = (message.get("message") or {}).get("parts")
        if parts is not None and self._request == message["request_id"]:
            text = "".join(part["text"] for part in parts if part["kind"] == "text")
            self._text(text)
        self._end_line()

    def _after_snapshot(self, fold: ConversationFold) -> None:
        """An answer that ended while we were away is shown from where we stopped."""
        for message in fold.branch():
            if message.role == "assistant" and message.request_id == self._request:
                self._show(message.request_id, message.parts)
                self._end_line()

    def watch(self, request_id: str) -> None:
        """From now on this request is shown."""
        self._request, self._shown, self._calls = request_id, "", {}

    def _show(self, request_id: str, parts: list[Any]) -> None:
        if request_id != self._request:
            self.watch(request_id)
        for part in parts:
            if isinstance(part, ToolCallPart) and self._calls.get(part.call_id) != part.state:
                self._calls[part.call_id] = part.state
                self._note(f"{_TOOL_SIGNS.get(part.state, '·')} {escape(part.name)} {part.state}", markup=True)
            elif isinstance(part, ReasoningPart) and not any(isinstance(p, TextPart) for p in parts):
                self._reasoning(part.text)
        self._text("".join(part.text for part in parts if isinstance(part, TextPart)))

    def _reasoning(self, text: str) -> None:
        shown = self._calls.get("reasoning", "")
        if len(text) > len(shown):
            self._calls["reasoning"] = text
            self._console.print(text[len(shown) :], end="", style="dim italic", markup=False, soft_wrap=True)
            self._in_line = True

    def _text(self, text: str) -> None:
        if text == self._shown:
            return
        if not text.startswith(self._shown):
            self._note("that was taken back; once more:")
            self._shown = ""
        if not self._shown and self._calls.get("reasoning"):
            self._end_line()
        self._console.print(text[len(self._shown) :], end="", markup=False, soft_wrap=True)
        self._shown, self._in_line = text, True

    def _note(self, text: str, *, markup: bool = False) -> None:
        self._end_line()
        self._console.print(text if markup else escape(text), style="dim")

    def _end_line(self) -> None:
        if self._in_line:
            self._console.print()
            self._in_line = False
