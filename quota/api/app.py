"""Routes of workspaces: parse, one call, answer. What each needs and answers stands above it."""

from collections.abc import Callable
from datetime import datetime

import msgspec
from aiohttp import web

from ledger.mapping import CleanupRunningError, Mapper, MovedMeanwhileError
from ledger.reading import WorkspaceView
from ledger.workspaces import Settings
from quota.access import Authenticate
from quota.accounts import Accounts, NotEmptyError
from quota.api.access import enter, enter_holder, entered, identify
from quota.api.answers import answer, workspace_document
from quota.api.describe import CURSOR, Query, describe, limit
from quota.api.entrance import workspace_for
from quota.api.hook import answer_document
from quota.api.models import (
    EventAnswer,
    HookAnswer,
    ImageAnswer,
    MappedAnswer,
    Page,
    SetWorkspace,
    UsageAnswer,
    WarnedPage,
    WorkspaceAnswer,
)
from quota.api.problems import ProblemError
from quota.api.requests import (
    MappingRequest,
    PreBuildRequest,
    WorkspacePatch,
    WorkspacePut,
    body_of,
    number,
    text,
)
from quota.builds import PreBuild
from quota.hook import PreBuildHook
from quota.images import BadCursorError, decode_cursor
from quota.policy import DEFAULT_POLICY, InvalidPolicy, Policy, change_policy, policy_document
from registry.names import InvalidName, check_repository, parse_digest
from registry.workspaces import Placement
from runtime.settings import REGISTRY_NAME

_LARGEST_ID = 2**63 - 1
_APP = Query("app", "Of this app alone.")
_TAG = Query("tag", "With this tag alone.")
_EVENT_CURSOR = Query(
    "cursor",
    "`next_cursor` of the page before, or of the last look: 0 begins at the start.",
    {"type": "integer", "minimum": 0, "maximum": _LARGEST_ID, "default": 0},
)


