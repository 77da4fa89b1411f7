"""What the wire can say and this version does not serve: refused by name, because a client that says it counts on it.

Whoever serves one of these deletes its line here; nothing else says what is not there yet.
"""

from __future__ import annotations

from turnwire_protocol import (
    AnyCommand,
    CommandError,
    ConversationOpen,
    ErrorCode,
    NewRequest,
)

_OF_A_REQUEST = ("segments",)
_OF_AN_OPENING = ("segments",)


def refuse_unavailable(command: AnyCommand) -> None:
    """Raise `bad_command` when the command, or a field of it, is not served in this version."""
    match command:
        case NewRequest():
            fields: tuple[str, ...] = _OF_A_REQUEST
        case ConversationOpen():
            fields = _OF_AN_OPENING
        case _:
            fields = ()
    for name in fields:
        if getattr(command, name) is not None:
            raise _refused(f"{name}:")


def _refused(what: str) -> CommandError:
    return CommandError(ErrorCode.BAD_COMMAND, f"{what} is not available in this version")
