"""`registry-quota events tail`: quota events as they come."""

import asyncio
import json
from typing import Annotated, Any

import typer

from alerts.render import sentence
from cli.client import settings_here, warn_of_unknown
from cli.console import CommandError, console, errors, json_text, plain, second_of
from cli.options import OnlyWorkspace
from quota.words import format_bytes

commands = typer.Typer(help="Quota events.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the command group."""
    app.add_typer(commands, name="events")


@commands.callback()
def group() -> None:
    """Quota events, from Kafka."""


@commands.command()
def tail(
    workspace: OnlyWorkspace = None,
    from_start: Annotated[bool, typer.Option("--from-start", help="Not only new ones.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document a line.")] = False,
) -> None:
    """Print quota events until Ctrl-C."""
    asyncio.run(_tail(workspace, from_start=from_start, as_json=as_json))


async def _tail(workspace: str | None, *, from_start: bool, as_json: bool) -> None:
    from aiokafka import AIOKafkaConsumer
    from aiokafka.errors import KafkaError

    from runtime.consumers import end_consumer
    from runtime.errors import text_of
    from runtime.kafka import QUOTA_EVENTS_TOPIC, connection_options, start

    settings = settings_here()
    await warn_of_unknown([] if workspace is None else [workspace])
    consumer = AIOKafkaConsumer(
        QUOTA_EVENTS_TOPIC,
        **connection_options(settings),
        auto_offset_reset="earliest" if from_start else "latest",
        enable_auto_commit=False,
    )
    try:
        await start(consumer, settings)
    except KafkaError as error:
        raise CommandError(
            f"Kafka at {settings.kafka_bootstrap} does not answer ({text_of(error)}); check RQ_KAFKA_BOOTSTRAP"
        ) from error
    try:
        async for record in consumer:
            line = shown(record.value, workspace, as_json=as_json)
            if line is None:
                # Whoever may write to the topic may write anything.
                errors.print(f"{record.partition}-{record.offset} is no quota event")
            elif as_json and line:
                print(line, flush=True)
            elif line:
                console.print(line, soft_wrap=True)
    finally:
        await end_consumer(consumer)


def shown(raw: bytes | None, workspace: str | None, *, as_json: bool) -> str | None:
    """A record's line; "" for another workspace's, None for what is no quota event. PURE."""
    try:
        event = json.loads(raw or b"")
        if workspace is not None and event["subject"] != workspace:
            return ""
        text = one_line(event)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None
    return json_text(event) if as_json else text


def one_line(event: dict[str, Any]) -> str:
    """An event as a person reads it."""
    data = event["data"]
    kind = event["type"].removeprefix("io.registryquota.").removesuffix(".v1")
    text = f"[dim]{plain(second_of(event['time']))}[/] [bold]{plain(event['subject'])}[/] {plain(kind)}"
    if kind == "usage.level_changed":
        text += (
            f": {plain(data['previous_level'])} → {plain(data['level'])} "
            f"({format_bytes(data['usage_bytes'])} of {format_bytes(data['quota_bytes'])})"
        )
    elif kind in ("image.recorded", "image.removed"):
        tags = ", ".join(data["tags"]) or "untagged"
        text += f": {plain(data['repository'])} {plain(tags)} {plain(data['digest'][:19])}"
    elif kind.startswith("cleanup."):
        text += f": freed {format_bytes(data['freed_bytes'])}"
        if not data["target_reached"]:
            text += f", target not reached: {plain(data.get('reason', ''))}"
    else:
        text += f": {plain(sentence(kind, data))}"
    return text
