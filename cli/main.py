"""The command `registry-quota`. Exit codes: 0 done, 1 failed, 2 usage, 3 refused by a guard."""

import io
import logging
import os
import sys
from collections.abc import Sequence

import typer

from cli import (
    alerts,
    cleanup,
    dead_letters,
    demo,
    dev,
    doctor,
    events,
    garbage,
    images,
    leases,
    migrate,
    reconcile,
    replay,
    restore,
    serve,
    status,
    tokens,
    verify,
    versions,
    workspaces,
)
from cli.console import CommandError, print_error

app = typer.Typer(
    name="registry-quota",
    help="Exact storage accounting, quota events and safe pre-build cleanup for a plain registry.",
    epilog="Exit codes: 0 done, 1 failed, 2 usage, 3 refused by a guard. The API is found by RQ_API_URL and "
    "RQ_API_TOKEN; what is unset comes from .run/env of a `make run` in this folder.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

for module in (
    serve,
    dev,
    demo,
    migrate,
    status,
    reconcile,
    doctor,
    workspaces,
    images,
    leases,
    cleanup,
    tokens,
    events,
    garbage,
    alerts,
    dead_letters,
    verify,
    replay,
    restore,
    versions,
):
    module.register(app)


def _require_text(arguments: Sequence[str]) -> None:
    for argument in arguments:
        if any("\ud800" <= character <= "\udfff" for character in argument):
            raise CommandError(f"{argument!a} is no text in this system's encoding", exit_code=2)


def main() -> None:
    """Run the command line; a failure is one sentence, not a traceback."""
    from registry.errors import BadRegistryUrl
    from runtime.settings import SettingsError

    # Libraries that nobody set up a log for would write to the terminal what our one sentence says better.
    logging.getLogger().addHandler(logging.NullHandler())
    # What the terminal's encoding lacks is escaped instead of ending us.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        try:
            _require_text(sys.argv[1:])
            app()
        finally:
            sys.stdout.flush()  # here, where a reader that has gone away is dealt with
    except CommandError as error:
        print_error(str(error))
        sys.exit(error.exit_code)
    except (SettingsError, BadRegistryUrl) as error:
        print_error(str(error))
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # Whoever read us has enough (`| head`): what is left in the buffer goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except Exception as error:
        from runtime.postgres import refused

        if (refusal := refused(error)) is None:
            raise
        print_error(refusal)
        sys.exit(1)


if __name__ == "__main__":
    main()
