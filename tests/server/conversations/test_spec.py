"""What a turn is to do, as it is stored: what its usage is summed by."""

from __future__ import annotations

from typing import Any

import pytest

from turnwire_protocol import RequestCreate
from turnwire_server.archive.base import Billing
from turnwire_server.auth import Principal
from turnwire_server.conversations.prompting import Prompted
from turnwire_server.conversations.spec import TurnSpec
from turnwire_server.settings import Tenant


@pytest.mark.parametrize(
    ("metadata", "feature"),
    [
        (None, None),
        ({}, None),
        ({"feature": "summary"}, "summary"),
        ({"feature": "side-bar.v2:draft_1", "other": 1}, "side-bar.v2:draft_1"),
        ({"feature": "x" * 64}, "x" * 64),
        ({"feature": "x" * 65}, None),
        ({"feature": ""}, None),
        ({"feature": "two words"}, None),
        ({"feature": "summary\n"}, None),
        ({"feature": "Überblick"}, None),
        ({"feature": 7}, None),
        ({"feature": ["summary"]}, None),
    ],
)
def test_a_feature_is_a_label_of_the_alphabet_of_ids_or_none(
    metadata: dict[str, Any] | None, feature: str | None
) -> None:
    command = RequestCreate(
        type="request.create", request_id="r1", conversation_id="c1", input="hello", metadata=metadata
    )
    spec = TurnSpec.create(command, Principal("acme", "ann", frozenset(), None), Tenant(), "fast", 0, Prompted(None))
    assert spec.billing() == Billing("ann", "c1", "fast", feature)
    stored = TurnSpec.from_json(spec.to_json(command), 1)
    assert stored.billing() == spec.billing(), "it is the same after any crash"
