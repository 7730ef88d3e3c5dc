"""A call with nonsense is told by field what is wrong with it."""

import gzip
import json

import pytest

HOOK = "/v1/hooks/pre-build"


@pytest.mark.parametrize(
    "body",
    [b"hello", b"[]", b"null", b'"acme"', b'{"workspace": "\xff"}', b"[" * 100_000, b"\x00"],
    ids=["text", "array", "null", "string", "not UTF-8", "deep", "NUL"],
)
async def test_what_is_no_json_object_is_a_problem_with_the_body(api, body):
    status, response, raw = await api.raw("POST", HOOK, data=body)
    assert status == 400
    assert response.content_type == "application/problem+json"
    problem = json.loads(raw)
    assert [error["field"] for error in problem["errors"]] == ["body"]


async def test_a_body_that_cannot_be_unpacked_is_a_problem_with_the_body(api):
    packed = gzip.compress(b'{"workspace": "acme"}')[:-12] + b"x" * 12
    status, _response, raw = await api.raw(
        "POST", HOOK, data=packed, headers={"Content-Encoding": "gzip"}
    )
    assert status == 400
    assert [error["field"] for error in json.loads(raw)["errors"]] == ["body"]


@pytest.mark.parametrize("value", [True, "60", 0, -1, 601, None, [], {}])
async def test_a_time_is_a_number_of_seconds(api, value):
    status, problem = await api.call("POST", HOOK, {"workspace": "acme", "timeout_s": value})
    assert status == 400
    assert [error["field"] for error in problem["errors"]] == ["timeout_s"]
