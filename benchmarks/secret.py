"""What the server checks the clients' tokens with. In a file of its own: a client need not import the server."""

from __future__ import annotations

SECRET = "a secret for benchmarks only, of at least 32 bytes"
