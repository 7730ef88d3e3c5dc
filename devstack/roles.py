"""Our own programs, as parts: `registry-quota migrate` and `registry-quota serve ROLE`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from devstack.parts import Part
from devstack.processes import Launch
from devstack.registry import get_ok


@dataclass(eq=False)
class Role(Part):
    """A program of ours that stays; `ready_url` answers 2xx when it does its work."""

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str]
    ready_url: str
    needs: tuple[str, ...] = field(default=())

    def launch(self) -> Launch:
        """The program itself, asked to end by SIGTERM."""
        return Launch(argv=self.argv, env={"PYTHONUNBUFFERED": "1", **self.env})

    async def answers(self) -> None:
        """GET of `ready_url`."""
        await get_ok(self.ready_url)


@dataclass(eq=False)
class Task(Part):
    """A program of ours that does its work once at every start."""

    once: ClassVar[bool] = True

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str]
    needs: tuple[str, ...] = field(default=())

    def launch(self) -> Launch:
        """The program itself."""
        return Launch(argv=self.argv, env={"PYTHONUNBUFFERED": "1", **self.env})

    async def answers(self) -> None:
        """Never asked: it ends."""
