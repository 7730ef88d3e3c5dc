"""The demo's verdicts: what agrees holds, and every way to differ is found and named."""

from dataclasses import replace
from typing import Any

import pytest

from cli.demo import check
from cli.demo.check import Ledger, Pulled, Stored, Verdict, recount

WORKSPACE = "acme"
API, WEB = "acme/api", "acme/web"

# api:1 is an image, web:1 an index with one child, and an untagged image was left in api.
PULLED = Pulled(
    tags={(API, "1"): "sha256:a1", (API, "latest"): "sha256:a1", (WEB, "1"): "sha256:w1"},
    manifests={
        (API, "sha256:a1"): Stored(10, ("sha256:base", "sha256:code")),
        (API, "sha256:a0"): Stored(11, ("sha256:base", "sha256:old")),
        (WEB, "sha256:w1"): Stored(12, ()),
        (WEB, "sha256:w1-arm"): Stored(13, ("sha256:base", "sha256:arm")),
    },
    blobs={"sha256:base": 1000, "sha256:code": 200, "sha256:old": 300, "sha256:arm": 400},
)
USAGE = 10 + 11 + 12 + 13 + 1000 + 200 + 300 + 400
LEDGER = Ledger(usage_bytes=USAGE, tags=dict(PULLED.tags), manifests=frozenset(PULLED.manifests))

GONE = {"repository": API, "digest": "sha256:gone", "freed_bytes": 70}
HOOK: dict[str, Any] = {
    "decision": "proceed",
    "reason": "cleaned_to_target",
    "quota_bytes": 3000,
    "usage_bytes_before": USAGE + 70,
    "usage_bytes": USAGE,
    "reserved_bytes": 0,
    "incoming_bytes": 100,
    "cleanup": {"run_id": "run-1", "freed_bytes": 70, "images": [GONE], "failed": []},
}
PLAN = {"freed_bytes": 70, "images": [{**GONE, "action": "delete"}, {**GONE, "digest": "sha256:a1", "action": "keep"}]}  # fmt: skip


def event(kind: str, **data: object) -> dict[str, Any]:
    return {"type": f"io.registryquota.{kind}.v1", "subject": WORKSPACE, "data": data}


def level(previous: str, now: str) -> dict[str, Any]:
    return event("usage.level_changed", previous_level=previous, level=now)


PUSHED = [*PULLED.manifests, (API, "sha256:gone")]
EVENTS = [
    *(event("image.recorded", repository=r, digest=d) for r, d in PUSHED),
    level("ok", "warning"),
    event("image.removed", repository=API, digest="sha256:gone"),
    level("warning", "ok"),
    event("cleanup.finished", run_id="run-1", freed_bytes=70),
]


def the_only_difference(verdict: Verdict) -> str:
    assert not verdict.held
    (difference,) = verdict.differences
    return difference


def without(pulled: Pulled, name: tuple[str, str]) -> Pulled:
    """As if the registry did not have this manifest."""
    manifests = {key: value for key, value in pulled.manifests.items() if key != name}
    return replace(pulled, manifests=manifests)


def test_everything_holds_when_both_sides_agree():
    verdicts = [
        check.room(HOOK),
        check.plan_kept(PLAN, HOOK),
        check.deleted(PULLED, HOOK),
        check.pulls(PULLED),
        check.tags(PULLED, LEDGER),
        check.manifests(PULLED, LEDGER),
        check.usage(PULLED, LEDGER),
        check.images_announced(EVENTS, PUSHED, HOOK),
        check.levels_announced(EVENTS, "ok"),
        check.cleanup_announced(EVENTS, HOOK),
    ]
    assert [verdict.differences for verdict in verdicts] == [()] * len(verdicts)


def test_a_recount_counts_each_digest_once_and_documents_too():
    assert recount(PULLED) == USAGE
    assert recount(Pulled(tags={}, manifests={}, blobs={})) == 0


def test_the_same_manifest_in_two_repositories_counts_once():
    stored = PULLED.manifests[API, "sha256:a1"]
    mounted = replace(PULLED, manifests={**PULLED.manifests, (WEB, "sha256:a1"): stored})
    assert recount(mounted) == USAGE


@pytest.mark.parametrize("drift", [-1, 1, 10**12])
def test_a_ledger_that_is_a_byte_off_is_found(drift):
    ledger = replace(LEDGER, usage_bytes=USAGE + drift)
    assert the_only_difference(check.usage(PULLED, ledger)).endswith(f"{drift:+,}")


def test_a_manifest_that_the_registry_lost_is_found_in_bytes_and_by_name():
    lost = without(PULLED, (API, "sha256:a0"))
    assert "+311" in the_only_difference(check.usage(lost, LEDGER))
    assert the_only_difference(check.manifests(lost, LEDGER)) == (
        "acme/api@sha256:a0 is only in the ledger"
    )


