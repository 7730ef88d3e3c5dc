"""The warning's words: those that dashboards have always shown."""

from hypothesis import given
from hypothesis import strategies as st

from quota.pages.warning import warning

GB = 1024**3


def test_from_70_percent_on_people_are_warned():
    said = warning(int(7.2 * GB), 10 * GB)
    assert said is not None
    assert (said.severity, said.title, said.text) == (
        "warning",
        "Registry Usage Warning",
        "Using 7.2 GB of 10 GB (72%). Consider adding your own registry or cleaning up old images.",
    )


def test_from_90_percent_on_they_are_told_what_will_happen():
    said = warning(int(9.4 * GB), 10 * GB)
    assert said is not None
    assert (said.severity, said.title, said.text) == (
        "critical",
        "Registry Almost Full",
        "Using 9.4 GB of 10 GB (94%). Oldest images will be automatically cleaned up on next build.",
    )


def test_from_100_percent_on_they_are_told_that_the_quota_is_exceeded():
    for used in (10 * GB, 12 * GB):
        said = warning(used, 10 * GB)
        assert said is not None
        assert (said.severity, said.title) == ("critical", "Registry Quota Exceeded")
    almost = warning(10 * GB - 1, 10 * GB)
    assert almost is not None
    assert almost.title == "Registry Almost Full"


@given(used=st.integers(0, 2**60), quota=st.integers(1, 2**60))
def test_the_thresholds_are_exact(used, quota):
    said = warning(used, quota)
    if used * 100 < 70 * quota:
        assert said is None
    else:
        assert said is not None
        assert (said.severity == "critical") is (used * 100 >= 90 * quota)
        assert f"({(used * 200 + quota) // (2 * quota)}%)" in said.text
