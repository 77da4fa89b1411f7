"""Part of building the wheel: the playground has to be there, and is built when it is not.

Where there is no Node and no page the wheel is made without it, and says so: the server then says the same at `/`.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class PlaygroundHook(BuildHookInterface[Any]):
    """Named by `[tool.hatch.build.hooks.custom]`."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called before files are gathered. An editable install is a source tree, where `make` builds the page."""
        root = Path(self.root)
        page = root / "server" / "turnwire_server" / "playground" / "dist" / "index.html"
        sources = root / "clients" / "playground"
        if version == "editable" or page.is_file():
            return
        npm = shutil.which("npm")
        if npm is None or not (sources / "package.json").is_file():
            self.app.display_warning("The playground is not in this build: `make playground` makes it, with Node 20.")
            return
        for command in (["ci", "--silent"], ["run", "--silent", "build"]):
            subprocess.run([npm, "--prefix", str(sources), *command], check=True)  # noqa: S603 - constants
