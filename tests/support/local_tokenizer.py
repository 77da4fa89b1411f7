"""The local model's vocabulary, as `tests.support.corpus.sent` wants a tokenizer.

It loads the model, which takes a second, and lets it write nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from turnwire_server.local_model.engine import Engine


class LocalTokenizer:
    def __init__(self) -> None:
        self._engine = Engine()

    def encode(self, text: str) -> list[int]:
        return self._engine.tokenize(text, False)

    def decode_bytes(self, tokens: Sequence[int]) -> bytes:
        return b"".join(self._engine._bytes_of(token) for token in tokens)
