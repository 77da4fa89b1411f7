"""Ways to reach a model, one file for each kind of deployment; `provider_for` picks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from turnwire_server.gateway.credentials import Credential
from turnwire_server.gateway.provider import Provider

if TYPE_CHECKING:
    from turnwire_server.settings import Deployment


def provider_for(deployment: Deployment, environ: Mapping[str, str]) -> Provider:
    """The provider of a deployment; of its key only what `environ` holds is read here."""
    if deployment.kind == "demo":
        from turnwire_server.gateway.providers.demo import DemoProvider

        return DemoProvider(deployment)
    # Not at the top: the SDK takes most of a second to import, which a demonstration does not need.
    from turnwire_server.gateway.providers.openai import OpenAIProvider

    return OpenAIProvider(deployment, Credential.of(deployment, environ))


__all__ = ["provider_for"]
