"""Reads `protocol/vectors`; the cases come as pytest parameters named after themselves."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest

VECTORS = Path(__file__).parents[2] / "protocol" / "vectors"


@cache
def load(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((VECTORS / f"{name}.json").read_text("utf-8"))
    return loaded


def cases(name: str, key: str) -> list[Any]:
    return [pytest.param(case, id=case["name"]) for case in load(name)[key]]
