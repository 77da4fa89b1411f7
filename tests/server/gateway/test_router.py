"""The order in which deployments are tried."""

from __future__ import annotations

import pytest

from turnwire_server.gateway.router import Router, UnknownRoute
from turnwire_server.settings import Deployment, Route

DEPLOYMENTS = [Deployment(name=name, kind="demo", model="turnwire-demo") for name in ("a", "b", "c")]


def router(*routes: Route) -> Router:
    return Router.open(DEPLOYMENTS, routes, {})


@pytest.mark.parametrize(
    ("names", "attempts", "order"),
    [
        (("a",), 1, ["a"]),
        (("a",), 2, ["a", "a"]),
        (("b", "a"), 1, ["b"]),
        (("b", "a"), 3, ["b", "a", "b"]),
        (("a", "b", "c"), 2, ["a", "b"]),
    ],
)
def test_a_plan_goes_round_the_deployments(names: tuple[str, ...], attempts: int, order: list[str]) -> None:
    plan = router(Route(name="r", deployments=names, max_attempts=attempts)).plan("r")
    assert [provider.deployment.name for provider in plan] == order


def test_without_a_name_the_first_route_is_taken() -> None:
    both = router(Route(name="x", deployments=("c",)), Route(name="y", deployments=("a",)))
    assert both.default_route == "x"
    assert both.plan()[0].deployment.name == "c"
    assert both.has_route("y")


def test_an_unknown_route_is_refused_by_name() -> None:
    with pytest.raises(UnknownRoute, match="unknown route 'z'"):
        router(Route(name="x", deployments=("a",))).plan("z")


def test_a_route_over_an_unknown_deployment_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown deployment 'nobody'"):
        router(Route(name="x", deployments=("nobody",)))


async def test_closing_closes_every_provider_once_and_again() -> None:
    mixed = Router.open(
        [*DEPLOYMENTS, Deployment(name="o", model="m", base_url="http://127.0.0.1:9/v1")],
        [Route(name="x", deployments=("o",))],
        {},
    )
    await mixed.aclose()
    await mixed.aclose()
