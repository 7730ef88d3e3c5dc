"""`registry-quota migrate`: the database's schema and Kafka's topics."""

import asyncio

import typer

from cli.console import CommandError, console, emit_json, errors
from cli.options import AsJson
from runtime.errors import text_of
from runtime.settings import Settings

_INSUFFICIENT_PRIVILEGE = "42501"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("migrate")(migrate)


def migrate(as_json: AsJson = False) -> None:
    """Bring the database to the newest schema and create missing topics.

    Safe to repeat, and for several at once.
    """
    roles, created = asyncio.run(_migrate(Settings.load()))
    if as_json:
        emit_json({"created_topics": created, "roles": roles})
        return
    console.print("database: schema is up to date")
    if roles:
        console.print(f"database: {', '.join(roles)} may do what they need")
    console.print(f"kafka: created {', '.join(created)}" if created else "kafka: topics are there")


async def _migrate(settings: Settings) -> tuple[list[str], list[str]]:
    """Roles that were given their rights, and topics that were created."""
    from aiokafka.errors import KafkaError
    from sqlalchemy.exc import DBAPIError

    from migrations.upgrade import SchemaBusyError, upgrade
    from runtime.kafka import create_topics
    from runtime.postgres import UNAVAILABLE
    from runtime.tls import advice

    try:
        roles = await upgrade(
            settings.required_database_url(),
            waiting=lambda: errors.print("database: a table is in use; trying again"),
        )
    except UNAVAILABLE as error:
        raise CommandError(
            f"the database does not answer ({text_of(error)}); "
            + (advice(error) or "check RQ_DATABASE_URL and that it runs")
        ) from error
    except SchemaBusyError as error:
        raise CommandError(
            f"{error} End it (pg_stat_activity, xact_start), and call this again: it goes on from there"
        ) from error
    except DBAPIError as error:
        if getattr(error.orig, "sqlstate", "") != _INSUFFICIENT_PRIVILEGE:
            raise
        raise CommandError(
            "this user may not change the schema; run `registry-quota migrate` as the owner of its "
            "tables (docs/security.md has the users)"
        ) from error
    try:
        return roles, list(await create_topics(settings))
    except KafkaError as error:
        raise CommandError(
            f"Kafka at {settings.kafka_bootstrap} does not answer ({text_of(error)}); check RQ_KAFKA_BOOTSTRAP"
        ) from error
