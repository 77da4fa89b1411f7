"""The clients: one small class for each way to ask a server for an endless answer. kinds.py says who speaks which."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from benchmarks.clients.aisdk import AISDK
from benchmarks.clients.bare import Bare
from benchmarks.clients.client import Client, IdleClient, ServerError
from benchmarks.clients.socketio import SocketIO
from benchmarks.clients.turnwire import Turnwire

CLIENTS: Mapping[str, Callable[[str], Client]] = {
    "bare": Bare,
    "turnwire": Turnwire,
    "socketio": SocketIO,
    "aisdk": AISDK,
}
"""By name; each is made with the URL that its server said."""

__all__ = ["CLIENTS", "Client", "IdleClient", "ServerError"]
