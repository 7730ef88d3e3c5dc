"""`registry-quota migrate`: the database's schema and Kafka's topics."""

import asyncio

import typer

from cli.console import CommandError, console, emit_json, errors
from cli.options import AsJson
from runtime.settings import Settings


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("migrate")(migrate)


def migrate(as_json: AsJson = False) -> None:
    """Bring the database to the newest schema and create missing topics.

    Safe to repeat, and for several at once.
    """
    created = asyncio.run(_migrate(Settings.load()))
    if as_json:
        emit_json({"created_topics": created})
        return
    console.print("database: schema is up to date")
    console.print(f"kafka: created {', '.join(created)}" if created else "kafka: topics are there")


async def _migrate(settings: Settings) -> list[str]:
    """The topics that were created."""
    from aiokafka.errors import KafkaError

    from migrations.upgrade import SchemaBusyError, upgrade
    from runtime.kafka import create_topics
    from runtime.postgres import UNAVAILABLE
    from runtime.tls import advice

    try:
        await upgrade(
            settings.required_database_url(),
            waiting=lambda: errors.print("database: a table is in use; trying again"),
        )
    except UNAVAILABLE as error:
        raise CommandError(
            f"the database does not answer ({error}); "
            + (advice(error) or "check RQ_DATABASE_URL and that it runs")
        ) from error
    except SchemaBusyError as error:
        raise CommandError(
            f"{error} End it (pg_stat_activity, xact_start), and call this again: it goes on from there"
        ) from error
    try:
        return list(await create_topics(settings))
    except KafkaError as error:
        raise CommandError(
            f"Kafka at {settings.kafka_bootstrap} does not answer ({error!r}); check RQ_KAFKA_BOOTSTRAP"
        ) from error
