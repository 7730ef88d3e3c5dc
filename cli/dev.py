"""`registry-quota dev up`: the whole system on embedded parts (what `make run` calls)."""

import typer

commands = typer.Typer(
    help="The embedded stack for a look and for development.", no_args_is_help=True
)


def register(app: typer.Typer) -> None:
    """Add the command group."""
    app.add_typer(commands, name="dev")


@commands.callback()
def group() -> None:
    """The embedded stack: real Kafka, Postgres and registry."""


@commands.command()
def up() -> None:
    """Set everything up and run it in the foreground; Ctrl-C stops all of it."""
    try:
        from devstack.foreground import run_foreground
    except ImportError as error:
        from cli.console import CommandError

        raise CommandError(
            f"the embedded stack is not installed ({error.name}); "
            "install it with `pip install 'registry-quota[devstack]'` or use `make run`"
        ) from error
    raise typer.Exit(run_foreground())
