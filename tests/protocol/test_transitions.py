"""The table of a connection's states: every pair of state and signal."""

from __future__ import annotations

from itertools import product

import pytest

from turnwire_protocol import LocalProtocolError, ProtocolError, RemoteProtocolError, Signal, State
from turnwire_protocol.transitions import FROM_CLIENT, TRANSITIONS, diagram, next_state

# Written out a second time on purpose: this is what SPEC section 2 says, state by state.
LEGAL = {
    State.OPENING: "hello>authenticating close>closing closed>closed",
    State.AUTHENTICATING: (
        "auth.refresh>authenticating ping>authenticating command>authenticating welcomed>open close>closing "
        "closed>closed"
    ),
    State.OPEN: "auth.refresh>open ping>open command>open refreshed>open expired>expired close>closing closed>closed",
    State.EXPIRED: "auth.refresh>expired ping>expired refreshed>open close>closing closed>closed",
    State.CLOSING: "welcomed>closing refreshed>closing close>closing closed>closed",
    State.CLOSED: "welcomed>closed refreshed>closed close>closed closed>closed",
}


@pytest.mark.parametrize(("state", "signal"), list(product(State, Signal)))
def test_every_pair_does_what_the_spec_says(state: State, signal: Signal) -> None:
    legal = dict(way.split(">") for way in LEGAL[state].split())
    if signal.value in legal:
        assert next_state(state, signal) is State(legal[signal.value])
    else:
        blamed = RemoteProtocolError if signal in FROM_CLIENT else LocalProtocolError
        with pytest.raises(blamed):
            next_state(state, signal)


def test_blame_is_one_or_the_other() -> None:
    assert not issubclass(RemoteProtocolError, LocalProtocolError)
    assert issubclass(RemoteProtocolError, ProtocolError)
    assert issubclass(LocalProtocolError, ProtocolError)


def test_a_socket_can_be_lost_in_every_state() -> None:
    assert all(TRANSITIONS[state][Signal.CLOSED] is State.CLOSED for state in State)


def test_diagram_shows_every_way() -> None:
    drawn = diagram()
    for state in set(State) - {State.CLOSED}:
        for signal, target in TRANSITIONS[state].items():
            assert any(
                line.strip().startswith(f"{state} --> {target}:") and signal in line for line in drawn.splitlines()
            )
