"""The route by which a person says how old images are."""

from collections.abc import Callable
from datetime import datetime

from aiohttp import web

from ledger.announce import rfc3339
from ledger.mapping import MovedMeanwhileError
from ledger.reading import ManifestView, WorkspaceView
from quota.access import Authenticate
from quota.accounts import Accounts
from quota.api.answers import answer
from quota.api.describe import describe
from quota.api.entrance import workspace_for
from quota.api.models import DatedAnswer
from quota.api.problems import ProblemError
from quota.api.requests import DateRequest, body_of
from quota.dating import AgeKnownError, Dater, NoSuchImageError
from registry.names import format_digest
from registry.refs import parse_image_name


class DatingRoutes:
    """`…/image-dates` of a workspace."""

    def __init__(
        self,
        dater: Dater,
        *,
        accounts: Accounts,
        authenticate: Authenticate,
        clock: Callable[[], datetime],
    ) -> None:
        self._dater = dater
        self._clock = clock
        self._accounts = accounts
        self._authenticate = authenticate

    def routes(self) -> list[web.RouteDef]:
        """One address."""
        return [web.post("/v1/workspaces/{workspace}/image-dates", self.date)]

    @describe(
        "images",
        "Say how old an image is whose age is not known, or all of these.",
        scope="write",
        body=DateRequest,
        answers={200: DatedAnswer},
        problems=(409, 422),
        details=(
            "What has no age is never cleaned. A date gives it one (`named_by` is `date`), and what"
            " belongs to it: children, referrers. Said again, the last word counts; a tag that newly"
            " comes to name the image counts for more."
        ),
    )
    async def date(self, request: web.Request) -> web.Response:
        """Scope `write`: 404 when there is no such image, 409 when its tags tell its age."""
        view = await workspace_for(
            request, "write", authenticate=self._authenticate, accounts=self._accounts
        )
        body = await body_of(request, DateRequest)
        if body.date > self._clock():
            raise ProblemError(
                422,
                "date: must not be in the future",
                errors=[{"field": "date", "message": "must not be in the future"}],
            )
        try:
            return answer(await self._dated(view, body))
        except MovedMeanwhileError as error:
            raise ProblemError(409, str(error)) from error

    async def _dated(self, view: WorkspaceView, body: DateRequest) -> dict[str, object]:
        if body.image is None:
            warnings = await self._accounts.unknown_app(view, body.app)
            return _document(await self._dater.all_unknown(view, body.app, body.date), warnings)
        try:
            name = parse_image_name(body.image)
        except ValueError as error:
            raise ProblemError(
                422, f"image: {error}", errors=[{"field": "image", "message": str(error)}]
            ) from error
        try:
            dated = await self._dater.one(view, name, body.date)
        except NoSuchImageError as error:
            meant = await self._accounts.near_image(view, name)
            raise ProblemError(404, f"{view.name} has no image {body.image}{meant}") from error
        except AgeKnownError as error:
            raise ProblemError(409, f"{body.image} is not dated: {error}") from error
        return _document(dated, [])


def _document(dated: list[ManifestView], warnings: list[str]) -> dict[str, object]:
    return {
        "warnings": warnings,
        "dated": len(dated),
        "images": [
            {
                "repository": view.repository,
                "app": view.app,
                "digest": format_digest(view.digest),
                "tags": list(view.tags),
                "named_at": rfc3339(view.age.ns) if view.age.ns >= 0 else None,
                "named_by": view.age.source,
            }
            for view in dated
        ],
    }
