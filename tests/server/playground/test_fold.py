"""The playground folds as everybody does: its script over `protocol/vectors/fold.json`, in Node where there is one."""

from __future__ import annotations

import json
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
VECTORS = ROOT / "protocol" / "vectors" / "fold.json"
FOLD = ROOT / "server" / "turnwire_server" / "playground" / "fold.js"
CASES: list[dict[str, Any]] = json.loads(VECTORS.read_text("utf-8"))["cases"]

pytestmark = pytest.mark.skipif(shutil.which("node") is None, reason="needs node")


@cache
def folded() -> list[dict[str, Any]]:
    """What the page makes of each case; all in one process, as starting it is what takes time."""
    command = ["node", str(Path(__file__).with_name("fold_vectors.js")), str(FOLD), str(VECTORS)]
    answer = subprocess.run(command, capture_output=True, check=True, timeout=30)
    results: list[dict[str, Any]] = json.loads(answer.stdout)
    return results


@pytest.mark.parametrize("index", [pytest.param(n, id=case["name"]) for n, case in enumerate(CASES)])
def test_the_page_folds_as_the_vectors_say(index: int) -> None:
    wanted = {key: CASES[index][key] for key in ("view", "error") if key in CASES[index]}
    assert folded()[index] == wanted
