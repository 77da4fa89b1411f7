"""The page about tools: its module works as it stands there, and its configurations are valid."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
from tests.server.tools.kit import run

from turnwire_server.settings import build_settings

PAGE = (Path(__file__).parents[3] / "docs" / "tools.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


@pytest.fixture
def rooms() -> ModuleType:
    (text,) = blocks("python")
    module = ModuleType("rooms")
    exec(text, module.__dict__)
    return module


async def test_its_tools_work(rooms: ModuleType) -> None:
    assert (await run(rooms.rooms, {"seats": 100})).output == ["Hall"]
    unfit = await run(rooms.rooms, {"seats": 0})
    assert unfit.outcome == "never_started"
    booked = await run(rooms.book_room, {"room": "Hall"})
    assert booked.output == {"room": "Hall", "hours": 1, "booked_for": "alice"}
    unknown = await run(rooms.book_room, {"room": "Attic"})
    assert unknown.error == "there is no room called 'Attic'; there are: Hall, Studio"


@pytest.mark.parametrize("text", blocks("toml"))
def test_its_configurations_are_valid(text: str) -> None:
    build_settings(tomllib.loads(text), {"TICKETS_TOKEN": "x"})
