"""A command imports what it needs, no more: its start is what a person waits for."""

import subprocess
import sys

OF_SOME_COMMANDS = ("aiokafka", "alembic", "asyncpg", "grpc", "prometheus_client", "sqlalchemy")


def test_what_some_commands_need_is_imported_by_them_alone():
    code = f"import cli.main, sys; print(*(name for name in {OF_SOME_COMMANDS} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
