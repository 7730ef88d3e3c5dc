"""Generated requests, from the served OpenAPI document: none is answered 500 or above, none undocumented."""

import asyncio
import re
import sys
from pathlib import Path

import pytest

from quota.api.openapi import openapi_document
from tests.support.live_api import OPERATOR

CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,"
    "response_schema_conformance,negative_data_rejection,unsupported_method,ignored_auth"
)
SEED = 20261125
EXAMPLES = 3
"""Generated for each operation, beside those that cover its schema's edges."""

# A body above 1 MiB is refused before it is read: 413.
CONFIG = """
[checks]
negative_data_rejection.expected-statuses = [400, 401, 403, 404, 405, 409, 413, 422]
"""


@pytest.mark.promise("hostile-input")
@pytest.mark.slow
async def test_generated_requests_get_the_documented_answers(api, tmp_path):
    for name in ("acme", "0"):
        path = f"/v1/workspaces/{name}"
        assert (await api.call("PATCH", path, {"quota_bytes": 10**9}))[0] == 200
    (tmp_path / "schemathesis.toml").write_text(CONFIG)
    process = await asyncio.create_subprocess_exec(
        str(Path(sys.executable).parent / "st"),
        *("run", f"{api.base}/openapi.json"),
        *("--header", f"Authorization: Bearer {OPERATOR}"),
        *("--checks", CHECKS, "--phases", "examples,coverage,fuzzing"),
        *("--seed", str(SEED), "--max-examples", str(EXAMPLES), "--no-shrink"),
        *("--generation-database", "none", "--suppress-health-check", "all", "--no-color"),
        cwd=tmp_path,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await asyncio.wait_for(process.communicate(), 180)
    said = output.decode()
    assert process.returncode == 0, said
    # All but the document itself, which was read already.
    paths = openapi_document(api.app)["paths"]
    operations = sum(len(methods) for methods in paths.values()) - 1
    assert f"Selected: {operations}/{operations}" in said, said
    counted = re.search(r"(\d+) generated, (\d+) passed", said)
    assert counted is not None, said
    assert counted[1] == counted[2]
    assert int(counted[1]) > 20 * operations
