"""Bring a database to the newest schema, from code (the command line and the tests call this)."""

import asyncio
from pathlib import Path

from alembic import command
from alembic.config import Config


def configuration(url: str) -> Config:
    """Alembic's configuration for a database URL, independent of the working folder."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    config.attributes["url"] = url
    return config


async def upgrade(url: str) -> None:
    """Run every migration that is missing. Safe to call from several processes at once."""
    # Alembic's environment runs an event loop of its own, so it gets a thread of its own.
    await asyncio.to_thread(command.upgrade, configuration(url), "head")
