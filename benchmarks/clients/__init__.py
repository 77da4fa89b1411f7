"""The clients: one small class for each way to ask a server for an endless answer. kinds.py says who speaks which."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from benchmarks.clients.aisdk import AISDK
from benchmarks.clients.bare import Bare
from benchmarks.clients.by_hand import ByHand
from benchmarks.clients.chainlit import Chainlit
from benchmarks.clients.client import Client, IdleClient, ServerError
from benchmarks.clients.litellm import LiteLLM
from benchmarks.clients.socketio import SocketIO
from benchmarks.clients.turnwire import Turnwire

CLIENTS: Mapping[str, Callable[[str], Client]] = {
    "bare": Bare,
    "turnwire": Turnwire,
    "socketio": SocketIO,
    "aisdk": AISDK,
    "by_hand": ByHand,
    "chainlit": Chainlit,
    "litellm": LiteLLM,
}
"""By name; each is made with the URL that its server said."""

__all__ = ["CLIENTS", "Client", "IdleClient", "ServerError"]
