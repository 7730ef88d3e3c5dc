"""A gRPC client in another language: Node's, made from our proto, installed from its own pins."""

import asyncio
import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from devstack.config import default_cache_dir

_SOURCE = Path(__file__).parents[1] / "clients" / "node"
PROTO = Path(__file__).parents[2] / "proto" / "idp" / "build" / "v1" / "build.proto"


def install() -> Path:
    """The client's folder, installed once a machine for these pins. Skips where there is no Node."""
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not on the PATH: no client in another language can be run")
    pins = hashlib.sha256(
        b"".join(path.read_bytes() for path in sorted(_SOURCE.iterdir()))
    ).hexdigest()[:16]
    folder = default_cache_dir(os.environ) / f"node-client-{pins}"
    if not folder.exists():
        fresh = folder.with_name(f".{folder.name}.{os.getpid()}")
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.copytree(_SOURCE, fresh)
        done = subprocess.run(
            ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"],
            cwd=fresh,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        fresh.rename(folder)
    return folder


async def call(
    folder: Path, target: str, method: str, request: dict[str, Any], **options: Any
) -> dict[str, Any]:
    """What the client printed: `response`, or `status` and `details`."""
    process = await asyncio.create_subprocess_exec(
        "node",
        str(folder / "call.js"),
        str(PROTO),
        target,
        method,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    given = json.dumps({"request": request, **options}).encode()
    out, err = await asyncio.wait_for(process.communicate(given), 30)
    assert process.returncode == 0, err.decode()
    told: dict[str, Any] = json.loads(out)
    return told
