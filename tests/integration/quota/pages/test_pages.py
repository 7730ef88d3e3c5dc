"""What stands on the pages: readable without a script, bounded, and harmless whatever it is named."""

import re
from datetime import UTC, datetime, timedelta
from urllib.parse import quote

from ledger.workspaces import Settings as WorkspaceSettings
from quota.accounts import Accounts
from quota.levels import level
from quota.pages.browsing import SORTS
from tests.support.ledger_images import pushed
from tests.support.live_api import live_api
from tests.support.visitor import Visitor

GIB = 1024**3
NOW = datetime.now(UTC)


async def push(api, repository, tag, *layers, age=timedelta()):
    moment = NOW - age
    fact = pushed(repository, tag, layers, pushed_ns=int(moment.timestamp() * 1e9))
    await api.recorder.record([fact], now=moment)
    return fact


async def fill(api, workspace="acme", images=5):
    await api.call("PATCH", f"/v1/workspaces/{workspace}", {"quota_bytes": 10 * GIB})
    for number in range(images):
        await push(
            api,
            f"{workspace}/api",
            f"1.{number}",
            ("base", 2 * GIB),
            (f"layer {number}", GIB + number),
            age=timedelta(hours=images - number),
        )


async def test_a_workspace_can_be_read_without_any_script(api, visitor):
    await fill(api, images=7)
    page = (await visitor.get("/workspaces/acme")).text
    assert "Registry Almost Full" in page
    assert "Using 9 GB of 10 GB (90%)." in page
    for title in ("Usage over time", "What fills it", "Images", "Cleanups", "Events"):
        assert title in page
    next_page = (await visitor.get("/workspaces/acme/next")).text
    assert "1.0" in next_page
    assert "7th newest" in next_page
    assert "image recorded" in page


async def test_the_list_begins_with_the_fullest(api, visitor):
    for name, images in (("low", 1), ("high", 7), ("middle", 4)):
        await fill(api, name, images)
    page = (await visitor.get("/")).text
    names = re.findall(r'href="/workspaces/([a-z]+)"', page)
    assert names == ["high", "middle", "low"]
    assert re.findall(r'href="/workspaces/([a-z]+)"', (await visitor.get("/?q=DDL")).text) == [
        "middle"
    ]
    assert "No workspace is called like" in (await visitor.get("/?q=%25")).text


def tags_of(page):
    table = page[page.index('id="part-images"') :]
    return re.findall(r'class="tag" dir="auto">([^<]+)<', table)


async def test_images_can_be_sorted_by_everything_that_is_shown(api, visitor):
    await fill(api)
    oldest_first = [f"1.{number}" for number in range(5)]
    for sort in sorted(SORTS):
        found = tags_of((await visitor.get(f"/workspaces/acme/images?sort={sort}")).text)
        if sort.removeprefix("-") in {"pulled", "name"}:  # all alike here
            assert sorted(found) == oldest_first, sort
        else:
            assert (found if sort.startswith("-") else found[::-1]) == oldest_first, sort


ALL = ["1.4", "1.3", "1.2", "1.1", "1.0"]
FOUND = {
    "q=1.3": ["1.3"],
    "q=API": ALL,
    "q=nothing": [],
    "app=api&q=1.1": ["1.1"],
    "app=web": [],
    "show=tagged": ALL,
    "show=untagged": [],
    "q=%25": [],
    "page=2": [],
    "page=-1&sort=nonsense&show=x": ALL,
}


async def test_images_are_found_by_name_tag_and_app(api, visitor):
    await fill(api)
    for query, wanted in FOUND.items():
        found = tags_of((await visitor.get(f"/workspaces/acme/images?{query}")).text)
        assert found == wanted, query


async def test_an_image_is_found_by_the_beginning_of_its_digest(api, visitor):
    await fill(api)
    fact = await push(api, "acme/web", "web-1", ("w", 5))
    for query in (fact.digest.hex()[:10], f"sha256:{fact.digest.hex()}"):
        assert tags_of((await visitor.get(f"/workspaces/acme/images?q={query}")).text) == ["web-1"]


async def test_images_come_a_page_at_a_time(api, visitor):
    facts = [
        pushed("acme/api", f"t{n:03}", [(str(n), 10)], pushed_ns=10**18 + n) for n in range(60)
    ]
    await api.recorder.record(facts, now=NOW)
    seen = []
    for page in (1, 2, 3):
        seen += tags_of((await visitor.get(f"/workspaces/acme/images?page={page}")).text)
    assert seen == [f"t{n:03}" for n in reversed(range(60))]


