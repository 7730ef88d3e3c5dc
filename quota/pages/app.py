"""All pages together, made from what the process has."""

import asyncio
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta

from quota.access import Authenticate
from quota.accounts import Accounts
from quota.api.server import RouteGroup
from quota.cleanup import Cleaner
from quota.history import History
from quota.pages.actions import Actions
from quota.pages.assets import Assets
from quota.pages.browsing import Browsing
from quota.pages.figures import Figures
from quota.pages.live import Live
from quota.pages.pipeline import PipelinePage
from quota.pages.preview import Preview, preview_of
from quota.pages.render import Renderer
from quota.pages.sessions import Proxy, Sessions
from quota.pages.signing_in import SigningIn
from quota.pages.visits import Visits
from quota.pages.workspaces import Workspaces
from quota.pipeline import Pipeline
from quota.restore import Restorer
from quota.runs import Runs
from quota.snapshot import Incoming
from quota.tokens import Tokens
from runtime.lifecycle import Stopping
from runtime.postgres import Pool


def pages(
    pool: Pool,
    *,
    secrets: Iterable[str],
    authenticate: Authenticate,
    tokens: Tokens,
    proxy: Proxy,
    session_lifetime: timedelta,
    accounts: Accounts,
    cleaner: Cleaner,
    runs: Runs,
    restorer: Restorer,
    history: History,
    pipeline: Pipeline,
    stopping: Stopping,
    clock: Callable[[], datetime],
) -> list[RouteGroup]:
    """Routes of the pages and of what they load."""
    assets = Assets()
    renderer = Renderer(assets)
    sessions = Sessions(
        secrets,
        authenticate=authenticate,
        holder=tokens.holder,
        proxy=proxy,
        lifetime=session_lifetime,
        clock=clock,
    )
    visits = Visits(sessions, renderer)
    browsing = Browsing(pool, clock=clock)

    async def preview(name: str, _workspace_id: int) -> Preview:
        view = await accounts.workspace(name)
        reserved = 0 if view is None else view.reserved_bytes
        planned = await cleaner.plan(name, Incoming(reserved_bytes=reserved))
        if planned is None:
            raise LookupError(name)
        return preview_of(*planned)

    heavy = asyncio.Semaphore(1)
    workspaces = Workspaces(
        accounts=accounts,
        browsing=browsing,
        history=history,
        runs=runs,
        restorer=restorer,
        breakdowns=Figures("breakdown", browsing.breakdown, clock=clock, one_at_a_time=heavy),
        awaiting=Figures(
            "awaiting", browsing.awaiting_gc_bytes, clock=clock, one_at_a_time=asyncio.Semaphore(2)
        ),
        previews=Figures("preview", preview, clock=clock, one_at_a_time=heavy),
        visits=visits,
        renderer=renderer,
        clock=clock,
    )
    live = Live(
        workspaces=workspaces,
        browsing=browsing,
        sessions=sessions,
        visits=visits,
        renderer=renderer,
        stopping=stopping,
    )
    actions = Actions(
        runs=runs,
        restorer=restorer,
        workspaces=workspaces,
        visits=visits,
        renderer=renderer,
    )
    operator = PipelinePage(
        pipeline, sessions=sessions, visits=visits, renderer=renderer, stopping=stopping
    )
    return [assets, SigningIn(sessions, visits, renderer), workspaces, live, actions, operator]
