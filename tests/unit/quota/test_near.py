from hypothesis import given
from hypothesis import strategies as st

from quota.near import did_you_mean, near

KNOWN = ["acme", "acme-2", "Globex", "group/team", "zeta", "sub/api"]


def test_a_slip_other_capitals_and_a_part_too_few_or_too_many_are_near():
    assert near("acmee", KNOWN)[:2] == ["acme", "acme-2"]
    assert near("GLOBEX", KNOWN) == ["Globex"]
    assert near("group", KNOWN) == ["group/team"]
    assert near("zeta/api", KNOWN)[-1] == "zeta" or "zeta" in near("zeta/api", KNOWN)
    assert near("api", KNOWN) == ["sub/api"]
    assert near("unlike-all", KNOWN) == []


def test_near_names_are_a_question_or_nothing():
    assert did_you_mean("acmee", KNOWN) == "; did you mean acme or acme-2?"
    assert did_you_mean("qqq", KNOWN) == ""


@given(st.text(max_size=30), st.lists(st.text(max_size=30), max_size=20))
def test_whatever_is_written_only_known_names_are_told_and_never_itself(wanted, names):
    found = near(wanted, names)
    assert len(found) <= 3
    assert len(set(found)) == len(found)
    assert set(found) <= set(names) - {wanted}