class Api:
    """The handlers, with what they need."""

    def __init__(
        self,
        *,
        accounts: Accounts,
        hook: PreBuildHook,
        mapper: Mapper,
        authenticate: Authenticate,
        clock: Callable[[], datetime],
    ) -> None:
        self._accounts = accounts
        self._hook = hook
        self._mapper = mapper
        self._authenticate = authenticate
        self._clock = clock

    def routes(self) -> list[web.RouteDef]:
        """Everything under /v1."""
        workspace = "/v1/workspaces/{workspace}"
        return [
            web.post("/v1/hooks/pre-build", self.pre_build),
            web.get("/v1/workspaces", self.list_workspaces),
            web.get(workspace, self.get_workspace),
            web.put(workspace, self.put_workspace),
            web.patch(workspace, self.patch_workspace),
            web.delete(workspace, self.delete_workspace),
            web.get(f"{workspace}/usage", self.usage),
            web.get(f"{workspace}/images", self.images),
            web.get(f"{workspace}/events", self.events),
            web.put("/v1/repositories/{registry}/{repository:.+}", self.map_repository),
        ]

    # -- hook ------------------------------------------------------------------------------------

    @describe(
        "hook",
        "Ask before a build: is there room, or can room be made?",
        scope="hook",
        body=PreBuildRequest,
        answers={200: HookAnswer},
        details="Answers within `timeout_s`. An advisory workspace is never denied.",
    )
    async def pre_build(self, request: web.Request) -> web.Response:
        """Scope `hook`."""
        caller = await identify(request, self._authenticate, "hook")
        body = await body_of(request, PreBuildRequest)
        enter(caller, "hook", body.workspace)
        layers = None
        if body.layers is not None:
            layers = tuple((parse_digest(layer.digest), layer.size) for layer in body.layers)
        result = await self._hook.check(
            PreBuild(
                workspace=body.workspace,
                app=body.app,
                build_id=body.build_id,
                incoming_bytes=body.incoming_bytes,
                layers=layers,
                dry_run=body.dry_run,
                timeout_s=body.timeout_s,
                among=caller.workspaces,
            )
        )
        result.warnings += [
            f"unknown_field:{ascii(name)[1:-1]}" for name in sorted(body.model_extra or {})
        ]
        return answer(answer_document(result))

    # -- workspaces ------------------------------------------------------------------------------

    async def _workspace(self, request: web.Request, scope: str) -> WorkspaceView:
        return await workspace_for(
            request, scope, authenticate=self._authenticate, accounts=self._accounts
        )

    @describe(
        "workspaces",
        "Workspaces by name; a tenant's own alone.",
        scope="read",
        query=(limit(100), CURSOR),
        answers={200: Page[WorkspaceAnswer]},
    )
    async def list_workspaces(self, request: web.Request) -> web.Response:
        """Scope `read`; tenants see only theirs."""
        caller = await identify(request, self._authenticate, "read")
        limit = number(request, "limit", default=100, low=1, high=1000)
        after = text(request, "cursor") or ""
        views = await self._accounts.workspaces(
            after=after, limit=limit + 1, among=caller.workspaces
        )
        more, views = len(views) > limit, views[:limit]
        return answer(
            {
                "items": [workspace_document(view) for view in views],
                "next_cursor": views[-1].name if more else None,
            }
        )

    @describe(
        "workspaces",
        "A workspace's settings and account.",
        scope="read",
        answers={200: WorkspaceAnswer},
    )
    async def get_workspace(self, request: web.Request) -> web.Response:
        """Scope `read`."""
        return answer(workspace_document(await self._workspace(request, "read")))

    @describe(
        "workspaces",
        "Set a workspace; what is left out goes back to its default.",
        scope="admin",
        body=WorkspacePut,
        answers={200: SetWorkspace},
        problems=(422,),
    )
    async def put_workspace(self, request: web.Request) -> web.Response:
        """Scope `admin`."""
        name, among = await entered(request, self._authenticate, "admin")
        body = await body_of(request, WorkspacePut)
        return await self._configure(name, body, DEFAULT_POLICY, among)

    @describe(
        "workspaces",
        "Change a workspace; what is left out stays.",
        scope="admin",
        body=WorkspacePatch,
        body_required=False,
        answers={200: SetWorkspace},
        problems=(422,),
    )
    async def patch_workspace(self, request: web.Request) -> web.Response:
        """Scope `admin`."""
        name, among = await entered(request, self._authenticate, "admin")
        body = await body_of(request, WorkspacePatch)
        return await self._configure(name, body, await self._accounts.policy(name), among)

    @describe(
        "workspaces",
        "Remove an empty workspace, with its settings and its history.",
        scope="admin",
        answers={204: None},
        problems=(404, 409),
        details="409 says what it still holds: images, reservations, leases, a running cleanup. A push"
        " that comes later makes it anew, at the default quota.",
    )
    async def delete_workspace(self, request: web.Request) -> web.Response:
        """Scope `admin`."""
        view = await self._workspace(request, "admin")
        try:
            await self._accounts.remove(view.name)
        except NotEmptyError as error:
            errors = [{"field": "workspace", "message": reason} for reason in error.reasons]
            raise ProblemError(409, str(error), errors=errors) from error
        return web.Response(status=204)

    async def _configure(
        self,
        name: str,
        body: WorkspacePatch,
        policy_before: Policy,
        among: frozenset[str] | None,
    ) -> web.Response:
        if body.quota_bytes is not None and body.quota_bytes <= 0:
            message = "must be above 0 (bytes); a workspace that may store nothing has no use"
            raise ProblemError(
                422,
                f"quota_bytes: {message}",
                errors=[{"field": "quota_bytes", "message": message}],
            )
        policy = None
        if body.policy is not None:
            try:
                policy = policy_document(change_policy(policy_before, body.policy))
            except InvalidPolicy as error:
                raise ProblemError(
                    422,
                    str(error),
                    errors=[
                        {"field": f"policy.{field}", "message": message}
                        for field, message in error.errors
                    ],
                ) from error
        warnings = await self._accounts.unknown([name], among)
        view = await self._accounts.configure(
            name,
            Settings(
                quota_bytes=body.quota_bytes,
                policy=policy,
                enforcement=body.enforcement,
            ),
        )
        return answer({**workspace_document(view), "warnings": warnings})

    @describe(
        "workspaces",
        "How much is stored, and of what kind.",
        scope="read",
        answers={200: UsageAnswer},
    )
    async def usage(self, request: web.Request) -> web.Response:
        """Scope `read`."""
        return answer(await self._accounts.usage(await self._workspace(request, "read")))

    @describe(
        "workspaces",
        "Images, newest push first, untagged ones and children of indexes too.",
        scope="read",
        query=(limit(100), CURSOR, _APP, _TAG),
        answers={200: WarnedPage[ImageAnswer]},
    )
    async def images(self, request: web.Request) -> web.Response:
        """Scope `read`."""
        view = await self._workspace(request, "read")
        cursor = text(request, "cursor")
        try:
            after = None if cursor is None else decode_cursor(cursor)
        except BadCursorError as error:
            raise ProblemError(
                400, str(error), errors=[{"field": "cursor", "message": str(error)}]
            ) from error
        return answer(
            await self._accounts.images(
                view,
                app=text(request, "app"),
                tag=text(request, "tag"),
                after=after,
                limit=number(request, "limit", default=100, low=1, high=1000),
            )
        )

    @describe(
        "workspaces",
        "Quota events of a workspace, oldest first.",
        scope="read",
        query=(limit(100), _EVENT_CURSOR),
        answers={200: Page[EventAnswer]},
    )
    async def events(self, request: web.Request) -> web.Response:
        """Scope `read`."""
        view = await self._workspace(request, "read")
        return answer(
            await self._accounts.events(
                view,
                after=number(request, "cursor", default=0, low=0, high=_LARGEST_ID),
                limit=number(request, "limit", default=100, low=1, high=1000),
            )
        )

    # -- repositories ----------------------------------------------------------------------------

    @describe(
        "repositories",
        "Give a repository, with what it stores, to a workspace and app.",
        scope="admin",
        body=MappingRequest,
        answers={200: MappedAnswer},
        problems=(409,),
        details="Needs rights on the workspace that has it and on the one that gets it.",
    )
    async def map_repository(self, request: web.Request) -> web.Response:
        """Scope `admin`, on the workspace that has the repository and on the one that gets it."""
        caller = await identify(request, self._authenticate, "admin")
        registry, repository = request.match_info["registry"], request.match_info["repository"]
        if not REGISTRY_NAME.match(registry):
            raise ProblemError(404, "there is no such registry")
        try:
            check_repository(repository)
        except InvalidName as error:
            raise ProblemError(404, str(error)) from error
        body = await body_of(request, MappingRequest)
        now_in = await self._mapper.placement(registry, repository)
        enter_holder(caller, "admin", now_in.workspace)
        enter(caller, "admin", body.workspace)
        warnings = await self._accounts.unknown_repository(registry, repository, now_in.workspace)
        warnings += await self._accounts.unknown([body.workspace], caller.workspaces)
        try:
            mapped = await self._mapper.map(
                registry,
                repository,
                Placement(body.workspace, body.app or now_in.app),
                only_from=now_in.workspace,
                now=self._clock(),
            )
        except CleanupRunningError as error:
            raise ProblemError(409, str(error), headers={"Retry-After": "5"}) from error
        except MovedMeanwhileError as error:
            raise ProblemError(409, str(error)) from error
        return answer({**msgspec.structs.asdict(mapped), "warnings": warnings})

    # -- the whole ------------------------------------------------------------------------------
