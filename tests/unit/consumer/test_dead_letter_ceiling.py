"""One poisoned event is data; more that fail than pass are a bad release, and that stops."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.dead_letters import Ceiling, TooManyDeadLettersError


def test_as_many_dead_letters_as_allowed_pass_and_the_next_does_not():
    ceiling = Ceiling(3)
    for _ in range(3):
        ceiling.spend()
    with pytest.raises(TooManyDeadLettersError, match="3 more events"):
        ceiling.spend()


def test_without_a_ceiling_everything_may_fail():
    ceiling = Ceiling(0)
    for _ in range(10_000):
        ceiling.spend()


@given(st.lists(st.booleans(), max_size=300), st.integers(1, 20))
def test_it_stops_exactly_when_failures_outrun_the_rest_by_the_allowance(outcomes, allowance):
    ceiling = Ceiling(allowance)
    ahead = 0
    for passed in outcomes:
        if passed:
            ceiling.give_back()
            ahead = max(0, ahead - 1)
        elif ahead == allowance:
            with pytest.raises(TooManyDeadLettersError):
                ceiling.spend()
        else:
            ceiling.spend()
            ahead += 1
        assert ceiling.used == ahead
