"""The hook's answer as the contract writes it."""

from typing import Any

import msgspec

from quota.hook import Answer
from quota.outcome import Outcome


def answer_document(result: Answer) -> dict[str, Any]:
    """`POST /v1/hooks/pre-build` → JSON."""
    figures = result.figures
    reservation = result.reservation
    return {
        "decision": result.verdict.decision,
        "reason": result.verdict.reason,
        "message": result.verdict.message,
        "workspace": result.workspace,
        "quota_bytes": figures.quota_bytes,
        "usage_bytes_before": result.usage_before,
        "usage_bytes": figures.usage_bytes,
        "reserved_bytes": figures.reserved_bytes,
        "incoming_bytes": figures.incoming_bytes,
        "incoming_source": result.incoming_source,
        "cleanup": cleanup_document(result.outcome),
        "reservation": None
        if reservation is None
        else {
            "id": str(reservation.id),
            "bytes": reservation.bytes,
            "expires_at": reservation.expires_at,
        },
        "warnings": list(dict.fromkeys(result.warnings)),
    }


def cleanup_document(outcome: Outcome) -> dict[str, Any]:
    """What a cleanup did, so far or in the end."""
    return {
        "performed": bool(outcome.images) and not outcome.rehearsed,
        "run_id": str(outcome.run_id) if outcome.run_id else None,
        "freed_bytes": outcome.freed_bytes,
        "images": [
            {
                "repository": image.repository,
                "app": image.app,
                "digest": image.digest,
                "tags": list(image.tags),
                "freed_bytes": image.freed_bytes,
                "why": image.why,
                "code": image.code,
            }
            for image in outcome.images
        ],
        "failed": [
            {"repository": item.repository, "digest": item.digest, "reason": item.reason}
            for item in outcome.failed
        ],
        "spared": [msgspec.structs.asdict(item) for item in outcome.spared],
        "target_reached": outcome.target_reached,
    }
