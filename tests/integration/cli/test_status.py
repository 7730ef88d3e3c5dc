"""`registry-quota status` beside a real stack: healthy, and precise about what was taken away."""

import json
import uuid

from tests.support.consumers import event
from tests.support.waiting import wait_until


async def checks(command):
    ran = await command("status", "--json")
    document = json.loads(ran.out)
    assert ran.code == (1 if document["state"] == "failed" else 0), ran
    return {item["name"]: item for item in document["checks"]}, document


async def test_every_part_is_shown_with_its_figures(system, command):
    await system.notify(json.dumps({"events": [event("status-1/api")]}).encode())
    await system.settled()
    found, document = await checks(command)
    # The receiver may have been told wrong tokens by other tests.
    assert found["receiver"]["state"] in ("ok", "warning")
    for name in ("kafka", "lag", "consumer", "outbox", "counters", "cleanups"):
        assert found[name]["state"] == "ok", found[name]
    assert "deliveries accepted" in found["receiver"]["found"]
    assert "1 consumer at work, last batch" in found["consumer"]["found"]
    assert document["receiver"]["accepted"] > 0
    lags = document["partition_lag"]
    assert [item["partition"] for item in lags] == list(range(12))
    assert all(item["end_offset"] == item["next_offset"] for item in lags)
    shown = await command("status")
    assert "✓ healthy" in shown.out
    assert "\x1b" not in shown.out


async def test_what_is_taken_away_is_named_with_what_to_do_until_it_is_back(system, command):
    workspace = f"status-{uuid.uuid4().hex[:8]}"
    await system.stack.pause("consumer")
    try:
        assert (
            await system.notify(json.dumps({"events": [event(f"{workspace}/a")]}).encode()) == 202
        )
        await system.stack.pause("receiver")

        async def gone() -> bool:
            return bool((await checks(command))[0]["consumer"]["state"] == "failed")

        # Kafka notices when the consumer's session has ended.
        await wait_until(gone, 30, interval=1, what="Kafka misses the consumer")
        found, document = await checks(command)
        assert found["consumer"]["found"].startswith("none runs")
        assert "serve consumer" in found["consumer"]["mend"]
        assert found["receiver"]["state"] == "failed"
        assert "serve receiver" in found["receiver"]["mend"]
        assert document["lag_events"] == 1
        [behind] = [item for item in document["partition_lag"] if item["lag_events"]]
        assert behind["lag_seconds"] > 0
        shown = await command("status")
        assert "✕ broken" in shown.out
        assert "something is broken" in shown.out
    finally:
        await system.stack.resume("receiver")
        await system.stack.resume("consumer")
    await system.settled()

    async def back() -> bool:
        found, _document = await checks(command)
        fine = found["consumer"]["state"] == found["lag"]["state"] == "ok"
        return fine and bool(found["receiver"]["state"] != "failed")

    await wait_until(back, 30, interval=1, what="what is back is told as fine")
