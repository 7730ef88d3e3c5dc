"""The gRPC server in the API process: our service, health and reflection on one port."""

import contextlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2

from quota.grpc.bounds import METHODS, MOST_OPEN, OpenToAll
from quota.grpc.service import SERVICE, BuildService
from quota.grpc.traced import TracedCalls
from runtime.http import Ready
from runtime.lifecycle import Stopping, background
from runtime.tls import DoorCertificate
from runtime.tracing import Tracing

_GRACE_SECONDS = 2.0
"""What open calls get to end at a stop."""
_HEALTH_SECONDS = 2.0
_MOST_AT_ONCE = 1000
"""Calls that are worked on at a time; more are answered RESOURCE_EXHAUSTED at once."""

_OPTIONS = (
    # A second server on the port is an error, not half of the calls for each.
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", 64 * 1024),
)

_REFLECTION_V1 = "grpc.reflection.v1.ServerReflection"

_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@asynccontextmanager
async def serving_grpc(
    service: BuildService,
    *,
    host: str,
    port: int,
    ready: Ready,
    stopping: Stopping,
    certificate: DoorCertificate | None = None,
    tracing: Tracing | None = None,
) -> AsyncIterator[int]:
    """Serve and yield the port in use; by TLS with a `certificate`. Raises OSError when it is taken."""
    interceptors: list[grpc.aio.ServerInterceptor] = [OpenToAll(SERVICE)]
    if tracing is not None:
        interceptors.append(TracedCalls(tracing))
    server = grpc.aio.server(
        options=_OPTIONS,
        interceptors=interceptors,
        maximum_concurrent_rpcs=_MOST_AT_ONCE + METHODS * MOST_OPEN,
    )
    server.add_generic_rpc_handlers((service.handlers(),))
    state = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(state, server)
    services = (SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME, _REFLECTION_V1)
    reflection.enable_server_reflection(services, server)
    server.add_generic_rpc_handlers((_reflection_v1(services),))
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        if certificate is None:
            bound = server.add_insecure_port(address)
        else:
            bound = server.add_secure_port(address, _credentials(certificate))
    except RuntimeError as error:
        raise OSError(f"gRPC cannot listen on {address} (RQ_GRPC_PORT moves it): {error}") from None
    if bound == 0:
        raise OSError(f"gRPC cannot listen on {address} (RQ_GRPC_PORT moves it)")

    async def tell_health() -> None:
        while not stopping.is_set():
            status = _SERVING if await ready() is None else _NOT_SERVING
            for name in ("", SERVICE):
                await state.set(name, status)
            await stopping.sleep(_HEALTH_SECONDS)
        await state.enter_graceful_shutdown()

    await server.start()
    try:
        async with background("grpc health", tell_health(), stopping):
            yield bound
    finally:
        with contextlib.suppress(Exception):
            await server.stop(_GRACE_SECONDS)


def _credentials(certificate: DoorCertificate) -> grpc.ServerCredentials:
    """Asked for at every handshake, so that a renewed certificate counts from the next one on."""
    shown = certificate.renew()

    def newest() -> Any:
        nonlocal shown
        known, shown = shown, certificate.renew()
        return _configuration(certificate) if shown != known else None  # None: the same as before

    return grpc.dynamic_ssl_server_credentials(_configuration(certificate), newest)


def _configuration(certificate: DoorCertificate) -> Any:
    return grpc.ssl_server_certificate_configuration([certificate.pair])


def _reflection_v1(services: Sequence[str]) -> grpc.GenericRpcHandler:
    """The library has `v1alpha` only; `v1`, which newer tools ask for, is the same messages."""
    servicer = reflection.aio.ReflectionServicer(services)
    return grpc.method_handlers_generic_handler(
        _REFLECTION_V1,
        {
            "ServerReflectionInfo": grpc.stream_stream_rpc_method_handler(
                servicer.ServerReflectionInfo,
                request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
                response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
            )
        },
    )
