"""`registry-quota replay`: rebuild the ledger from what was learned; compare it, or put it in place."""

import asyncio
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.client import settings_here
from cli.console import CommandError, console, emit_json, errors, plain
from cli.options import AsJson
from cli.progress import Work, progress
from quota.words import format_bytes, plural
from runtime.errors import text_of

if TYPE_CHECKING:
    from consumer.replay import Replayed
    from ledger.rebuilt import Change, Difference
    from runtime.settings import Settings

_SHOWN = 50


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("replay")(replay)


def replay(
    diff: Annotated[
        bool, typer.Option("--diff", help="Compare with the live ledger; exit 1 when it differs.")
    ] = False,
    swap: Annotated[
        bool, typer.Option("--swap", help="Put the rebuilt ledger in the live one's place.")
    ] = False,
    losing: Annotated[
        int,
        typer.Option(
            min=0,
            help="With --swap: images of the live ledger that may go, by the number that was shown.",
        ),
    ] = 0,
    as_json: AsJson = False,
) -> None:
    """Rebuild the ledger from the topic and the observations; compare or swap.

    Build in a second schema beside the live ledger, which goes on meanwhile.
    """
    if diff and swap:
        raise CommandError("--diff only looks and --swap changes: give one of them", exit_code=2)
    if losing and not swap:
        raise CommandError("--losing goes with --swap", exit_code=2)
    if asyncio.run(_replay(settings_here(), diff=diff, swap=swap, losing=losing, as_json=as_json)):
        raise typer.Exit(1)


async def _replay(
    settings: "Settings", *, diff: bool, swap: bool, losing: int, as_json: bool
) -> bool:
    """Do it and say what came of it; True when the ledgers differ."""
    import asyncpg
    from aiokafka.errors import KafkaError

    from consumer.rebuild import BusyError, rebuilding
    from consumer.replay import LogIncompleteError
    from ledger.rebuilt import BehindError, LosesImagesError, MappedMeanwhileError
    from runtime.postgres import UNAVAILABLE

    found: list[Difference] = []
    changed: int | None = None
    try:
        with _Shown() as shown:
            async with rebuilding(
                settings, clock=lambda: datetime.now(UTC), progress=shown.advance
            ) as rebuild:
                if diff:
                    found = [item async for item in rebuild.differences()]
                elif swap:
                    changed = await rebuild.swap(losing=losing, tell=shown.tell)
                else:
                    await rebuild.build()
                replayed = rebuild.replayed
    except LogIncompleteError as error:
        raise CommandError(str(error), exit_code=3) from error
    except LosesImagesError as error:
        raise CommandError(_refusal(error.change), exit_code=3) from error
    except (BusyError, MappedMeanwhileError) as error:
        raise CommandError(str(error)) from error
    except BehindError as error:
        raise CommandError("the ledger learns faster than this replay; try again later") from error
    except (*UNAVAILABLE, asyncpg.PostgresError) as error:
        raise CommandError(f"the database did not do it ({text_of(error)})") from error
    except KafkaError as error:
        raise CommandError(
            f"Kafka at {settings.kafka_bootstrap} does not answer ({text_of(error)})"
        ) from error
    if as_json:
        emit_json(_document(replayed, found if diff else None, changed))
    else:
        _print(replayed, found if diff else None, changed)
    return bool(found)


class _Shown(ExitStack):
    """Shows one stage after the other."""

    def __init__(self) -> None:
        super().__init__()
        self._stage = ""
        self._work: Work | None = None

    def advance(self, what: str, done: int, total: int) -> None:
        """`done` of `total` events or observations are in."""
        if self._work is None or what != self._stage:
            self.close()
            self._stage = what
            self._work = self.enter_context(progress(what, total, unit=what))
        self._work.at(done, total)

    def tell(self, change: "Change") -> None:
        """What is about to be put in place; on standard error, as all that goes before the result."""
        self.close()
        self._work = None
        errors.print(
            f"live: {plural(change.images, 'image')}, {format_bytes(change.bytes_before)}; rebuilt: "
            f"{change.lost} less, {change.gained} more, {format_bytes(change.bytes_after)}"
        )


def _refusal(change: "Change") -> str:
    return (
        f"{plural(change.lost, 'image')} of the live ledger's {change.images} would go, because the log and "
        "the observations do not tell of them: lost ones look the same. See which with --diff, and what the "
        "registry has with `registry-quota reconcile`. To put it in place all the same: --swap --losing "
        f"{change.lost}"
    )


def _print(replayed: "Replayed", found: "list[Difference] | None", changed: int | None) -> None:
    from registry.names import format_digest

    console.print(
        f"replayed {plural(replayed.events, 'event')} ({plural(replayed.skipped, 'dead letter')} skipped) "
        f"and {replayed.observations} observations"
    )
    for registry, repository, digest in replayed.unsettled[:_SHOWN]:
        console.print(
            f"unsettled: {plain(repository)}@{format_digest(digest)} of registry {plain(registry)} counts, "
            "although an event told a delete of its digest; the consumer asks the registry"
        )
    if len(replayed.unsettled) > _SHOWN:
        console.print(f"and {len(replayed.unsettled) - _SHOWN} more unsettled (--json)")
    if changed is not None:
        console.print(
            f"the rebuilt ledger is in place; the bytes of {plural(changed, 'workspace')} changed"
        )
    if found is None:
        return
    console.print(f"{plural(len(found), 'difference')} between the live and the rebuilt ledger")
    for item in found[:_SHOWN]:
        console.print(
            f"{item.kind} {plain(_name(item))} of {plain(item.workspace)}: {plain(_what(item))}"
        )
    if len(found) > _SHOWN:
        console.print(f"and {len(found) - _SHOWN} more (--json)")


def _name(item: "Difference") -> str:
    from registry.names import format_digest

    if isinstance(item.name, bytes):
        return f"{item.repository}@{format_digest(item.name)}"
    return f"{item.repository}:{item.name}" if item.repository else item.name


def _what(item: "Difference") -> str:
    if item.live is None:
        return "only in the rebuilt one"
    if item.rebuilt is None:
        return "only in the live one"
    if item.kind == "bytes":
        live, rebuilt = item.live["usage_bytes"], item.rebuilt["usage_bytes"]
        return f"live {live} ({format_bytes(live)}), rebuilt {rebuilt} ({format_bytes(rebuilt)})"
    return ", ".join(name for name in item.live if item.live[name] != item.rebuilt[name])


def _plain_values(row: dict[str, Any] | None) -> dict[str, Any] | None:
    if row is None:
        return None
    return {name: value.hex() if isinstance(value, bytes) else value for name, value in row.items()}


def _document(
    replayed: "Replayed", found: "list[Difference] | None", changed: int | None
) -> dict[str, Any]:
    from registry.names import format_digest

    document: dict[str, Any] = {
        "events": replayed.events,
        "skipped": replayed.skipped,
        "observations": replayed.observations,
        "unsettled": [
            {"registry": registry, "repository": repository, "digest": format_digest(digest)}
            for registry, repository, digest in replayed.unsettled
        ],
    }
    if changed is not None:
        document["workspaces_changed"] = changed
    if found is not None:
        document["differences"] = [
            {
                "kind": item.kind,
                "workspace": item.workspace,
                "name": _name(item),
                "live": _plain_values(item.live),
                "rebuilt": _plain_values(item.rebuilt),
            }
            for item in found
        ]
    return document
