"""The route of undo: what cleanups deleted is put back while its blobs are there."""

import msgspec
from aiohttp import web

from quota.access import Authenticate
from quota.accounts import Accounts
from quota.api.answers import answer
from quota.api.describe import describe
from quota.api.entrance import workspace_for
from quota.api.models import RestoreAnswer
from quota.api.problems import ProblemError
from quota.api.requests import RestoreRequest, body_of
from quota.restore import NothingKeptError, Restoration, Restorer, StillRunningError
from registry.refs import parse_image_name


class RestoreRoutes:
    """`…/restores` of a workspace."""

    def __init__(
        self, restorer: Restorer, *, accounts: Accounts, authenticate: Authenticate
    ) -> None:
        self._restorer = restorer
        self._accounts = accounts
        self._authenticate = authenticate

    def routes(self) -> list[web.RouteDef]:
        """One address."""
        return [web.post("/v1/workspaces/{workspace}/restores", self.restore)]

    @describe(
        "cleanups",
        "Put back what a cleanup deleted, a whole run or one image, while its blobs are there.",
        scope="write",
        body=RestoreRequest,
        answers={200: RestoreAnswer},
        problems=(409, 422),
        details=(
            "Twice is as good as once. A tag that names another image by now is left. What is put"
            " back keeps the time of its own push."
        ),
    )
    async def restore(self, request: web.Request) -> web.Response:
        """Scope `write`: 404 when nothing was kept, 409 while the cleanup runs."""
        view = await workspace_for(
            request, "write", authenticate=self._authenticate, accounts=self._accounts
        )
        body = await body_of(request, RestoreRequest)
        try:
            name = None if body.image is None else parse_image_name(body.image)
        except ValueError as error:
            raise ProblemError(
                422, f"image: {error}", errors=[{"field": "image", "message": str(error)}]
            ) from error
        try:
            if name is not None:
                done = await self._restorer.image(view, name)
            elif body.run is not None:
                done = await self._restorer.run(view, body.run)
            else:  # pragma: no cover - the model wants one of them
                raise AssertionError
        except NothingKeptError as error:
            raise ProblemError(404, str(error)) from error
        except StillRunningError as error:
            raise ProblemError(
                409,
                "the cleanup is still running; put back what it deleted when it has ended",
                headers={"Retry-After": "5"},
            ) from error
        return answer(_document(view.name, body, done))


def _document(workspace: str, body: RestoreRequest, done: Restoration) -> dict[str, object]:
    return {
        "workspace": workspace,
        "run": None if body.run is None else str(body.run),
        "restored": done.count("restored"),
        "present": done.count("present"),
        "lost": done.count("lost"),
        "failed": done.count("failed"),
        "usage_bytes": done.usage_bytes,
        "images": [msgspec.to_builtins(image) for image in done.images],
        "warnings": list(done.warnings),
    }
