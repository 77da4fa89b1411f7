"""The states of one connection and what may come in each of them.

One machine per connection, driven from three sides: what the client sends (`hello`, `auth.refresh`, `ping`,
any other command), what the server above has decided (`welcomed`, `refreshed`, `close`), and time
(`expired`). It says who may speak, nothing else: conversations, requests and what is followed are no part of
it, so losing a connection loses nothing that must survive.

  OPENING         nothing but `hello` is understood. Everything else ends the connection.
  AUTHENTICATING  `hello` has come and is being looked at. The client need not wait for `welcome`: commands
                  that follow are taken, and carried out after it in their order. If the hello is refused they
                  are dropped unseen.
  OPEN            the token is good.
  EXPIRED         the token has run out. What runs goes on and is still delivered; a new command is
                  `unauthenticated`, only `auth.refresh` and `ping` are heard, until the grace period ends.
  CLOSING         a close has been decided; nothing more is read. Answers of the server that were under way
                  when that happened (`welcomed`, `refreshed`) change nothing any more.
  CLOSED          the socket is gone.

A second `hello` is illegal everywhere: who somebody is, is said once; `auth.refresh` renews it.
"""

from __future__ import annotations

from enum import StrEnum

from turnwire_protocol.exceptions import LocalProtocolError, ProtocolError, RemoteProtocolError


class State(StrEnum):
    OPENING = "opening"
    AUTHENTICATING = "authenticating"
    OPEN = "open"
    EXPIRED = "expired"
    CLOSING = "closing"
    CLOSED = "closed"


class Signal(StrEnum):
    """What moves the machine. The first four come from the client."""

    HELLO = "hello"
    REFRESH = "auth.refresh"
    PING = "ping"
    COMMAND = "command"
    WELCOMED = "welcomed"
    REFRESHED = "refreshed"
    EXPIRED = "expired"
    CLOSE = "close"
    CLOSED = "closed"


FROM_CLIENT = frozenset({Signal.HELLO, Signal.REFRESH, Signal.PING, Signal.COMMAND})

TRANSITIONS: dict[State, dict[Signal, State]] = {
    State.OPENING: {
        Signal.HELLO: State.AUTHENTICATING,
        Signal.CLOSE: State.CLOSING,
        Signal.CLOSED: State.CLOSED,
    },
    State.AUTHENTICATING: {
        Signal.REFRESH: State.AUTHENTICATING,
        Signal.PING: State.AUTHENTICATING,
        Signal.COMMAND: State.AUTHENTICATING,
        Signal.WELCOMED: State.OPEN,
        Signal.CLOSE: State.CLOSING,
        Signal.CLOSED: State.CLOSED,
    },
    State.OPEN: {
        Signal.REFRESH: State.OPEN,
        Signal.PING: State.OPEN,
        Signal.COMMAND: State.OPEN,
        Signal.REFRESHED: State.OPEN,
        Signal.EXPIRED: State.EXPIRED,
        Signal.CLOSE: State.CLOSING,
        Signal.CLOSED: State.CLOSED,
    },
    State.EXPIRED: {
        Signal.REFRESH: State.EXPIRED,
        Signal.PING: State.EXPIRED,
        Signal.REFRESHED: State.OPEN,
        Signal.CLOSE: State.CLOSING,
        Signal.CLOSED: State.CLOSED,
    },
    State.CLOSING: {
        Signal.WELCOMED: State.CLOSING,
        Signal.REFRESHED: State.CLOSING,
        Signal.CLOSE: State.CLOSING,
        Signal.CLOSED: State.CLOSED,
    },
    State.CLOSED: {
        Signal.WELCOMED: State.CLOSED,
        Signal.REFRESHED: State.CLOSED,
        Signal.CLOSE: State.CLOSED,
        Signal.CLOSED: State.CLOSED,
    },
}


def next_state(state: State, signal: Signal) -> State:
    """The state after `signal`; an illegal pair raises with the one to blame."""
    after = TRANSITIONS[state].get(signal)
    if after is None:
        blame: type[ProtocolError] = RemoteProtocolError if signal in FROM_CLIENT else LocalProtocolError
        raise blame(f"{signal} in state {state}")
    return after


def diagram() -> str:
    """The table as a Mermaid state diagram, for SPEC."""
    lines = ["stateDiagram-v2", f"    [*] --> {State.OPENING}"]
    for state, ways in TRANSITIONS.items():
        for target in dict.fromkeys(ways.values()):
            signals = ", ".join(signal for signal, to in ways.items() if to is target)
            if state is not State.CLOSED:
                lines.append(f"    {state} --> {target}: {signals}")
    lines.append(f"    {State.CLOSED} --> [*]")
    return "\n".join(lines)
