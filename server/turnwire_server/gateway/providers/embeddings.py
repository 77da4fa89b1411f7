"""Vectors of texts from any server that speaks the OpenAI embeddings protocol."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Protocol

import openai

from turnwire_server.gateway.credentials import Credential
from turnwire_server.gateway.errors import ProviderError, ProviderErrorKind
from turnwire_server.gateway.providers.openai import client_for
from turnwire_server.gateway.providers.openai_faults import Faults
from turnwire_server.gateway.usage import cost_usd
from turnwire_server.settings import Deployment


@dataclass(frozen=True, slots=True)
class Embedded:
    """Vectors in the order of their texts, and what they took. 0 tokens where the provider does not say."""

    vectors: Sequence[Sequence[float]]
    tokens: int
    cost_usd: Decimal


class Embeddings(Protocol):
    """Makes vectors of texts."""

    @property
    def model(self) -> str:
        """Whose vectors they are: those of different ones cannot be compared."""

    async def embed(self, texts: Sequence[str]) -> Embedded:
        """One call. Raises `ProviderError`; how long it may take is for the caller to say."""


class OpenAIEmbeddings:
    """`Embeddings` of a deployment. Close it with `aclose`."""

    def __init__(self, deployment: Deployment, credential: Credential) -> None:
        self._deployment = deployment
        self._credential = credential
        self._faults = Faults(deployment.name, credential)
        self._client = client_for(deployment)

    def __repr__(self) -> str:
        return f"OpenAIEmbeddings({self._deployment.name!r}, model={self.model!r})"

    @classmethod
    def of(cls, deployment: Deployment, environ: Mapping[str, str]) -> OpenAIEmbeddings:
        return cls(deployment, Credential.of(deployment, environ))

    @property
    def model(self) -> str:
        return self._deployment.model

    async def embed(self, texts: Sequence[str]) -> Embedded:
        key = await self._credential.get()
        try:
            answer = await self._client.embeddings.create(
                model=self._deployment.model,
                input=list(texts),
                # Asked for nothing, the SDK asks for base64, which not every server knows.
                encoding_format="float",
                extra_headers={"Authorization": f"Bearer {key}" if key else openai.Omit()},
            )
            vectors = [each.embedding for each in sorted(answer.data, key=lambda each: each.index)]
        except Exception as failure:
            limit_s = self._deployment.connect_timeout_s
            error = self._faults.from_opening(failure, connect_timeout_s=limit_s)
            if error.kind is ProviderErrorKind.AUTH and await self._credential.is_renewed(key):
                error.retryable = True  # with another key it may be taken
            raise error from failure
        if len(vectors) != len(texts) or len({len(vector) for vector in vectors}) > 1:
            raise ProviderError(
                ProviderErrorKind.ERROR,
                f"Deployment '{self._deployment.name}' did not give one vector for each text.",
                retryable=False,
            )
        # Some servers say no usage although the protocol has it.
        tokens = answer.usage.prompt_tokens if getattr(answer, "usage", None) else 0
        return Embedded(vectors, tokens, cost_usd(self._deployment, tokens, 0))

    async def aclose(self) -> None:
        await self._client.close()