HOSTILE = [
    '<script>alert("1")</script>',
    '"><img src=x onerror=alert(1)>',
    "{{ 7*7 }}",
    "\u202egnp.exe\u202c",
    "שלום-עולם",
    "n" * 255,
    "a'b\"c&d",
]


async def test_whatever_a_workspace_is_called_is_text(api, visitor):
    for name in HOSTILE:
        settings = WorkspaceSettings(quota_bytes=GIB)
        await Accounts(
            api.pool, default_quota_bytes=GIB, level_of=level, clock=api.clock
        ).configure(name, settings)
    listed = await visitor.get("/")
    assert listed.status == 200
    for name in HOSTILE:
        page = await visitor.get(f"/workspaces/{quote(name, safe='')}")
        # A name that does not print is nobody's; all others have a page of their own.
        assert page.status == (200 if name.isprintable() else 404), name
        for text in (listed.text, page.text):
            assert "<script>alert" not in text
            assert "<img src=x" not in text
            assert ">49<" not in text


async def test_whatever_is_looked_for_is_text(api, visitor):
    await fill(api)
    for path in ("/", "/workspaces/acme/images"):
        page = await visitor.get(f"{path}?q=%22%3E%3Cscript%3Ealert(1)%3C/script%3E")
        assert page.status == 200
        assert "<script>alert" not in page.text


async def test_what_is_not_there_is_404(api, visitor):
    await fill(api, images=1)
    for path in (
        "/workspaces/acme/nothing",
        "/workspaces/acme/cleanups/nonsense",
        "/workspaces/acme/cleanups/0b5c1f6e-0000-4000-8000-000000000000",
        "/workspaces/%00",
        "/workspaces/" + "x" * 300,
        "/static/../settings.py",
        "/static/%2e%2e%2fapp.py",
        "/static/none.js",
    ):
        assert (await visitor.get(path)).status == 404, path


async def test_a_nonsense_query_never_fails(api, visitor):
    await fill(api, images=1)
    nonsense = [
        "q=%00",
        f"page={10**20}",
        "sort=%27;drop",
        "range=1y",
        "before=x",
        "q=" + "y" * 2000,
    ]
    for part in ("", "/images", "/events", "/history"):
        for query in nonsense:
            answer = await visitor.get(f"/workspaces/acme{part}?{query}")
            assert answer.status in {200, 400}, (part, query)


RAW = (
    "",
    "%00",
    "%0d%0aX:y",
    "%ff%fe",
    "%E2%80%AE%D7%90",
    "-1",
    str(2**70),
    "NaN",
    "%25s",
    "{{7*7}}",
)


async def test_whatever_is_asked_of_a_page_is_never_our_failure(api, visitor):
    """Hostile values in every parameter, part and form; statuses of ours, and no header of theirs."""
    await fill(api, images=1)
    form = {"csrf": await visitor.csrf()}
    parts = ["", "/summary", "/images", "/next", "/history", "/apps", "/cleanups", "/events"]
    names = ["q", "page", "sort", "show", "app", "range", "before", "limit"]
    asked = [
        *(("GET", f"/?{name}={text}") for name in ("q", "page") for text in RAW),
        *(
            ("GET", f"/workspaces/acme{part}?{'&'.join(f'{name}={text}' for name in names)}")
            for part in parts
            for text in RAW
        ),
        *(("GET", f"/workspaces/{text or '%20'}{part}") for part in parts for text in RAW),
        *(("GET", f"/workspaces/acme/cleanups/{text}") for text in RAW),
        *(("GET", f"/pipeline?{text}") for text in RAW[:3]),
        *(
            ("POST", f"/workspaces/{name}/cleanups/{text}/restore")
            for name in ("acme", "%00")
            for text in RAW
        ),
        *((method, "/workspaces/acme") for method in ("PUT", "DELETE", "OPTIONS", "POST", "HEAD")),
    ]
    for number, (method, path) in enumerate(asked):
        part = {"HX_Request": "true"} if number % 2 else {}
        answer = await visitor.send(method, path, form=form if method == "POST" else None, **part)
        assert answer.status < 500, (method, path, answer.status)
        assert answer.header("X") == ""
        assert "49" not in re.findall(r"value=\"([^\"]*)\"", answer.text), path


