"""`registry-quota dead-letters` beside a whole system."""

import json
import os
import uuid

from cli.dead_letters.desk import desk, matching
from runtime.settings import Settings
from tests.support.consumers import event
from tests.support.waiting import wait_until


async def listed(command, *options):
    ran = await command("dead-letters", "list", "--json", "--handled", *options)
    assert ran.code == 0, ran
    return json.loads(ran.out)


async def undeliverable(system, command, body):
    """The id of the dead letter that this body became."""
    marker = uuid.uuid4().hex
    assert await system.notify(body + b" " + marker.encode()) == 202
    for item in (await listed(command))["items"]:
        ran = await command("dead-letters", "show", item["id"], "--raw")
        if marker in ran.out:
            return item["id"]
    raise AssertionError("the body is in no dead letter")


async def test_a_letter_is_listed_shown_refused_dropped_and_gone_from_the_list(system, command):
    before = await listed(command)
    name = await undeliverable(system, command, b"<b>no JSON</b> \x1b[31m")
    after = await listed(command)
    assert (after["total"], after["open"]) == (before["total"] + 1, before["open"] + 1)

    shown = await command("dead-letters", "show", name)
    assert "would be refused: not JSON" in shown.out
    assert "<b>no JSON</b>" in shown.out
    assert "\x1b" not in shown.out
    document = json.loads((await command("dead-letters", "show", name, "--json")).out)
    assert (document["state"], document["retriable"]) == ("open", False)
    assert document["origin"] == "webhook"

    refused = await command("dead-letters", "retry", name)
    assert refused.code == 3, refused
    assert "as wrong as before" in refused.out
    assert (await listed(command))["open"] == after["open"]

    dropped = await command("dead-letters", "drop", name, "--json")
    assert (dropped.code, json.loads(dropped.out)) == (0, {"dropped": [name]})
    ran = await command("dead-letters", "list", "--json")
    assert name not in {item["id"] for item in json.loads(ran.out)["items"]}
    assert (await listed(command))["open"] == before["open"]


async def test_an_event_that_can_be_read_now_is_counted_when_it_is_retried(system, command):
    """As after an upgrade that understands more: here the body was too compressed to be taken."""
    workspace = f"dl-{uuid.uuid4().hex[:8]}"
    body = json.dumps({"events": [event(f"{workspace}/api"), event(f"{workspace}/web")]}).encode()
    async with system.session.post(
        system.environment["RQ_WEBHOOK_URL"],
        data=body,
        headers={
            "Authorization": f"Bearer {system.environment['RQ_WEBHOOK_TOKEN']}",
            "Content-Encoding": "br",
        },
    ) as response:
        assert response.status == 202
    reason = ("--reason", "content-encoding 'BR'")
    [item] = [item for item in (await listed(command, *reason))["items"] if item["state"] == "open"]
    assert await system.usage(workspace) == 0

    ran = await command("dead-letters", "retry", "--all", "--json", *reason)
    assert ran.code == 0, ran
    outcome = json.loads(ran.out)
    assert (outcome["retried"], outcome["events"], outcome["refused"]) == ([item["id"]], 2, [])

    async def counted():
        return await system.usage(workspace) == 2 * 5100

    await wait_until(counted, 20, what="both events are counted")
    [item] = [it for it in (await listed(command, *reason))["items"] if it["id"] == item["id"]]
    assert item["state"] == "retried"

    again = json.loads((await command("dead-letters", "retry", "--all", "--json", *reason)).out)
    assert again["retried"] == []


async def test_a_letter_can_be_retried_and_dropped_again_and_a_missing_one_cannot(system, command):
    name = await undeliverable(system, command, b"no JSON")
    for _ in range(2):
        assert (await command("dead-letters", "retry", name)).code == 3
        assert (await command("dead-letters", "drop", name)).code == 0
    for verb in ("retry", "drop"):
        ran = await command("dead-letters", verb, name, "0-999999")
        assert (ran.code, "there is no dead letter 0-999999" in ran.err) == (1, True)


async def test_what_is_not_a_command_line_is_exit_code_2(command):
    not_text = os.fsdecode(b"\xff\xfe")
    for arguments in (
        ("retry",),
        ("drop", "1-1", "--all"),
        ("show", "7"),
        ("retry", "x-1"),
        ("show", "1-1\n"),
        ("list", "--workspace", not_text),
        ("list", "--limit", "0"),
    ):
        ran = await command("dead-letters", *arguments)
        assert ran.code == 2, ran
        assert "Traceback" not in ran.err


async def test_what_is_missing_or_away_is_one_sentence_and_exit_code_1(command):
    ran = await command("dead-letters", "show", "0-999999")
    assert ran.code == 1
    assert "there is no dead letter 0-999999" in ran.err
    ran = await command("dead-letters", "list", RQ_KAFKA_BOOTSTRAP="127.0.0.1:1")
    assert ran.code == 1
    assert "RQ_KAFKA_BOOTSTRAP" in ran.err
    for word in ("Traceback", "Error", "AddressFamily"):
        assert word not in ran.err


async def test_a_list_of_letters_holds_none_of_their_bodies(system, command, monkeypatch):
    """A topic of bodies of 8 MiB each would fill the memory of whoever looks."""
    left = await undeliverable(system, command, b"no JSON either")
    for name, value in system.environment.items():
        monkeypatch.setenv(name, value)
    async with desk(Settings.load()) as work:
        found = await work.newest(50, matching(None, None), also_handled=True)
    assert found
    assert all(letter.value == b"" and letter.size > 0 for letter, _mark in found)
    assert (await command("dead-letters", "drop", left)).code == 0  # doctor tells of open ones


async def test_a_list_that_is_cut_says_so(system, command):
    for number in range(2):
        assert await system.notify(b"no JSON, number %d" % number) == 202

    async def both():
        return len((await listed(command))["items"]) >= 2

    await wait_until(both, 10, what="two dead letters")
    count = len((await listed(command, "--limit", "100000"))["items"])
    for limit in (count - 1, count):
        options = ("dead-letters", "list", "--handled", "--limit", str(limit))
        shown = await command(*options)
        assert (f"the newest {limit} of more" in shown.err) is (limit < count), shown
        ran = await command(*options, "--json")
        document = json.loads(ran.out)
        assert (len(document["items"]), document["more"]) == (limit, limit < count)
        assert ("of more" in ran.err) is (limit < count)
    assert (await command("dead-letters", "drop", "--all")).code == 0  # doctor tells of open ones
