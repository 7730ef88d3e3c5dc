"""The gRPC door and what it should not be given: each has its answer, none is an internal error."""

import asyncio

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2

from idp.build.v1 import build_pb2 as pb
from quota.grpc.bounds import MOST_OPEN
from tests.integration.quota.grpc.conftest import OPERATOR
from tests.support.waiting import wait_until

DIGEST = "sha256:" + "a" * 64
LONG = "x" * 300

TRACK = [
    ({"workspace_id": ""}, "workspace_id: required"),
    ({"app_id": ""}, "app_id: required"),
    ({"tag": ""}, "tag: required"),
    ({"repository": ""}, "repository: required"),
    ({"workspace_id": "", "app_id": "", "tag": ""}, "workspace_id, app_id, tag: required"),
    ({"workspace_id": LONG}, "workspace_id: at most 255"),
    ({"workspace_id": "a\x00b"}, "workspace_id: control characters"),
    ({"app_id": "a\nb"}, "app_id: control characters"),
    ({"tag": "v 1"}, "tag: "),
    ({"tag": "-v1"}, "tag: "),
    ({"tag": "x" * 129}, "tag: "),
    ({"digest": "abc"}, "digest: "),
    ({"digest": "sha256:" + "A" * 64}, "digest: "),
    ({"digest": "md5:" + "a" * 32}, "digest: "),
    ({"repository": "../../etc"}, "repository: "),
    ({"repository": "acme/api%2f"}, "repository: "),
    ({"repository": "ACME/Api"}, "repository: "),
    ({"repository": "acme//api"}, "repository: "),
    ({"repository": "a/" * 150 + "a"}, "repository: "),
    ({"digest": DIGEST}, "the registry does not have it"),
]
CHECK = [
    (("", 0), "workspace_id: required"),
    ((LONG, 0), "workspace_id: at most 255"),
    (("a\x00b", 0), "workspace_id: control characters"),
    (("acme", -1), "incoming_image_size_estimate must be"),
    (("acme", -(2**63)), "incoming_image_size_estimate must be"),
    (("acme", 2**63 - 1), "incoming_image_size_estimate must be"),
    (("acme", 2**62), "acme"),
]


async def test_each_wrong_field_is_named_in_error(door):
    for fields, expected in TRACK:
        answer = await door.track(**fields)
        assert expected in answer.error, (fields, answer.error)
        assert (answer.size_bytes, answer.new_total_usage) == (0, 0)
    for (workspace, estimate), expected in CHECK:
        checked = await door.check(workspace, estimate)
        assert expected in checked.error, (workspace, estimate, checked.error)
    assert not await door.behind.pool.fetch("SELECT FROM repositories")


async def refused(call):
    with pytest.raises(grpc.aio.AioRpcError) as told:
        await call
    return told.value.code()


async def test_nobody_enters_without_a_good_token(door):
    for token in (None, "", "wrong", "rq_0123456789abcdef_" + "0" * 64, OPERATOR[:-1], "é"):
        expected = grpc.StatusCode.UNAUTHENTICATED
        if token is None or token.isascii():
            assert await refused(door.check("acme", token=token)) == expected, token
            assert await refused(door.track(token=token)) == expected, token
    assert not (await door.check("acme", token=OPERATOR)).error


async def test_other_tenants_and_missing_scopes_are_denied_whether_there_is_something_or_not(door):
    image = await door.behind.push("acme/api", "v1", 10_000)
    other = await door.token("hook", "write", workspaces=["other"])
    denied = grpc.StatusCode.PERMISSION_DENIED
    for workspace in ("acme", "nobody"):
        assert await refused(door.check(workspace, token=other)) == denied
        assert await refused(door.track(workspace_id=workspace, token=other)) == denied
    # Into its own workspace, but from somebody else's.
    assert await refused(door.track(workspace_id="other", token=other)) == denied
    assert await door.behind.usage("acme") == sum(
        len(blob.content) for blob in (image.manifest, *image.blobs)
    )
    reader = await door.token("read", workspaces=["acme"])
    assert await refused(door.check("acme", token=reader)) == denied
    assert await refused(door.track(token=reader)) == denied
    own = await door.token("hook", "write", workspaces=["acme"])
    assert not (await door.check("acme", token=own)).error
    assert not (await door.track(token=own)).error


