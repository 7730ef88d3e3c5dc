"""`registry-quota events tail`: quota events as they come."""

import asyncio
import json
from typing import Annotated, Any

import typer

from cli.client import settings_here
from cli.console import CommandError, console, plain, size
from cli.options import OnlyWorkspace

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

    from runtime.kafka import QUOTA_EVENTS_TOPIC, connection_options

    settings = settings_here()
    consumer = AIOKafkaConsumer(
        QUOTA_EVENTS_TOPIC,
        **connection_options(settings),
        auto_offset_reset="earliest" if from_start else "latest",
        enable_auto_commit=False,
    )
    try:
        await consumer.start()
    except KafkaError as error:
        raise CommandError(
            f"Kafka at {settings.kafka_bootstrap} does not answer ({error!r}); check RQ_KAFKA_BOOTSTRAP"
        ) from error
    try:
        async for record in consumer:
            event = json.loads(record.value)
            if workspace is not None and event["subject"] != workspace:
                continue
            if as_json:
                print(json.dumps(event, ensure_ascii=False), flush=True)
            else:
                console.print(one_line(event), soft_wrap=True)
    finally:
        await consumer.stop()


def one_line(event: dict[str, Any]) -> str:
    """An event as a person reads it."""
    data = event["data"]
    kind = event["type"].removeprefix("io.registryquota.").removesuffix(".v1")
    text = f"[dim]{plain(event['time'][:19])}[/] [bold]{plain(event['subject'])}[/] {plain(kind)}"
    if kind == "usage.level_changed":
        text += (
            f": {plain(data['previous_level'])} → {plain(data['level'])} "
            f"({size(data['usage_bytes'])} of {size(data['quota_bytes'])})"
        )
    elif kind.startswith("image."):
        tags = ", ".join(data["tags"]) or "untagged"
        text += f": {plain(data['repository'])} {plain(tags)} {plain(data['digest'][:19])}"
    elif kind.startswith("cleanup."):
        text += f": freed {size(data['freed_bytes'])}"
        if not data["target_reached"]:
            text += f", target not reached: {plain(data.get('reason', ''))}"
    return text
