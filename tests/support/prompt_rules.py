"""OpenAI's rules for the messages of a chat completion: what a strict provider refuses.

From the API reference: roles and their fields, every tool call answered right behind the message that made it, by its
id, once; and, as some compatible servers want it, no two messages of the user in a row.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

_FIELDS = {
    "system": {"role", "content", "name"},
    "user": {"role", "content", "name"},
    "assistant": {"role", "content", "name", "tool_calls"},
    "tool": {"role", "content", "tool_call_id"},
}


def faults_of(messages: Sequence[dict[str, Any]]) -> list[str]:
    """What is wrong with the messages of a request; nothing when they may be sent to anybody."""
    faults: list[str] = []
    owed: list[str] = []
    seen: set[str] = set()
    before = ""
    for index, message in enumerate(messages):
        role = message.get("role", "")
        at = f"messages[{index}] ({role})"
        if role not in _FIELDS:
            faults.append(f"{at}: unknown role")
            continue
        if extra := set(message) - _FIELDS[role]:
            faults.append(f"{at}: unknown fields {sorted(extra)}")
        if role == "tool":
            call_id = message.get("tool_call_id")
            if call_id in owed:
                owed.remove(call_id)
            else:
                faults.append(f"{at}: answers {call_id!r}, which nobody has called or which was answered")
        elif owed:
            faults.append(f"{at}: the calls {owed} have no result yet")
            owed = []
        calls = message.get("tool_calls")
        if role != "assistant" or not calls:
            if not isinstance(message.get("content"), str):
                faults.append(f"{at}: content is no text")
            elif role == "assistant" and not message["content"]:
                faults.append(f"{at}: an empty answer")
        if role == "assistant" and calls is not None:
            faults += [f"{at}: {fault}" for call in calls or [None] for fault in _faults_of_call(call, seen)]
            owed = [call["id"] for call in calls]
        if role == "user" and before == "user":
            faults.append(f"{at}: two messages of the user in a row")
        if role == "system" and index:
            faults.append(f"{at}: a system message that is not the first")
        before = role
    if owed:
        faults.append(f"the calls {owed} have no result")
    if messages and messages[-1].get("role") == "assistant":
        faults.append("the last message is an answer")
    if not messages:
        faults.append("no messages")
    return faults


def _faults_of_call(call: dict[str, Any] | None, seen: set[str]) -> list[str]:
    if call is None:
        return ["an empty list of calls"]
    faults = []
    if set(call) != {"id", "type", "function"} or call["type"] != "function":
        return [f"not a call: {call}"]
    if call["id"] in seen:
        faults.append(f"the call id {call['id']} comes twice")
    seen.add(call["id"])
    try:
        if not isinstance(json.loads(call["function"]["arguments"]), dict):
            faults.append("arguments are no object")
    except (ValueError, TypeError):
        faults.append("arguments are no JSON")
    if not call["function"].get("name"):
        faults.append("a call without a name")
    return faults
