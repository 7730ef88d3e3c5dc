"""`registry-quota migrate`: the database's schema and Kafka's topics."""

import asyncio

import typer

from cli.console import CommandError, console
from runtime.settings import Settings


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "migrate", help="Bring the database to the newest schema and create missing topics."
    )(migrate)


def migrate() -> None:
    """Upgrade the schema, then create the topics that are missing. Safe to repeat."""
    asyncio.run(_migrate(Settings.load()))


async def _migrate(settings: Settings) -> None:
    from aiokafka.errors import KafkaError

    from migrations.upgrade import upgrade
    from runtime.kafka import create_topics
    from runtime.postgres import UNAVAILABLE

    try:
        await upgrade(settings.required_database_url())
    except UNAVAILABLE as error:
        raise CommandError(
            f"the database does not answer ({error}); check RQ_DATABASE_URL and that it runs"
        ) from error
    console.print("database: schema is up to date")
    try:
        created = await create_topics(settings)
    except KafkaError as error:
        raise CommandError(
            f"Kafka at {settings.kafka_bootstrap} does not answer ({error!r}); check RQ_KAFKA_BOOTSTRAP"
        ) from error
    console.print(f"kafka: created {', '.join(created)}" if created else "kafka: topics are there")
