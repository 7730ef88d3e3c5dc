"""The law as a state machine: facts happen; anything of them is delivered in any order, any number
of times, in any batches; processes restart and crash; repositories are mapped. The account is exact
after every step, and the end depends on the set of facts alone.
"""

import os
from collections.abc import Sequence
from typing import Any, ClassVar, Protocol

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from ledger.facts import Fact
from quota.levels import level
from tests.support.histories import REPOSITORIES, facts_at, truth_of

QUOTA = 400
WORKSPACES = ("acme", "other", "_", "third")
MOST = 60
"""Facts in one history."""


def histories_to_try(usual: int) -> int:
    """More of them when `RQ_TEST_HISTORIES` says by how many times."""
    return usual * int(os.environ.get("RQ_TEST_HISTORIES", "1"))


class Ledger(Protocol):
    """What a machine drives: the pure core, or a Recorder on Postgres."""

    def record(self, facts: Sequence[Fact], *, crash: bool = False) -> None: ...
    def map(self, repository: str, workspace: str) -> None: ...
    def restart(self) -> None: ...
    def view(self) -> dict[str, Any]: ...
    def manifests(self) -> set[tuple[str, bytes]]: ...
    def tags(self) -> dict[tuple[str, str], bytes]: ...
    def rows(self) -> Any: ...


class Tried:
    """How much was tried, for people."""

    histories = 0
    facts = 0
    delivered = 0
    steps = 0

    @classmethod
    def told(cls) -> str:
        return (
            f"{cls.histories} histories, {cls.facts} facts, {cls.delivered} deliveries, "
            f"{cls.steps} states checked, drift 0\n"
        )


class LedgerLaw(RuleBasedStateMachine):
    """Subclasses say which ledger."""

    tried: ClassVar[type[Tried]]

    def fresh_ledger(self) -> Ledger:
        raise NotImplementedError

    def __init__(self) -> None:
        super().__init__()
        self.history: list[Fact] = []
        self.delivered: set[int] = set()
        self.mapped: dict[str, str] = {}
        self.clean = True

    @initialize()
    def begin(self) -> None:
        self.ledger = self.fresh_ledger()
        self.tried.histories += 1

    @rule(data=st.data(), many=st.integers(1, 6))
    def happen(self, data: st.DataObject, many: int) -> None:
        for _ in range(min(many, MOST - len(self.history))):
            self.history.append(data.draw(facts_at(len(self.history))))
            self.tried.facts += 1

    @rule(data=st.data(), crash=st.sampled_from((False, False, False, True)))
    def deliver(self, data: st.DataObject, crash: bool) -> None:
        if not self.history:
            return
        numbers = st.integers(0, len(self.history) - 1)
        chosen = data.draw(st.lists(numbers, min_size=1, max_size=12, unique=True))
        batch = [number for number in chosen for _ in range(data.draw(st.integers(1, 5)))]
        batch = data.draw(st.permutations(batch))
        self.ledger.record([self.history[number] for number in batch], crash=crash)
        self.tried.delivered += len(batch)
        if not crash:
            self.delivered.update(chosen)

    @rule()
    def restart(self) -> None:
        self.ledger.restart()

    @rule()
    def replay_from_the_start(self) -> None:
        """What was consumed before comes again in its order, then the rest."""
        if self.history:
            self.ledger.record(self.history)
            self.delivered = set(range(len(self.history)))
            self.tried.delivered += len(self.history)

    @rule(repository=st.sampled_from(REPOSITORIES), workspace=st.sampled_from(WORKSPACES))
    def map(self, repository: str, workspace: str) -> None:
        self.ledger.map(repository, workspace)
        self.mapped[repository] = workspace

    @invariant()
    def the_account_is_exact(self) -> None:
        if not hasattr(self, "ledger"):
            return
        self.tried.steps += 1
        view = self.ledger.view()
        assert view["usage"] == view["recount"]
        assert view["references_agree"]
        last: dict[str, str] = {}
        for workspace, previous, new in view["emitted"]:
            assert previous == last.get(workspace, "ok")
            last[workspace] = new
        for workspace, current in view["levels"].items():
            assert current == last.get(workspace, "ok")
            assert current == level(current, view["usage"].get(workspace, 0), QUOTA)
        known = [self.history[number] for number in sorted(self.delivered)]
        assert view["usage"] == truth_of(known, self.mapped).usage

    def teardown(self) -> None:
        if not hasattr(self, "ledger"):
            return
        rest = [number for number in range(len(self.history)) if number not in self.delivered]
        self.ledger.record([self.history[number] for number in reversed(rest)])
        self.delivered.update(rest)
        self.the_account_is_exact()
        truth = truth_of(self.history, self.mapped)
        assert self.ledger.manifests() == truth.manifests
        assert self.ledger.tags() == truth.tags
        rows = self.ledger.rows()
        in_order = self.fresh_ledger()
        in_order.record(self.history)
        for repository, workspace in self.mapped.items():
            in_order.map(repository, workspace)
        assert rows == in_order.rows()
