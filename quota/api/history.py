"""`GET /v1/workspaces/{workspace}/history`: how usage went over time."""

import re
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final

from aiohttp import web

from quota.access import Authenticate
from quota.accounts import Accounts
from quota.api.access import enter, identify
from quota.api.answers import answer
from quota.api.describe import Query, describe
from quota.api.models import HistoryAnswer
from quota.api.problems import ProblemError
from quota.api.requests import text, workspace_of
from quota.history import MOST_POINTS, History, usual_step

_USUAL_SPAN: Final = timedelta(days=7)
_LONGEST_SPAN: Final = timedelta(days=3660)
_MOMENT: Final = {"type": "string", "format": "date-time"}
_SECONDS: Final = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}


class HistoryRoutes:
    """Scope `read`."""

    def __init__(
        self,
        history: History,
        accounts: Accounts,
        *,
        authenticate: Authenticate,
        clock: Callable[[], datetime],
    ) -> None:
        self._history = history
        self._accounts = accounts
        self._authenticate = authenticate
        self._clock = clock

    def routes(self) -> list[web.RouteDef]:
        """One address."""
        return [web.get("/v1/workspaces/{workspace}/history", self.history)]

    @describe(
        "workspaces",
        "How usage and quota went over time.",
        scope="read",
        query=(
            Query("from", "A time with its zone; a week before `to` when left out.", _MOMENT),
            Query("to", "A time with its zone; now when left out.", _MOMENT),
            Query(
                "step",
                "Seconds between two points, or such as 15m, 6h, 1d.",
                {"type": "string", "pattern": "^[0-9]{1,9}[smhd]?$"},
            ),
        ),
        answers={200: HistoryAnswer},
    )
    async def history(self, request: web.Request) -> web.Response:
        """Scope `read`: what was stored at `from`, `from + step`, … and at `to`, in bytes."""
        caller = await identify(request, self._authenticate, "read")
        name = workspace_of(request)
        enter(caller, "read", name)
        view = await self._accounts.workspace(name)
        if view is None:
            raise ProblemError(404, f"there is no workspace {name!r}")
        now = self._clock()
        end = min(_moment(request, "to") or now, now)
        start = _moment(request, "from") or end - _USUAL_SPAN
        if not timedelta(0) < end - start <= _LONGEST_SPAN:
            raise _wrong("from", "must be before `to` (and before now), by ten years at most")
        step = _step(request) or usual_step(start, end)
        if (end - start) / step > MOST_POINTS:
            raise _wrong("step", f"must be larger: at most {MOST_POINTS} points are given at once")
        points = await self._history.of(view, start=start, end=end, step=step)
        return answer(
            {
                "workspace": view.name,
                "from": start,
                "to": end,
                "step_s": step.total_seconds(),
                "items": [
                    {
                        "at": point.at,
                        "usage_bytes": point.usage_bytes,
                        "quota_bytes": point.quota_bytes,
                    }
                    for point in points
                ],
            }
        )


def _moment(request: web.Request, name: str) -> datetime | None:
    given = text(request, name)
    if given is None:
        return None
    try:
        # A `+` of an offset arrives as a space when it was not escaped.
        moment = datetime.fromisoformat(re.sub(r" (?=\d\d:\d\d$)", "+", given))
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None or not 1970 <= moment.year < 9000:
        raise _wrong(name, "must be a time with its zone, such as 2026-11-25T08:00:00Z")
    return moment


def _step(request: web.Request) -> timedelta | None:
    given = text(request, "step")
    if given is None:
        return None
    match = re.fullmatch(r"([0-9]{1,9})([smhd]?)", given, re.ASCII)
    seconds = 0 if match is None else int(match[1]) * _SECONDS[match[2]]
    if not 1 <= seconds <= _LONGEST_SPAN.total_seconds():
        raise _wrong("step", "must be whole seconds, or such as 15m, 6h or 1d")
    return timedelta(seconds=seconds)


def _wrong(field: str, message: str) -> ProblemError:
    return ProblemError(400, f"{field}: {message}", errors=[{"field": field, "message": message}])
