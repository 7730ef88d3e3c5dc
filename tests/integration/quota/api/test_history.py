"""`GET …/history`: what was stored when, a row a minute, and nothing about others."""

from datetime import UTC, datetime, timedelta

import pytest

from ledger import history
from ledger.facts import ManifestDeleted
from tests.support.ledger_images import DOCUMENT_BYTES, pushed

HISTORY = "/v1/workspaces/acme/history"
NOW = datetime.now(UTC).replace(second=30, microsecond=0) - timedelta(days=1)


def at(minutes: int) -> datetime:
    return NOW + timedelta(minutes=minutes)


def text(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


async def push(api, tag, size, minutes):
    fact = pushed("acme/api", tag, [(tag, size)])
    await api.recorder.record([fact], now=at(minutes))
    return fact


async def test_history_is_what_usage_was(api):
    first = await push(api, "1", 10_000, 0)
    await push(api, "2", 20_000, 5)
    gone = ManifestDeleted("default", "acme/api", first.digest, (first.stamp[0] + 1, b""))
    await api.recorder.record([gone], now=at(10))
    query = f"from={text(at(0))}&to={text(at(12))}&step=5m"
    status, answer = await api.call("GET", f"{HISTORY}?{query}")
    assert status == 200
    assert answer["step_s"] == 300
    document = DOCUMENT_BYTES
    assert [(item["at"][:19] + "Z", item["usage_bytes"]) for item in answer["items"]] == [
        (text(at(0)), 10_000 + document),
        (text(at(5)), 30_000 + 2 * document),
        (text(at(10)), 20_000 + document),
        (text(at(12)), 20_000 + document),
    ]


async def test_the_last_point_is_the_usage_of_now(api):
    await push(api, "1", 10_000, 0)
    _status, usage = await api.call("GET", "/v1/workspaces/acme/usage")
    status, answer = await api.call("GET", HISTORY)
    assert status == 200
    assert answer["items"][-1]["usage_bytes"] == usage["usage_bytes"]
    assert answer["items"][-1]["quota_bytes"] == usage["quota_bytes"]


async def test_many_changes_of_a_minute_are_one_row_and_pulls_are_none(api):
    for number in range(5):
        await push(api, str(number), 1000, 0)
    same = pushed("acme/api", "1", [("1", 1000)])
    await api.recorder.record([same], now=at(3))
    assert await api.pool.fetchval("SELECT count(*) FROM usage_history") == 1


async def test_a_new_quota_is_in_the_history(api):
    await push(api, "1", 1000, 0)
    await api.call("PATCH", "/v1/workspaces/acme", {"quota_bytes": 5000})
    _status, answer = await api.call("GET", HISTORY)
    assert answer["items"][-1]["quota_bytes"] == 5000
    assert answer["items"][0]["quota_bytes"] == 10 * 1024**3


async def test_old_history_is_thinned_to_the_hour(api):
    start = NOW.replace(minute=0, second=0)
    for minute in range(0, 180, 10):
        await api.recorder.record(
            [pushed("acme/api", str(minute), [(str(minute), 1000)])],
            now=start + timedelta(minutes=minute),
        )
    last = await api.pool.fetchval("SELECT max(usage_bytes) FROM usage_history")
    async with api.pool.acquire() as connection:
        await history.thin(connection, start + timedelta(hours=2))
    rows = await api.pool.fetch("SELECT at FROM usage_history ORDER BY at")
    minutes = [(row["at"] - start).total_seconds() / 60 for row in rows]
    assert minutes == [50, 110, 120, 130, 140, 150, 160, 170]
    assert await api.pool.fetchval("SELECT max(usage_bytes) FROM usage_history") == last


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("from=yesterday", "from"),
        ("from=2026-11-25T00:00:00", "from"),
        ("from=9999-12-31T23:59:59Z", "from"),
        ("to=0001-01-01T00:00:00Z", "to"),
        ("from=2999-01-01T00:00:00Z", "from"),
        ("step=0", "step"),
        ("step=1.5", "step"),
        ("step=1", "step"),
        ("step=99999999999", "step"),
        ("from=1971-01-01T00:00:00Z", "from"),
    ],
)
async def test_nonsense_names_its_field(api, query, field):
    await push(api, "1", 1000, 0)
    status, problem = await api.call("GET", f"{HISTORY}?{query}")
    assert status == 400
    assert [item["field"] for item in problem["errors"]] == [field]


async def test_somebody_elses_history_is_not_there(api):
    await push(api, "1", 1000, 0)
    token = await api.token("read", workspaces=["other"])
    assert (await api.call("GET", HISTORY, token=token))[0] == 404
