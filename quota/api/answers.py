"""What callers get: JSON, times as fixed-width UTC text."""

from datetime import UTC, datetime
from functools import partial
from typing import Any

import msgspec
from aiohttp import web

from ledger.reading import WorkspaceView
from ledger.reservations import Reservation
from quota.policy import parse_policy, policy_document
from runtime.aside import aside


def utc(moment: datetime | None) -> str | None:
    """An aware datetime as UTC text with microseconds."""
    if moment is None:
        return None
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _encode(value: Any) -> Any:
    if isinstance(value, datetime):
        return utc(value)
    raise NotImplementedError(f"{type(value)} has no JSON form here")


def _timed(value: Any) -> Any:
    """Msgspec writes datetimes itself, with varying width: they become text first."""
    if isinstance(value, datetime):
        return utc(value)
    if isinstance(value, dict):
        return {key: _timed(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_timed(item) for item in value]
    return value


def answer(document: Any, *, status: int = 200) -> web.Response:
    """A JSON answer."""
    return web.Response(
        status=status,
        body=msgspec.json.encode(_timed(document), enc_hook=_encode),
        headers={"Content-Type": "application/json", "Cache-Control": "no-store"},
    )


async def large_answer(document: Any, *, size: int, status: int = 200) -> web.Response:
    """As `answer`, beside the event loop when it is large. `size`: its bytes, about."""
    return await aside(size, partial(answer, document, status=status))


def workspace_document(view: WorkspaceView) -> dict[str, Any]:
    """A workspace's settings and account."""
    return {
        "workspace": view.name,
        "quota_bytes": view.quota_bytes,
        "usage_bytes": view.usage_bytes,
        "reserved_bytes": view.reserved_bytes,
        "ratio": round(view.usage_bytes / view.quota_bytes, 4),
        "level": view.level,
        "enforcement": view.enforcement,
        "policy": policy_document(parse_policy(view.policy)),
        "configured": view.configured,
    }


def reservation_document(reservation: Reservation) -> dict[str, Any]:
    """A reservation as the API shows it."""
    return {
        "id": str(reservation.id),
        "build_id": reservation.build_id,
        "app": reservation.app,
        "bytes": reservation.bytes,
        "created_at": reservation.created_at,
        "expires_at": reservation.expires_at,
    }