def test_a_manifest_that_the_ledger_missed_is_found():
    ledger = replace(LEDGER, manifests=LEDGER.manifests - {(WEB, "sha256:w1-arm")})
    assert the_only_difference(check.manifests(PULLED, ledger)) == (
        "acme/web@sha256:w1-arm is only in the registry"
    )


def test_tags_that_differ_are_found_on_both_sides():
    moved = replace(LEDGER, tags={**LEDGER.tags, (API, "latest"): "sha256:a0"})
    assert the_only_difference(check.tags(PULLED, moved)) == (
        "acme/api:latest is sha256:a0 in the ledger, sha256:a1 in the registry"
    )
    more = replace(LEDGER, tags={**LEDGER.tags, (API, "2"): "sha256:a2"})
    assert the_only_difference(check.tags(PULLED, more)) == "acme/api:2 is only in the ledger"
    fewer = replace(LEDGER, tags={(API, "1"): "sha256:a1", (WEB, "1"): "sha256:w1"})
    assert the_only_difference(check.tags(PULLED, fewer)) == (
        "acme/api:latest is only in the registry"
    )


def test_what_was_deleted_and_is_still_there_is_found():
    manifests = {**PULLED.manifests, (API, "sha256:gone"): Stored(1, ())}
    verdict = check.deleted(replace(PULLED, manifests=manifests), HOOK)
    assert the_only_difference(verdict) == "acme/api@sha256:gone is still in the registry"


def test_what_could_not_be_pulled_is_passed_on():
    verdict = check.pulls(replace(PULLED, faults=("acme/api:1 cannot be pulled: 404",)))
    assert the_only_difference(verdict) == "acme/api:1 cannot be pulled: 404"


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"decision": "deny", "reason": "still_above_target"}, "deny (still_above_target)"),
        ({"reason": "below_threshold"}, "below_threshold"),
        ({"incoming_bytes": 2100 - USAGE + 1}, "more than the target"),
        ({"cleanup": {**HOOK["cleanup"], "failed": [{"digest": "d", "reason": "405"}]}}, "d: 405"),
    ],
)
def test_a_hook_that_did_not_make_room_is_found(changes, named):
    assert named in the_only_difference(check.room({**HOOK, **changes}))


def test_the_target_itself_is_reached():
    assert check.room({**HOOK, "incoming_bytes": 2100 - USAGE}).held


def test_a_cleanup_that_strays_from_its_plan_is_found():
    other = {**HOOK, "cleanup": {**HOOK["cleanup"], "images": [{**GONE, "digest": "sha256:a1"}]}}
    assert check.plan_kept(PLAN, other).differences == (
        "acme/api@sha256:gone was to go and stayed",
        "acme/api@sha256:a1 went without a plan",
    )
    for wrong in (
        check.plan_kept({**PLAN, "freed_bytes": 71}, HOOK),
        check.plan_kept(PLAN, {**HOOK, "usage_bytes": USAGE + 1}),
    ):
        assert "70 bytes freed" in the_only_difference(wrong)


@pytest.mark.parametrize("kind", ["image.recorded", "image.removed"])
def test_an_image_that_was_not_announced_is_found(kind):
    announced = [item for item in EVENTS if kind not in item["type"]]
    differences = check.images_announced(announced, PUSHED, HOOK).differences
    assert f"{kind} of acme/api@sha256:gone is missing" in differences


def test_an_announcement_of_what_did_not_happen_is_found():
    events = [*EVENTS, event("image.removed", repository=API, digest="sha256:a1")]
    assert the_only_difference(check.images_announced(events, PUSHED, HOOK)) == (
        "image.removed of acme/api@sha256:a1 is wrong"
    )


@pytest.mark.parametrize(
    ("steps", "now", "named"),
    [
        ([], "ok", "no warning"),
        ([level("ok", "warning")], "ok", "the last level announced is warning"),
        ([level("ok", "warning")], "warning", "warning after the cleanup"),
        ([level("ok", "warning"), level("critical", "ok")], "ok", "a step from critical"),
    ],
)
def test_levels_that_do_not_fit_are_found(steps, now, named):
    assert any(named in text for text in check.levels_announced(steps, now).differences)


def test_a_cleanup_that_is_announced_wrongly_or_twice_is_found():
    finished = EVENTS[-1]
    for events in (
        [],
        [finished, finished],
        [event("cleanup.finished", run_id="run-1", freed_bytes=71)],
        [event("cleanup.finished", run_id="run-2", freed_bytes=70)],
    ):
        assert not check.cleanup_announced(events, HOOK).held


def test_the_ledgers_side_is_read_from_the_apis_documents():
    images = [
        {"repository": API, "digest": "sha256:a1", "tags": ["1", "latest"]},
        {"repository": API, "digest": "sha256:a0", "tags": []},
    ]
    assert Ledger.of({"usage_bytes": 5}, images) == Ledger(
        usage_bytes=5,
        tags={(API, "1"): "sha256:a1", (API, "latest"): "sha256:a1"},
        manifests=frozenset({(API, "sha256:a1"), (API, "sha256:a0")}),
    )
