from difflib import get_close_matches

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


def test_long_names_are_compared_with_as_many_as_short_time_allows(monkeypatch):
    compared = []

    def counted(wanted, names, **options):
        names = list(names)
        compared.append(sum(len(wanted) * len(name) for name in names))
        return get_close_matches(wanted, names, **options)

    monkeypatch.setattr("quota.near.get_close_matches", counted)
    long = [f"{number:04}{'x' * 246}" for number in range(500)]
    near("y" * 250, long)
    assert 1_000_000 < compared.pop() <= 4_000_000
    assert near("0003" + "x" * 245 + "y", long)[0] == long[3], "the likeliest come first"
    short = [f"team-{number}" for number in range(500)]
    assert near("team-498x", short)[0] == "team-498"
