"""A typed asynchronous client of registry-quota's API.

    async with RegistryQuota("http://127.0.0.1:8081", token) as quota:
        answer = await quota.pre_build("acme", app="api", build_id="ci-4711", incoming_bytes=250_000_000)
        if answer.denied:
            raise SystemExit(answer.message)

Bytes, seconds, and aware UTC times. Errors are those of `registry_quota.errors`. Its own failure must
not stop a build: catch `RegistryQuotaError` around `pre_build` and go on.
"""

from registry_quota.client import RegistryQuota
from registry_quota.errors import RefusedError, RegistryQuotaError, UnreachableError
from registry_quota.models import (
    CleanedImage,
    Cleanup,
    HookAnswer,
    Image,
    Mapped,
    Reservation,
    Usage,
    Workspace,
)

__all__ = [
    "CleanedImage",
    "Cleanup",
    "HookAnswer",
    "Image",
    "Mapped",
    "RefusedError",
    "RegistryQuota",
    "RegistryQuotaError",
    "Reservation",
    "UnreachableError",
    "Usage",
    "Workspace",
]
