"""Which deployments a step may be tried at, in which order.

It owns the providers, one for each deployment, and knows the routes. The walk along a plan, with what each
failure means for the client, is the turn's. Below: `gateway.providers`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from itertools import cycle, islice
from typing import TYPE_CHECKING, Self

from turnwire_server.gateway.provider import Provider
from turnwire_server.gateway.providers import provider_for

if TYPE_CHECKING:
    from turnwire_server.settings import Deployment, Route


class UnknownRoute(LookupError):
    """There is no route of this name."""

    def __init__(self, name: str) -> None:
        super().__init__(f"unknown route '{name}'")
        self.name = name


class Router:
    """The providers of all deployments, and the routes over them. Close it with `aclose`."""

    def __init__(self, providers: Mapping[str, Provider], routes: Iterable[Route]) -> None:
        self._providers = dict(providers)
        self._routes = {route.name: route for route in routes}
        if not self._routes:
            raise ValueError("a router needs a route")
        for route in self._routes.values():
            for name in route.deployments:
                if name not in self._providers:
                    raise ValueError(f"route '{route.name}' names the unknown deployment '{name}'")

    @classmethod
    def open(cls, deployments: Iterable[Deployment], routes: Iterable[Route], environ: Mapping[str, str]) -> Self:
        """A router with a provider for each deployment. Nothing is connected before the first call."""
        return cls({each.name: provider_for(each, environ) for each in deployments}, routes)

    async def aclose(self) -> None:
        """Closes all providers. Their streams must have been left before."""
        await asyncio.gather(*(provider.aclose() for provider in self._providers.values()))

    @property
    def default_route(self) -> str:
        """The first route: for tenants that have none of their own."""
        return next(iter(self._routes))

    def has_route(self, name: str) -> bool:
        return name in self._routes

    def route(self, name: str | None = None) -> Route:
        """The route of this name, or the default one; raises `UnknownRoute`."""
        name = self.default_route if name is None else name
        try:
            return self._routes[name]
        except KeyError:
            raise UnknownRoute(name) from None

    def plan(self, route: str | None = None) -> list[Provider]:
        """The providers of the calls that a step may make, in order: as many as the route's `max_attempts`.

        The route's deployments come one after the other, and from the first again when attempts are left:
        with a single deployment a second attempt asks the same one. Raises `UnknownRoute`.
        """
        chosen = self.route(route)
        return [self._providers[name] for name in islice(cycle(chosen.deployments), chosen.max_attempts)]

    def __repr__(self) -> str:
        return f"Router(routes={list(self._routes)}, deployments={list(self._providers)})"
