"""The law on the pure core: any order, any duplicates, any crash end in the same exact account."""

import sys
from typing import ClassVar

from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from tests.support.law import QUOTA, LedgerLaw, Tried, histories_to_try
from tests.support.memory_ledger import MemoryLedger


class TriedInMemory(Tried):
    pass


class PureLaw(LedgerLaw):
    tried: ClassVar[type[Tried]] = TriedInMemory

    def fresh_ledger(self) -> MemoryLedger:
        return MemoryLedger(QUOTA)


def test_the_pure_core_keeps_the_law():
    run_state_machine_as_test(
        PureLaw,
        settings=settings(
            max_examples=histories_to_try(150), stateful_step_count=30, deadline=None
        ),
    )
    sys.stdout.write(f"\npure core: {TriedInMemory.told()}")
