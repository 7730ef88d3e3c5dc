"""Our own processes: do receiver and API answer, take their tokens, and keep up."""

from collections.abc import Mapping
from typing import Any, Final

import aiohttp
from aiohttp import hdrs
from yarl import URL

from cli.doctor import settings as own_settings
from cli.doctor.clocks import Clock, now, of_header, skew
from cli.doctor.findings import Finding, State, failed, ok, skipped, warning
from runtime.errors import text_of
from runtime.settings import Settings, SettingsError
from runtime.tls import advice, authorities, client_context

_TIMEOUT: Final = aiohttp.ClientTimeout(total=8, connect=3)
_GRPC_SECONDS: Final = 3.0
_PARTS: Final = (
    *("lag", "consumer", "sizes", "outbox", "reconciliation", "counters", "leases", "cleanups"),
)
"""Checks of the status that nothing here asks itself."""
_STATES: Final[Mapping[str, State]] = {
    "ok": "ok",
    "warning": "warning",
    "failed": "failed",
    "unknown": "skipped",
}

Status = Mapping[str, Any]
"""The document of `GET /v1/status`."""


_NO_ANSWER: Final = (aiohttp.ClientError, TimeoutError, ValueError)


async def check_receiver(
    settings: Settings, webhook: URL, environ: Mapping[str, str], *, clock: Clock = now
) -> list[Finding]:
    """`/readyz`, then an envelope without events: it is accepted and nothing comes of it."""
    clocks: list[Finding] = []
    found = await _receiver(settings, webhook, environ, clock, clocks)
    return [found, *clocks]


async def _receiver(
    settings: Settings,
    webhook: URL,
    environ: Mapping[str, str],
    clock: Clock,
    clocks: list[Finding],
) -> Finding:
    start = "start it with `registry-quota serve receiver`"
    try:
        async with _session(settings) as session:
            if problem := await _not_ready(session, webhook):
                return failed("receiver", f"{webhook.origin()} {problem}", start)
            if own_settings.of_another_role(settings, environ):
                return ok("receiver", f"{webhook} is ready")
            tokens = own_settings.webhook_tokens(settings, environ)
            refused, status = [], 0
            for place, (token, registry) in enumerate(tokens.items(), 1):
                headers = {"Authorization": f"Bearer {token}"}
                before = clock()
                async with session.post(webhook, json={"events": []}, headers=headers) as response:
                    status = response.status
                    told = of_header(response.headers.get(hdrs.DATE))
                if place == 1:
                    clocks.append(skew("the receiver's", told, before, clock()))
                if status not in (202, 401):
                    break
                if status == 401:
                    refused.append(f"number {place} (of {registry})")
    except SettingsError:
        return warning("receiver", "is ready; no token is known here to try", "see `secrets`")
    except _NO_ANSWER as error:
        return failed("receiver", f"{webhook.origin()} {_silence(error)}", start)
    if status not in (202, 401):
        return failed("receiver", f"{webhook} answered {status}", "see the receiver's log")
    if not refused:
        return ok("receiver", f"{webhook} is ready and takes the token{'s' * (len(tokens) > 1)}")
    which = "the token" if len(tokens) == 1 else f"RQ_WEBHOOK_TOKENS {', '.join(refused)}"
    mend = "give receiver and doctor the same RQ_WEBHOOK_TOKENS, then restart the receiver"
    return failed("receiver", f"{webhook} refuses {which}", mend)


async def check_api(
    settings: Settings, base: URL, *, clock: Clock = now
) -> tuple[list[Finding], Status | None]:
    """`/readyz`, then the status with the operator's token."""
    clocks: list[Finding] = []
    found, status = await _api(settings, base, clock, clocks)
    return [found, *clocks], status


