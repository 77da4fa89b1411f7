"""The same tests on other engines.

Some of them run a second time: on Redis and MongoDB, or on two nodes with a Redis Cluster and MongoDB. With
`TURNWIRE_TEST_STORAGE=redis` (or `cluster`, as `make test-cluster` has it) all that can run there do, and only there.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from tests.support.redis import RedisCluster, redis_cluster_for_many
from tests.support.storage import KINDS, Kind, stored_in

# Tests of the embedded engine itself, and of processes that have settings of their own.
_EMBEDDED_ONLY = frozenset(["test_outage", "test_workers", "test_readme"])
# About a minute of them.
_ON_REDIS = frozenset(
    [
        "test_turn",
        "test_tool_calls",
        "test_turn_control",
        "test_cancel",
        "test_commands_in_states",
        "test_context",
        "test_queue",
        "test_races",
        "test_disconnect",
        "test_idempotency",
        "test_isolation",
        "test_isolation_ids",
        "test_jobs",
        "test_limits",
        "test_limits_stores",
        "test_presence",
        "test_recovery",
        "test_segments",
        "test_slow_readers",
        "test_stages",
        "test_tenants",
    ]
)
# About half a minute: what two nodes have to agree upon.
_ON_CLUSTER = frozenset(
    [
        "test_the_events_of_a_turn_come_in_order_after_the_ack",
        "test_a_client_that_is_cut_anywhere_folds_to_the_same_as_one_that_never_was",
        "test_the_provider_sees_its_socket_closed_within_50_ms_of_the_cancel_frame",
        "test_a_cancel_that_races_the_end_is_never_acknowledged_and_then_completed",
        "test_an_owner_cancels_anybodys_request_and_an_editor_only_its_own",
        "test_the_queue_is_one_for_all_members",
        "test_cancelling_all_at_once_ends_each_once_and_in_any_order",
        "test_the_next_starts_however_the_one_before_ends",
        "test_five_connections_with_the_same_request_make_one_call_and_see_the_same",
        "test_a_repeat_months_later_answers_with_a_snapshot",
        "test_what_each_role_may_do_with_a_request_of_somebody_else",
        "test_the_provider_sees_the_same_traffic_whether_followers_leave_or_stay",
        "test_the_scopes_of_a_new_token_apply_at_once",
        "test_a_change_is_told_once_and_newcomers_find_it",
        "test_a_change_that_nobody_repeats_is_in_the_next_snapshot_and_in_the_log",
        "test_many_at_once_and_newcomers_meanwhile_agree",
        "test_followers_are_told_who_comes_what_they_say_and_who_goes",
        "test_a_user_with_two_connections_is_present_once_and_with_the_newest_state",
        "test_the_users_of_a_node_that_died_go_by_themselves",
        "test_a_lost_announcement_is_made_good",
        "test_a_storm_is_told_in_a_few_messages",
        "test_every_command_with_ids_of_another_tenant_is_answered_as_with_unknown_ones",
        "test_two_tenants_live_the_same_life_under_the_same_ids_at_the_same_time",
        "test_whatever_two_tenants_do_nothing_crosses",
        "test_a_tenant_is_served_from_when_it_is_added_and_its_changes_count_for_the_next_command",
        "test_who_is_suspended_or_removed_is_closed_and_refused_and_nobody_else",
        "test_what_an_operator_does_with_what_belongs_to_others_is_told",
        "test_a_change_at_the_command_line_is_live_within_seconds_beside_running_servers",
        "test_a_release_counts_for_the_next_request_and_a_request_keeps_the_version_it_was_created_with",
    ]
)
# Of these there are two nodes on Redis too: a command comes to the one that does not run the turn.
_TWO_ON_REDIS = frozenset(["test_every_command_in_every_state"])
# These are about two nodes and run nowhere else.
_TWO_NODES = frozenset(
    [
        "test_the_users_of_a_node_that_died_go_by_themselves",
        "test_a_lost_announcement_is_made_good",
    ]
)
# These look into their server, or at what one process limits: on a Cluster they have one node all the same.
_ONE_NODE = frozenset(
    [
        "test_a_request_whose_author_left_before_its_first_event_is_cancelled_too",
        "test_a_close_by_the_server_does_not_count",
        "test_connections_of_one_user_are_limited_and_cost_no_other_user_anything",
        "test_connections_of_the_process_are_limited_before_anything_is_read",
        "test_connections_are_limited_by_tenant_and_by_user",
        "test_a_slow_call_of_a_suspended_tenant_is_not_raced",
        "test_while_the_archive_is_away_tenants_stay_as_they_were_known",
        "test_settings_that_make_no_sense_here_stop_nothing_and_are_told",
        "test_an_operator_does_nothing_that_cannot_be_told",
        # A node does not know of an absence that ended and began again elsewhere while it waited.
        "test_each_absence_of_the_author_has_its_own_grace_time",
        "test_origin_and_http",
        "test_slow_readers",
    ]
)
# Of tests with many seeds so many run on the other engines.
_SEEDS = 3


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    kinds = _kinds(_module(metafunc.module.__name__), metafunc.function.__name__)
    if kinds != ["embedded"]:
        metafunc.parametrize("_storage", kinds, indirect=True)


def _module(name: str) -> str:
    return name.rpartition(".")[2]


def _kinds(module: str, name: str) -> list[Kind]:
    if module in _EMBEDDED_ONLY:
        return ["embedded"]
    chosen = os.environ.get("TURNWIRE_TEST_STORAGE")
    if chosen:
        return [kind for kind in KINDS if kind == chosen]
    # What two nodes agree upon through a Cluster is not tried on one server as well: the others are, and all on demand.
    if name in _ON_CLUSTER:
        return ["embedded", "cluster"]
    return ["embedded", "redis"] if module in _ON_REDIS else ["embedded"]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    chosen = os.environ.get("TURNWIRE_TEST_STORAGE")
    spared = [item for item in items if _is_spared(item, chosen)]
    if spared:
        config.hook.pytest_deselected(items=spared)
        items[:] = [item for item in items if item not in set(spared)]


def _is_spared(item: pytest.Item, chosen: str | None) -> bool:
    if item.path.parent.name != "e2e" or not isinstance(item, pytest.Function):
        return False
    params = item.callspec.params if hasattr(item, "callspec") else {}
    if item.originalname in _TWO_NODES and params.get("_storage", "embedded") != "cluster":
        return True
    if chosen:
        return chosen != "embedded" and _module(item.module.__name__) in _EMBEDDED_ONLY
    return params.get("_storage", "embedded") != "embedded" and params.get("seed", 0) >= _SEEDS


@pytest.fixture(scope="session")
def redis_cluster() -> Iterator[RedisCluster]:
    with redis_cluster_for_many(primaries=3, replicas=0, appendonly="no") as cluster:
        yield cluster


@pytest.fixture(autouse=True)
def _storage(request: pytest.FixtureRequest) -> Iterator[None]:
    kind: Kind = getattr(request, "param", "embedded")
    url = request.getfixturevalue("redis_cluster").url if kind == "cluster" else ""
    alone = not _ONE_NODE.isdisjoint([_module(request.module.__name__), request.function.__name__])
    two = kind == "cluster" or (kind == "redis" and request.function.__name__ in _TWO_ON_REDIS)
    with stored_in(kind, url, nodes=2 if two and not alone else 1):
        yield