async def test_a_deadline_that_has_passed_ends_the_call(door):
    for seconds in (-1.0, -0.001):
        assert await refused(door.check("acme", seconds=seconds)) == (
            grpc.StatusCode.DEADLINE_EXCEEDED
        )


async def test_bytes_that_are_no_message_are_told_so(door):
    for method in ("CheckQuotaAndCleanup", "TrackImage"):
        call = door.channel.unary_unary(f"/idp.build.v1.BuildService/{method}")
        known = (("authorization", f"Bearer {OPERATOR}"),)
        for raw in (b"\xff\xff\xff", b"\x0a\x02\xff\xfe", b"\x0a\xff\xff\xff\xff\x0f"):
            assert await refused(call(raw, metadata=known)) == grpc.StatusCode.INVALID_ARGUMENT
            # Who has shown no token has nothing read.
            assert await refused(call(raw)) == grpc.StatusCode.UNAUTHENTICATED
    unknown = door.channel.unary_unary("/idp.build.v1.BuildService/Nothing")
    assert await refused(unknown(b"")) == grpc.StatusCode.UNIMPLEMENTED


async def test_health_and_reflection_answer_anybody(door):
    stub = health_pb2_grpc.HealthStub(door.channel)
    for name in ("", "idp.build.v1.BuildService"):
        answer = await stub.Check(health_pb2.HealthCheckRequest(service=name))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    for version in ("v1alpha", "v1"):
        # Both versions are the same messages; the library has classes of the first only.
        reflect = door.channel.stream_stream(
            f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
            request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
            response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
        )
        asked = [
            reflection_pb2.ServerReflectionRequest(list_services=""),
            reflection_pb2.ServerReflectionRequest(
                file_containing_symbol="idp.build.v1.BuildService"
            ),
        ]
        listed, described = [answer async for answer in reflect(iter(asked))]
        names = {service.name for service in listed.list_services_response.service}
        assert {"idp.build.v1.BuildService", f"grpc.reflection.{version}.ServerReflection"} <= names
        raw = described.file_descriptor_response.file_descriptor_proto[0]
        assert FileDescriptorProto.FromString(raw).package == pb.DESCRIPTOR.package


async def test_watchers_of_the_health_keep_no_build_out(door):
    """Open to everybody, and without end: a thousand of them used up all calls that are answered."""
    stub = health_pb2_grpc.HealthStub(door.channel)
    watching = [stub.Watch(health_pb2.HealthCheckRequest()) for _ in range(MOST_OPEN + 20)]
    first = await asyncio.gather(*(call.read() for call in watching), return_exceptions=True)
    told = [answer for answer in first if isinstance(answer, health_pb2.HealthCheckResponse)]
    assert len(told) == MOST_OPEN
    full = grpc.StatusCode.RESOURCE_EXHAUSTED
    assert {error.code() for error in first if isinstance(error, grpc.aio.AioRpcError)} == {full}
    assert (await stub.Check(health_pb2.HealthCheckRequest())).status
    assert not (await door.check("acme")).error
    for call in watching:
        call.cancel()

    async def answers():
        try:
            return await stub.Watch(health_pb2.HealthCheckRequest()).read()
        except grpc.aio.AioRpcError:
            return None

    await wait_until(answers, 10, what="the health can be watched again")


async def test_a_call_without_a_message_waits_for_nobody(door, monkeypatch):
    monkeypatch.setattr("quota.grpc.bounds.MESSAGE_SECONDS", 0.2)
    for path, metadata, expected in (
        ("/idp.build.v1.BuildService/TrackImage", (), grpc.StatusCode.UNAUTHENTICATED),
        (
            "/idp.build.v1.BuildService/TrackImage",
            (("authorization", f"Bearer {OPERATOR}"),),
            grpc.StatusCode.DEADLINE_EXCEEDED,
        ),
        ("/grpc.health.v1.Health/Check", (), grpc.StatusCode.DEADLINE_EXCEEDED),
    ):
        # A client that opens the call as a stream, and sends nothing.
        call = door.channel.stream_unary(path)(metadata=metadata, timeout=20)
        assert await asyncio.wait_for(refused(call), 10) == expected, path
    empty = door.channel.stream_unary("/grpc.health.v1.Health/Check")(iter(()))
    assert await refused(empty) == grpc.StatusCode.INVALID_ARGUMENT