async def _api(
    settings: Settings, base: URL, clock: Clock, clocks: list[Finding]
) -> tuple[Finding, Status | None]:
    start = "start it with `registry-quota serve api`, or correct RQ_API_URL"
    try:
        async with _session(settings) as session:
            if problem := await _not_ready(session, base):
                return failed("api", f"{base} {problem}", start), None
            tokens = settings.required_api_tokens()
            refused: list[int] = []
            code, status = 0, None
            for place, token in enumerate(tokens, 1):
                headers = {"Authorization": f"Bearer {token}"}
                before = clock()
                async with session.get(base / "v1" / "status", headers=headers) as response:
                    code = response.status
                    date = of_header(response.headers.get(hdrs.DATE))
                    answer: Status = await response.json(content_type=None)
                if place == 1:
                    clocks.append(skew("the API's", date, before, clock()))
                if code in (401, 403):
                    refused.append(place)
                elif code == 200:
                    status = answer
                else:
                    return failed(
                        "api", f"{base} answered {code} for its status", "see the API's log"
                    ), None
    except SettingsError:
        return warning("api", "is ready; no token is known here to try", "see `secrets`"), None
    except _NO_ANSWER as error:
        return failed("api", f"{base} {_silence(error)}", start), None
    if not refused:
        return ok("api", f"{base} is ready and takes the token{'s' * (len(tokens) > 1)}"), status
    which = (
        "the token"
        if len(tokens) == 1
        else f"RQ_API_TOKEN {', '.join(f'number {place}' for place in refused)}"
    )
    mend = "give API and doctor the same RQ_API_TOKEN, then restart the API"
    return failed("api", f"{base} refuses {which}", mend), status


async def check_platform(settings: Settings, base: URL) -> list[Finding]:
    """Whether the internal API takes every key; nothing where none is known, or nobody answers."""
    try:
        keys = settings.required_internal_api_keys()
    except SettingsError:
        return []  # said by `secrets`
    # A workspace that cannot be: whoever is let in hears that there is none.
    place = base / "api" / "internal" / "workspaces" / "registry-quota doctor" / "registry-usage"
    refused = []
    try:
        async with _session(settings) as session:
            for number, key in enumerate(keys, 1):
                headers = {"Authorization": f"Bearer {key}"}
                async with session.get(place, headers=headers) as response:
                    if response.status in (401, 403):
                        refused.append(f"number {number}")
    except _NO_ANSWER:
        return []  # said by `api`
    if not refused:
        return [ok("platform", "the internal API takes RQ_INTERNAL_API_KEY")]
    which = f" {', '.join(refused)}" if len(keys) > 1 else ""
    mend = "give API and doctor the same RQ_INTERNAL_API_KEY, then restart the API"
    return [failed("platform", f"the internal API refuses RQ_INTERNAL_API_KEY{which}", mend)]


def _session(settings: Settings) -> aiohttp.ClientSession:
    connector = aiohttp.TCPConnector(ssl=client_context(settings))
    return aiohttp.ClientSession(timeout=_TIMEOUT, connector=connector)


async def _not_ready(session: aiohttp.ClientSession, address: URL) -> str | None:
    """None when `/readyz` says yes, else what it says."""
    async with session.get(address.origin() / "readyz") as response:
        if response.status == 200:
            return None
        document = await response.json(content_type=None)
    reason = document.get("reason") if isinstance(document, dict) else None
    return f"is not ready: {reason or response.status}"


def _silence(error: Exception) -> str:
    mend = f" ({told})" if (told := advice(error)) else ""
    return f"does not answer: {text_of(error)}{mend}"


def judge_status(status: Status | None) -> list[Finding]:
    """Whether the pipeline behind the receiver keeps up: what the API itself says of its parts."""
    checks = {item["name"]: item for item in (status or {}).get("checks", ())}
    return [
        skipped(name, "the API does not tell")
        if name not in checks
        else Finding(
            name,
            _STATES[checks[name]["state"]],
            checks[name]["found"],
            checks[name]["mend"],
        )
        for name in _PARTS
    ]


async def check_grpc(settings: Settings) -> Finding:
    """The door of build platforms, by its health service."""
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    try:
        target, by_tls = settings.grpc_address()
        trusted = authorities(settings) if by_tls else None
    except SettingsError as error:
        return failed("grpc", str(error), "correct this variable")
    mend = "see that `registry-quota serve api` runs, and correct RQ_GRPC_TARGET (or RQ_GRPC_PORT)"
    async with (
        grpc.aio.secure_channel(target, grpc.ssl_channel_credentials(trusted))
        if by_tls
        else grpc.aio.insecure_channel(target)
    ) as channel:
        try:
            answer = await health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(service=""), timeout=_GRPC_SECONDS
            )
        except grpc.aio.AioRpcError as error:
            found = f"{target} does not answer: {error.code().name}"
            return warning("grpc", f"{found}; build platforms cannot call it there", mend)
    if answer.status == health_pb2.HealthCheckResponse.SERVING:
        return ok("grpc", f"{target} serves")
    return warning("grpc", f"{target} answers, and does not serve", "see the API's log")
