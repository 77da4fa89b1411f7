"""Deployments, routes, tenants: what is filled in, and names that must lead somewhere."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from turnwire_server.settings import SettingsError, build_settings

DEPLOYMENT = {"name": "mini", "model": "gpt-4o-mini"}


def fault_lines(tree: dict[str, Any], environ: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        build_settings(tree, environ or {})
    return str(caught.value).splitlines()


def test_a_key_in_the_environment_makes_a_deployment() -> None:
    environ = {"OPENAI_API_KEY": "sk-x", "OPENAI_MODEL": "gpt-x"}
    settings = build_settings({}, environ)
    (deployment,) = settings.deployments
    assert (deployment.name, deployment.kind, deployment.model) == ("openai", "openai", "gpt-x")
    assert deployment.base_url is None
    assert deployment.api_key(environ) == "sk-x"
    assert settings.routes[0].deployments == ("openai",)
    assert "sk-x" not in repr(settings)
    assert settings.secret_values(environ) == ("sk-x",)


def test_a_base_url_in_the_environment_makes_a_deployment_without_a_key() -> None:
    environ = {"OPENAI_BASE_URL": "http://127.0.0.1:8000/v1"}
    (deployment,) = build_settings({}, environ).deployments
    assert (deployment.model, deployment.base_url) == ("gpt-4o-mini", "http://127.0.0.1:8000/v1")
    assert deployment.api_key(environ) is None


def test_a_wrong_base_url_in_the_environment_is_refused() -> None:
    (line,) = fault_lines({}, {"OPENAI_BASE_URL": "localhost:8000"})
    assert line.startswith('deployments.0.base_url: "localhost:8000": must be an address')


def test_configured_deployments_stand_alone_and_are_routed_in_their_order() -> None:
    tree = {"deployments": [DEPLOYMENT, {**DEPLOYMENT, "name": "other"}]}
    settings = build_settings(tree, {"OPENAI_API_KEY": "sk-x"})
    assert settings.routes[0].deployments == ("mini", "other")
    assert settings.deployment("other").name == "other"
    with pytest.raises(KeyError):
        settings.deployment("openai")


def test_prices_keep_every_digit() -> None:
    tree = {"deployments": [{**DEPLOYMENT, "input_usd_per_mtok": "0.1500001", "output_usd_per_mtok": 0.6}]}
    (deployment,) = build_settings(tree, {}).deployments
    assert (deployment.input_usd_per_mtok, deployment.output_usd_per_mtok) == (Decimal("0.1500001"), Decimal("0.6"))
    assert deployment.cached_usd_per_mtok is None


def test_an_absent_key_variable_is_named() -> None:
    tree = {"deployments": [{**DEPLOYMENT, "api_key_env": "MY_KEY"}]}
    expected = ['deployments.0.api_key_env: "MY_KEY": this environment variable is not set']
    assert fault_lines(tree) == expected
    assert fault_lines(tree, {"MY_KEY": " "}) == expected
    assert build_settings(tree, {"MY_KEY": "k\n"}).deployments[0].api_key({"MY_KEY": "k\n"}) == "k"


def test_names_that_lead_nowhere_are_refused() -> None:
    tree = {
        "deployments": [DEPLOYMENT],
        "routes": [{"name": "a", "deployments": ["mini", "maxi"]}],
        "tenants": {"acme": {"route": "b"}},
    }
    assert fault_lines(tree) == [
        'routes.0.deployments: "maxi": no such deployment; there are: mini',
        'tenants.acme.route: "b": no such route; there are: a',
    ]


def test_a_deployment_with_another_fault_is_still_a_known_one() -> None:
    tree = {
        "deployments": [{**DEPLOYMENT, "max_concurrency": 0}],
        "routes": [{"name": "a", "deployments": ["mini"]}],
    }
    assert fault_lines(tree) == ["deployments.0.max_concurrency: 0: must be at least 1"]


def test_names_given_twice_are_refused() -> None:
    tree = {
        "deployments": [DEPLOYMENT, DEPLOYMENT],
        "routes": [{"name": "a", "deployments": ["mini", "mini"]}, {"name": "a", "deployments": ["mini"]}],
    }
    assert fault_lines(tree) == [
        'deployments.1.name: "mini": must be given only once',
        'routes.1.name: "a": must be given only once',
        'routes.0.deployments: "mini": must be given only once',
    ]


@pytest.mark.parametrize(
    ("key", "value", "line"),
    [
        ("midstream", "carry-on", "routes.0.midstream: \"carry-on\": must be 'restart', 'continue' or 'fail'"),
        ("hedge_after_ms", 0, "routes.0.hedge_after_ms: 0: must be at least 1"),
        ("weights", {"maxi": 1}, "routes.0.weights.maxi: 1: is not one of the route's deployments: mini"),
        ("features", ["x y"], "routes.0.features.0"),
        ("max_attempts", 0, "routes.0.max_attempts: 0: must be at least 1"),
        ("deployments", [], "routes.0.deployments: a list: must have at least 1 entries"),
    ],
)
def test_a_wrong_route_is_refused(key: str, value: object, line: str) -> None:
    route = {"name": "a", "deployments": ["mini"], key: value}
    (found,) = fault_lines({"deployments": [DEPLOYMENT], "routes": [route]})
    assert found.startswith(line)


@pytest.mark.parametrize(
    ("key", "value", "line"),
    [
        ("requests_per_minute", 0, "tenants.acme.requests_per_minute: 0: must be at least 1"),
        ("tokens_per_minute", "many", 'tenants.acme.tokens_per_minute: "many": must be a whole number'),
        ("budget_usd_per_day", "0", 'tenants.acme.budget_usd_per_day: "0": must be greater than 0'),
        ("budget_usd_per_month", -5, "tenants.acme.budget_usd_per_month: -5: must be greater than 0"),
        ("connections", True, "tenants.acme.connections: true: must not be true or false"),
        ("suspended", "perhaps", 'tenants.acme.suspended: "perhaps": must be true or false'),
    ],
)
def test_a_wrong_limit_of_a_tenant_is_refused(key: str, value: object, line: str) -> None:
    assert fault_lines({"tenants": {"acme": {key: value}}}) == [line]


def test_amounts_of_a_budget_keep_every_digit() -> None:
    tree = {"tenants": {"acme": {"budget_usd_per_day": "12.345678", "budget_usd_per_month": 100}}}
    tenant = build_settings(tree, {}).tenants["acme"]
    assert (tenant.budget_usd_per_day, tenant.budget_usd_per_month) == (Decimal("12.345678"), Decimal(100))


def test_an_unknown_tenant_gets_the_default_one() -> None:
    tenants = {"default": {"system_prompt": "a"}, "acme": {"system_prompt": "b"}}
    settings = build_settings({"tenants": tenants}, {})
    prompts = {name: tenant.system_prompt for name in ("acme", "else") if (tenant := settings.tenant(name))}
    assert prompts == {"acme": "b", "else": "a"}


def test_an_unknown_tenant_is_refused_where_tenants_are_named_without_a_default() -> None:
    settings = build_settings({"tenants": {"acme": {}}}, {})
    assert settings.tenant("acme") is not None
    assert settings.tenant("else") is None


def test_a_tenant_without_a_route_gets_the_first() -> None:
    routes = [{"name": name, "deployments": ["mini"]} for name in ("first", "second")]
    settings = build_settings({"deployments": [DEPLOYMENT], "routes": routes}, {})
    chosen = [settings.route(name) for name in (None, "second", "third")]
    assert [route and route.name for route in chosen] == ["first", "second", None]


def test_a_tenant_whom_nobody_may_answer_is_refused() -> None:
    deployments = [{**DEPLOYMENT, "region": "eu"}, {"name": "new", "model": "m", "features": ["beta"]}]
    routes = [{"name": "a", "deployments": ["mini"]}, {"name": "b", "deployments": ["new"], "features": ["beta"]}]
    tree = {"deployments": deployments, "routes": routes}
    fine = {"x": {"regions": ["eu"]}, "y": {"route": "b", "features": ["beta"], "routes": ["a"]}}
    assert build_settings({**tree, "tenants": fine}, {}).tenant("y") is not None
    lines = fault_lines({**tree, "tenants": {"x": {"regions": ["mars"]}, "y": {"route": "b", "routes": ["c"]}}})
    assert [line.split(":")[0] for line in lines] == [
        "tenants.x.regions", "tenants.x.route", "tenants.y.routes", "tenants.y.route"
    ]  # fmt: skip
