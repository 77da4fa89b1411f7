"""A small real language model on this machine, as a process of its own that speaks the OpenAI protocol.

It exists so that a first start without any key shows real tokens. The server talks to it as to any other
provider and knows only its address; nothing here imports another part of the server. `launch` is what the
server uses, everything else runs inside the child (`python -m turnwire_server.local_model`).
"""

from turnwire_server.local_model.launch import (
    LocalModel,
    LocalModelUnavailable,
    is_installed,
    running_local_model,
)

__all__ = ["LocalModel", "LocalModelUnavailable", "is_installed", "running_local_model"]