async def test_nothing_but_our_own_files_may_run_on_a_page(api, visitor):
    await fill(api, images=1)
    for path in ("/", "/sign-in", "/workspaces/acme", "/workspaces/none"):
        answer = await visitor.get(path)
        policy = answer.header("Content-Security-Policy")
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert answer.header("X-Content-Type-Options") == "nosniff"
        assert answer.header("Cache-Control") == "no-store"
        assert not re.search(r"<script(?! src=)", answer.text)
        assert not re.search(r"\s(style|on\w+)=", answer.text)
        assert not re.search(r'(src|href)="(https?:)?//', answer.text)


async def test_files_are_kept_for_ever_under_the_name_of_their_content(api, visitor):
    page = (await visitor.get("/sign-in")).text
    found = re.search(r'href="(/static/pages.css\?v=[0-9a-f]+)"', page)
    assert found is not None
    answer = await visitor.get(found[1], Accept_Encoding="gzip")
    assert answer.status == 200
    assert "immutable" in answer.header("Cache-Control")
    assert answer.header("Content-Encoding") == "gzip"
    again = await visitor.get(found[1], If_None_Match=answer.header("ETag"))
    assert again.status == 304
    warning = await visitor.get("/static/registry-quota-warning.js")
    assert "immutable" not in warning.header("Cache-Control")
    assert warning.header("Content-Type").startswith("text/javascript")


async def test_pages_of_listed_origins_may_read_a_workspaces_usage(pool):
    async with live_api(pool, cors_origins="https://dash.example.com") as api:
        await fill(api, images=1)
        visitor, path = Visitor(api), "/v1/workspaces/acme/usage"
        ours = {"Origin": "https://dash.example.com"}
        asked = await visitor.send(
            "OPTIONS", path, form=None, Access_Control_Request_Method="GET", **ours
        )
        assert asked.status == 204
        assert asked.header("Access-Control-Allow-Headers") == "Authorization"
        token = await api.token("read", workspaces=["acme"])
        for headers, status in (({"Authorization": f"Bearer {token}"}, 200), ({}, 401)):
            answer = await visitor.get(path, **ours, **headers)
            assert answer.status == status
            assert answer.header("Access-Control-Allow-Origin") == "https://dash.example.com"
        other = await visitor.get(path, Origin="https://evil.example")
        assert other.header("Access-Control-Allow-Origin") == ""
        rest = await visitor.get("/v1/workspaces/acme/images", **ours)
        assert rest.header("Access-Control-Allow-Origin") == ""


async def test_cleanups_that_do_not_fit_a_page_are_on_the_next(api, visitor, monkeypatch):
    from quota.pages import workspaces

    monkeypatch.setattr(workspaces, "_RUNS_FIRST", 1)
    monkeypatch.setattr(workspaces, "_RUNS_ALL", 2)
    await fill(api, images=1)
    async with api.pool.acquire() as connection:
        await connection.execute(
            """INSERT INTO cleanup_runs (id, workspace_id, state, cause, owner, quota_bytes,
              usage_before, promised_bytes, started_at)
            SELECT gen_random_uuid(), w.id, 'finished', 'api', 'test', 1, 1, 1,
                   now() - number * interval '1 hour'
            FROM workspaces w, generate_series(1, 3) AS number WHERE w.name = 'acme'"""
        )
    link = re.compile(r'href="(/workspaces/acme/cleanups(?:\?before=[^"]+)?)">(?:All|Older)')
    path, seen, pages = "/workspaces/acme", [], 0
    while found := link.search(text := (await visitor.get(path)).text):
        path, pages = found[1], pages + 1
        seen += re.findall(r'/cleanups/([0-9a-f-]{36})"', text) if pages > 1 else []
    seen += re.findall(r'/cleanups/([0-9a-f-]{36})"', text)
    assert (pages, len(seen), len(set(seen))) == (2, 3, 3)


async def test_a_workspace_that_is_not_there_is_answered_with_near_ones_that_the_visitor_may_see(
    api, visitor
):
    for name in ("acme", "acme-secret"):
        await fill(api, name, images=1)
    answer = await visitor.get("/workspaces/acmee")
    assert (answer.status, "did you mean acme or acme-secret?" in answer.text) == (404, True)
    some = Visitor(api)
    await some.sign_in(await api.token("read", workspaces=["acme"]))
    for typo, meant in (("acmee", "did you mean acme?"), ("acme-secrets", "or it is not yours.")):
        answer = await some.get(f"/workspaces/{typo}")
        assert (answer.status, meant in answer.text) == (404, True)
    assert "did you mean" not in (await visitor.get("/workspaces/unlike-all-others")).text
