"""What the supervisor needs to know of a part."""

from abc import ABC, abstractmethod
from typing import ClassVar, Protocol

from devstack.processes import Launch


class Say(Protocol):
    """Prints one line of progress for a person."""

    def __call__(self, line: str, /) -> None:
        """Print it."""


def quiet(_line: str, /) -> None:
    """A `Say` that prints nothing."""


class Part(ABC):
    """One program of the stack: how it is set up, started and asked whether it answers.

    `needs` names the parts that answer before it is started, `feeds` those that take what it sends:
    it ends before them. A part with `once` runs to its end
    with exit code 0 instead of staying. `first_tries` starts are allowed until it answers for the
    first time; once it did, it is started again for ever.
    """

    name: str
    needs: tuple[str, ...] = ()
    feeds: tuple[str, ...] = ()
    once: ClassVar[bool] = False
    first_tries: ClassVar[int] = 1

    async def prepare(self, say: Say) -> None:  # noqa: B027 - many need nothing
        """Fetch, build, format: whatever its first process needs. Raises StackError."""

    @abstractmethod
    def launch(self) -> Launch:
        """How its process is started; asked again before every start."""

    @abstractmethod
    async def answers(self) -> None:
        """Return when it does its work now; raise any Exception when not (asked again shortly)."""
