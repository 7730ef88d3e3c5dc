"""The gRPC door by TLS."""

import grpc
import pytest

from idp.build.v1 import build_pb2 as pb
from idp.build.v1.build_pb2_grpc import BuildServiceStub
from runtime.settings import Settings
from runtime.tls import authorities, door_certificate
from tests.integration.quota.grpc.conftest import INTERNAL, serving_door
from tests.support.certificates import Authority


async def check(channel) -> pb.CheckQuotaResponse:
    answer: pb.CheckQuotaResponse = await BuildServiceStub(channel).CheckQuotaAndCleanup(
        pb.CheckQuotaRequest(workspace_id="acme"),
        metadata=(("authorization", f"Bearer {INTERNAL}"),),
        timeout=5,
    )
    return answer


def credentials(authority: Authority) -> grpc.ChannelCredentials:
    return grpc.ssl_channel_credentials(authorities(Settings(ca_file=str(authority.file))))


async def test_only_those_who_verify_it_by_tls_get_an_answer_and_a_renewal_counts(
    tmp_path, service
):
    authority, successor = Authority(tmp_path / "ours"), Authority(tmp_path / "another")
    pair = authority.issue()
    certificate = door_certificate(Settings(tls_cert=str(pair.certificate), tls_key=str(pair.key)))
    async with (
        serving_door(service, certificate) as door,
        grpc.aio.secure_channel(door.target, credentials(authority)) as channel,
    ):
        assert (await check(channel)).quota_bytes > 0
        # The token is never sent where TLS is not complete.
        for other in (
            grpc.aio.secure_channel(door.target, credentials(successor)),
            grpc.aio.insecure_channel(door.target),
        ):
            async with other:
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await check(other)
                assert caught.value.code() == grpc.StatusCode.UNAVAILABLE

        pair.replace_by(successor.issue())
        async with grpc.aio.secure_channel(door.target, credentials(successor)) as renewed:
            assert (await check(renewed)).quota_bytes > 0
        assert (await check(channel)).quota_bytes > 0  # let in by the old one, still there
