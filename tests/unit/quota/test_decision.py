"""The hook's arithmetic and answers: cleanup.md, "Decision"; contract.md, `POST …/pre-build`."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quota.decision import Figures, Verdict, decide, decide_unchecked, needs_cleanup, target_bytes
from quota.policy import Policy

POLICY = Policy()
amounts = st.integers(0, 10**16)


def figures(usage: int, reserved: int = 0, incoming: int = 0, quota: int = 100) -> Figures:
    return Figures(
        usage_bytes=usage, reserved_bytes=reserved, incoming_bytes=incoming, quota_bytes=quota
    )


def answer(numbers: Figures, enforcement="advisory", *, tried=True, **more) -> Verdict:
    return decide("acme", numbers, POLICY, enforcement=enforcement, cleanup_tried=tried, **more)


@pytest.mark.parametrize(
    ("numbers", "needed"),
    [
        (figures(79), False),
        (figures(80), True),
        (figures(50, 20, 9), False),
        (figures(50, 20, 10), True),
        (figures(0), False),
        (figures(79_999_999_999, quota=10**11), False),
        (figures(80_000_000_000, quota=10**11), True),
    ],
)
def test_cleanup_is_needed_from_the_trigger_on(numbers, needed):
    assert needs_cleanup(numbers, POLICY) is needed


@given(amounts, amounts, amounts, st.integers(1, 10**16))
def test_below_the_trigger_is_exact(usage, reserved, incoming, quota):
    numbers = figures(usage, reserved, incoming, quota)
    assert needs_cleanup(numbers, POLICY) is (10 * (usage + reserved + incoming) >= 8 * quota)


@given(st.integers(1, 10**16))
def test_the_target_is_the_largest_total_that_is_not_above_it(quota):
    target = target_bytes(quota, POLICY)
    assert 10 * target <= 7 * quota < 10 * (target + 1)


@pytest.mark.parametrize(
    ("numbers", "tried", "reason", "strict"),
    [
        (figures(79), False, "below_threshold", "proceed"),
        (figures(70), True, "cleaned_to_target", "proceed"),
        (figures(40, 20, 10), True, "cleaned_to_target", "proceed"),
        (figures(71), True, "still_above_target", "proceed"),
        (figures(85), False, "still_above_target", "proceed"),  # a breaker, deletes disabled …
        (figures(100), True, "still_above_target", "proceed"),
        (figures(101), True, "still_above_target", "deny"),
        (figures(60, 20, 21), True, "still_above_target", "deny"),
        (figures(0, 0, 100), True, "still_above_target", "proceed"),
        (figures(0, 0, 101), False, "over_quota", "deny"),
        (figures(0, 0, 101), True, "over_quota", "deny"),
    ],
)
def test_reasons_and_outcomes(numbers, tried, reason, strict):
    for enforcement, outcome in (("advisory", "proceed"), ("strict", strict)):
        verdict = answer(numbers, enforcement, tried=tried)
        assert (verdict.reason, verdict.decision) == (reason, outcome)


@given(amounts, amounts, amounts, st.integers(1, 10**16), st.booleans())
def test_advisory_never_stops_a_build_and_strict_does_exactly_above_the_quota(
    usage, reserved, incoming, quota, tried
):
    numbers = figures(usage, reserved, incoming, quota)
    assert answer(numbers, "advisory", tried=tried).decision == "proceed"
    denied = answer(numbers, "strict", tried=tried).decision == "deny"
    assert denied is (usage + reserved + incoming > quota)


def test_two_builds_that_fit_alone_but_not_together_are_not_both_told_that_they_fit():
    first = answer(figures(50, 0, 40), "strict")
    second = answer(figures(50, 40, 40), "strict")
    assert (first.decision, second.decision) == ("proceed", "deny")


def test_what_cannot_be_checked_stops_only_strict_workspaces():
    assert decide_unchecked("acme", "the database does not answer", enforcement="advisory") == (
        Verdict(
            "proceed",
            "check_failed",
            "The quota of workspace acme could not be checked (the database does not answer);"
            " the build goes on.",
        )
    )
    strict = decide_unchecked("acme", "time-out", enforcement="strict")
    assert (strict.decision, strict.reason) == ("deny", "check_failed")


def test_a_denied_build_is_told_how_much_is_missing_who_holds_it_and_what_can_be_done():
    gb = 1 << 30
    verdict = answer(
        figures(9 * gb, gb, gb, 10 * gb),
        "strict",
        obstacle="3 manifests are in use",
        largest_apps=[("api", 5 * gb), ("web", 3 * gb), ("job", gb // 2), ("old", 1)],
    )
    assert verdict.message == (
        "Workspace acme: 9 GB stored + 1 GB reserved + 1 GB incoming = 11 GB of 10 GB"
        " (110 %). 1 GB are missing. Cleanup could not do more: 3 manifests are in use."
        " Most is held by api 5 GB, web 3 GB, job 512 MB."
        " Delete images that are no longer needed, keep fewer per app, or raise the quota;"
        f" `registry-quota plan acme --incoming {gb}` says why each image stays."
        " The build is denied."
    )


def test_the_plan_that_is_advised_is_the_one_that_was_decided_on():
    """With the build's bytes, and those that are reserved for it only once."""
    message = answer(figures(99, 0, 50), obstacle="…", build_id="it's 7").message
    assert """`registry-quota plan acme --incoming 50 --build 'it'"'"'s 7'`""" in message
    fits = answer(figures(80, 0, 0), obstacle="3 of 4 images would be deleted").message
    assert "`registry-quota plan acme` says why" in fits


def test_good_news_is_short():
    assert answer(figures(10, quota=1024), tried=False).message == (
        "Workspace acme: 10 B stored + 0 B reserved + 0 B incoming = 10 B of 1 KB (0.9 %)."
    )
    assert answer(figures(10), tried=True).message.endswith("There is room.")


def test_a_build_larger_than_the_quota_is_told_so():
    message = answer(figures(5, 0, 2048, 1024)).message
    assert "This build alone is 1 KB larger than the quota; nothing was deleted for it." in message
    assert message.endswith("The build goes on.")


@pytest.mark.parametrize("wrong", [(-1, 0, 0, 1), (0, -1, 0, 1), (0, 0, -1, 1), (0, 0, 0, 0)])
def test_impossible_figures_are_refused(wrong):
    with pytest.raises(ValueError, match=r"positive|negative"):
        figures(*wrong)
