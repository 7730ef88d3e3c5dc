"""Settings from the environment (prefix `RQ_`), read lazily, checked where they are needed.

Names and defaults are public: see the contract's "Settings". Secrets are `SecretStr`, so that a
printed settings object never shows them.
"""

import ipaddress
import os
import re
from pathlib import Path
from typing import Annotated, Self
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from pydantic import AliasChoices, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

DEFAULT_REGISTRY = "default"
MESSAGE_MAX_BYTES = 9 * 1024 * 1024
"""Largest Kafka message of ours, in bytes: an 8 MiB event and its headers fit."""

REGISTRY_NAME = re.compile(r"^[a-z0-9][a-z0-9_-]{0,62}\Z")
"""What a registry may be called in `RQ_WEBHOOK_TOKENS`."""


class SettingsError(Exception):
    """A setting is missing or wrong. The message names it and says what to set."""


class Settings(BaseSettings):
    """Everything that can be set. Durations are seconds, sizes are bytes.

    The text below a field is its description in `docs/reference/settings.md` (`make reference`).
    """

    model_config = SettingsConfigDict(
        env_prefix="RQ_",
        extra="ignore",
        frozen=True,
        populate_by_name=True,
    )

    # Kafka
    kafka_bootstrap: str = "127.0.0.1:9092"
    """Brokers to begin with, `host:port`, by commas."""
    kafka_security_protocol: str = Field(
        "PLAINTEXT", pattern="^(PLAINTEXT|SSL|SASL_PLAINTEXT|SASL_SSL)$"
    )
    """`PLAINTEXT`, `SSL`, `SASL_PLAINTEXT` or `SASL_SSL`."""
    kafka_sasl_mechanism: str = Field("PLAIN", pattern="^(PLAIN|SCRAM-SHA-256|SCRAM-SHA-512)$")
    """`PLAIN`, `SCRAM-SHA-256` or `SCRAM-SHA-512`, with the two below."""
    kafka_sasl_username: str | None = None
    """Who we are to the brokers."""
    kafka_sasl_password: SecretStr | None = None
    """And how we prove it."""
    kafka_ssl_cafile: str | None = None
    """PEM file of the authority that signed the brokers' certificates; unset: the system's and `RQ_CA_FILE`."""
    kafka_ssl_certfile: str | None = None
    """PEM file of our own certificate, where the brokers ask for one."""
    kafka_ssl_keyfile: str | None = None
    """PEM file of its key."""
    kafka_partitions: int = Field(12, ge=1, le=1000)
    """Of topics that `migrate` creates; so many consumers can share the work."""
    kafka_replication: int = Field(1, ge=1, le=32767)
    """Copies of topics that `migrate` creates; 3 is recommended."""
    kafka_min_insync_replicas: int = Field(1, ge=1)
    """Copies that must have a message before it is acknowledged; 2 of 3 are recommended."""
    kafka_group: str = "registry-quota"
    """The consumers' group; alerts take it with a suffix."""
    kafka_group_instance: str | None = Field(None, min_length=1)
    """A name of its own for each consumer process: one that is started again under the same name
    has its partitions back at once instead of after the session time-out."""

    # TLS
    tls_cert: str | None = None
    """PEM file: what our own doors show (receiver, API, gRPC, metrics), the chain; with `tls_key`."""
    tls_key: str | None = None
    """PEM file of its key, without a password."""
    ca_file: str | None = None
    """PEM file of authorities that are trusted besides the system's, by every connection of ours."""

    # Postgres
    database_url: SecretStr | None = None
    """`postgresql://user:password@host:5432/registry_quota`, Postgres 15 or newer."""
    database_pool_size: int = Field(10, ge=2, le=200)
    """Connections that a process may have open."""

    # The registry that is read and cleaned
    registry_url: str | None = Field(
        None, validation_alias=AliasChoices("RQ_REGISTRY_URL", "ORBIT_REGISTRY_URL")
    )
    """The registry that is read and cleaned, with or without scheme."""
    registry_username: str | None = None
    """Whose account may read and delete there."""
    registry_password: SecretStr | None = None
    """And its password."""
    registry_token_hosts: Annotated[tuple[str, ...], NoDecode] = ()
    """Hosts of a token service, besides the registry's own, that get these credentials; by commas."""
    registry_redirect_hosts: Annotated[tuple[str, ...], NoDecode] = ()
    """Hosts that a blob may be fetched from when the registry sends us there; by commas."""
    registry_pull_through: bool | None = None
    """Whether the registry is a pull-through cache: then it is not walked through and nothing of it is
    cleaned, and what is pulled counts. Unset: found out where the account may delete or push."""
    registry_concurrency: int = Field(8, ge=1, le=256)
    """Requests to the registry at a time."""

    # Receiver
    host: str = "127.0.0.1"
    """Address that receiver, API and gRPC listen on."""
    receiver_port: int = Field(8080, ge=0, le=65535)
    """Of `POST /v1/notifications`."""
    receiver_url: str | None = Field(None, pattern=r"^https?://[^/\s]+/?$")
    """Where the API asks the receiver how it is, for status and page; unset: `RQ_HOST` and the port above."""
    webhook_tokens: SecretStr | None = None
    """One or several by commas (rotation); `NAME=TOKEN` names a registry of its own."""
    max_body_bytes: int = Field(8 * 1024 * 1024, ge=1024)
    """Larger deliveries are read as a stream, event by event; 8 MiB, the longest record, at most."""
    drain_body_bytes: int = Field(64 * 1024 * 1024, ge=1024)
    """What is larger than this becomes a dead letter, and is read no further."""
    ack_timeout: float = Field(0.8, gt=0, le=60)
    """Seconds until the receiver answers 503; below the registry's `timeout`."""

    # API
    api_port: int = Field(8081, ge=0, le=65535)
    """Of the API and the pages."""
    grpc_port: int = Field(9090, ge=0, le=65535)
    """Of gRPC, in the API's process."""
    api_url: str | None = Field(None, validation_alias=AliasChoices("RQ_API_URL", "ORBIT_API_URL"))
    """Where the command line finds the API; unset: `http://RQ_HOST:RQ_API_PORT`, `https` with `RQ_TLS_CERT`."""
    api_token: SecretStr | None = None
    """The operator's token, all scopes; several by commas while one replaces the other."""
    internal_api_key: SecretStr | None = Field(
        None, validation_alias=AliasChoices("RQ_INTERNAL_API_KEY", "ORBIT_INTERNAL_API_KEY")
    )
    """For build platforms that call the internal API; several as above."""

    # Pages
    session_seconds: int = Field(12 * 3600, ge=60, le=90 * 86_400)
    """How long a sign-in at the pages lasts."""
    cors_origins: Annotated[tuple[str, ...], NoDecode] = ()
    """Origins (`https://host`, by commas) whose pages may show the warning of a workspace."""
    proxy_addresses: Annotated[tuple[str, ...], NoDecode] = ()
    """Addresses or networks of a proxy that has signed people in, by commas; none: nobody is believed."""
    proxy_user_header: str = Field("X-Forwarded-User", pattern=r"^[A-Za-z0-9-]{1,100}$")
    """Header by which that proxy names who has signed in."""
    proxy_workspaces_header: str | None = Field(None, pattern=r"^[A-Za-z0-9-]{1,100}$")
    """Header by which it names their workspaces, by commas; unset: all workspaces."""
    proxy_scope: str = Field("read", pattern="^(read|write)$")
    """`read`, or `write` to let them clean and restore."""

    # Alerts that are forwarded
    alerts_url: SecretStr | None = None
    """Where alerts go, to a webhook, Slack or Alertmanager; a chat tool's address lets anybody in."""
    alerts_secret: SecretStr | None = None
    """Signs webhooks: `whsec_` and base64."""

    # Temporal worker
    grpc_target: str | None = None
    """`host:port` of the gRPC door (`https://host:port` by TLS); by default the host and the scheme of
    `RQ_API_URL` and `RQ_GRPC_PORT`."""
    temporal_address: str = "127.0.0.1:7233"
    """Where the Temporal worker finds its work."""
    temporal_namespace: str = "default"
    """In which namespace."""
    temporal_task_queue: str = "registry-quota"
    """And on which queue."""
    temporal_tls: bool = False
    """Speak TLS to Temporal."""
    temporal_tls_cert: str | None = None
    """PEM file of our certificate, where Temporal knows its clients by one; with the key."""
    temporal_tls_key: str | None = None
    """PEM file of its key."""

    # Accounting
    default_quota_bytes: int = Field(10 * 1024**3, ge=1, le=2**62)
    """Of a workspace that nobody has set."""
    lease_digests: int = Field(100_000, ge=1000, le=1_000_000)
    """Digests that the sources of a workspace may have in use together."""
    workspace_pattern: str = r"^(?P<workspace>[^/]+)/(?P<app>.+)$"
    """How a repository's name is read; what does not match belongs to workspace `_`."""
    ignored_pull_agents: Annotated[tuple[str, ...], NoDecode] = ()
    """User agents whose pulls do not count for `keep_pulled_days`: globs by commas, such as `trivy/*`."""

    history_days: int = Field(400, ge=1, le=36_500)
    """Days that it is remembered how usage went: to the minute for a week, then to the hour."""
    events_days: int = Field(90, ge=1, le=36_500)
    """Days that published quota events are kept beside the topic, for `GET …/events`."""

    clock_skew: int = Field(300, ge=10, le=86_400)
    """Seconds that a registry's clock may be ahead: a stamp that was further ahead of its arrival counts
    as its arrival, and the registry is asked."""

    # Reconciliation
    reconcile_interval: float = Field(6 * 3600, ge=0)
    """Seconds between two passes in the background; 0: none."""
    reconcile_concurrency: int = Field(16, ge=1, le=256)
    """Requests to the registry at a time during a pass."""

    # Metrics
    metrics_workspaces: int = Field(50, ge=0, le=1000)
    """How many workspaces, the fullest, have series of their own, beside all that exceed their quota; 0: none."""

    # Life cycle
    stall_seconds: float = Field(120, ge=0)
    """A process ends when work waits and nothing moves for so long; 0: never."""

    # Consumer
    consumer_metrics_port: int = Field(0, ge=0, le=65535)
    """Where the consumer answers `/metrics`; 0: a free port that its log names."""
    batch_max_events: int = Field(2000, ge=1, le=50_000)
    """Events that one transaction takes at most."""
    dead_letter_ceiling: int = Field(1000, ge=0)
    """By how many events more may fail than pass before the consumer stops taking any; 0: no end."""

    # Logs
    log_level: str = Field("info", pattern="^(?i:debug|info|warning|error)$")
    """`debug`, `info`, `warning` or `error`."""
    log_format: str = Field("auto", pattern="^(auto|json|console)$")
    """`json`, `console`, or `auto`: JSON unless on a terminal."""

    @field_validator("workspace_pattern")
    @classmethod
    def _pattern_has_groups(cls, value: str) -> str:
        try:
            groups = re.compile(value).groupindex
        except re.error as error:
            raise ValueError(f"is not a regular expression: {error}") from error
        if not {"workspace", "app"} <= groups.keys():
            raise ValueError("needs the named groups (?P<workspace>…) and (?P<app>…)")
        return value

    @field_validator("proxy_addresses")
    @classmethod
    def _networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for part in value:
            try:
                ipaddress.ip_network(part, strict=False)
            except ValueError as error:
                raise ValueError(f"{part!r} is no address or network such as 10.0.0.0/8") from error
        return value

    @field_validator("cors_origins")
    @classmethod
    def _origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for part in value:
            if not re.fullmatch(r"https?://[^/\s*]+", part):
                raise ValueError(f"{part!r} is no origin such as https://dashboard.example.com")
        return value

    @field_validator(
        "tls_cert",
        "tls_key",
        "ca_file",
        "kafka_ssl_cafile",
        "kafka_ssl_certfile",
        "kafka_ssl_keyfile",
        "temporal_tls_cert",
        "temporal_tls_key",
        mode="before",
    )
    @classmethod
    def _no_file(cls, value: object) -> object:
        return None if isinstance(value, str) and not value.strip() else value

    @field_validator(
        "registry_token_hosts",
        "registry_redirect_hosts",
        "proxy_addresses",
        "cors_origins",
        "ignored_pull_agents",
        mode="before",
    )
    @classmethod
    def _split_hosts(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @classmethod
    def load(cls) -> Self:
        """Read the environment, then the files of `RQ_SECRETS_DIR`: one a setting, called like it.

        Raises SettingsError with a line for each wrong setting.
        """
        folder = os.environ.get("RQ_SECRETS_DIR") or None
        if folder is not None and not Path(folder).is_dir():
            raise SettingsError(
                f"RQ_SECRETS_DIR={folder} is not a folder; mount the secrets there, or unset it"
            )
        try:
            return cls(_secrets_dir=folder)
        except ValidationError as error:
            lines = [
                f"{_variable(item['loc'])}: {item['msg']} (got {item['input']!r})"
                for item in error.errors()
            ]
            raise SettingsError("; ".join(lines)) from error

    def required_database_url(self) -> str:
        """The Postgres URL as asyncpg takes it. Raises SettingsError when unset or not a URL."""
        url = _secret(
            self.database_url,
            "RQ_DATABASE_URL",
            "postgresql://user:password@host:5432/registry_quota",
        )
        for driver in ("postgresql+asyncpg://", "postgres://"):
            if url.startswith(driver):
                url = "postgresql://" + url.removeprefix(driver)
        if urlsplit(url).scheme != "postgresql":
            raise SettingsError("RQ_DATABASE_URL must start with postgresql://")
        return self._with_authority(url)

    def _with_authority(self, url: str) -> str:
        """A database's certificate that has to be verified is verified by `RQ_CA_FILE`, too."""
        parts = urlsplit(url)
        given = dict(parse_qsl(parts.query))
        if (
            self.ca_file is None
            or given.get("sslmode") not in ("verify-ca", "verify-full")
            or "sslrootcert" in given
            or os.environ.get("PGSSLROOTCERT")
        ):
            return url
        query = f"{parts.query}&{urlencode({'sslrootcert': self.ca_file})}"
        return urlunsplit(parts._replace(query=query))

    def required_webhook_tokens(self) -> dict[str, str]:
        """Token → registry id, from `RQ_WEBHOOK_TOKENS` (`TOKEN` or `NAME=TOKEN`, by commas or spaces).

        Raises SettingsError when none is set, one is empty, or one stands for two registries.
        """
        text = _secret(
            self.webhook_tokens,
            "RQ_WEBHOOK_TOKENS",
            "a long random text, e.g. `openssl rand -hex 24`",
        )
        tokens: dict[str, str] = {}
        for part in re.split(r"[,\s]+", text.strip()):
            name, separator, token = part.partition("=")
            # A base64 token may end in "=": only a registry's name before it makes it NAME=TOKEN.
            if not separator or not token.strip("=") or not REGISTRY_NAME.match(name):
                if separator and not token:
                    raise SettingsError(f"RQ_WEBHOOK_TOKENS: {name}= has no token behind it")
                name, token = DEFAULT_REGISTRY, part
            if not token:
                raise SettingsError(
                    "RQ_WEBHOOK_TOKENS: an empty token would open the door; remove the extra comma"
                )
            if tokens.setdefault(token, name) != name:
                raise SettingsError(
                    "RQ_WEBHOOK_TOKENS: one token stands for two registries; give each its own"
                )
        return tokens

    def required_api_tokens(self) -> tuple[str, ...]:
        """The operator's API tokens (all scopes), several while they are exchanged, by commas or spaces.

        Raises SettingsError when none is set or one is empty.
        """
        return _secrets(
            self.api_token, "RQ_API_TOKEN", "a long random text, e.g. `openssl rand -hex 24`"
        )

    def required_api_token(self) -> str:
        """The token that our own calls carry: the first. Raises SettingsError when unset or empty."""
        return self.required_api_tokens()[0]

    def required_internal_api_keys(self) -> tuple[str, ...]:
        """The keys of the internal API, several while they are exchanged. Raises SettingsError."""
        return _secrets(self.internal_api_key, "RQ_INTERNAL_API_KEY", "a long random text")

    def proxy_networks(self) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
        """Where a proxy that signs people in may speak from."""
        return tuple(ipaddress.ip_network(part, strict=False) for part in self.proxy_addresses)

    def required_worker_token(self) -> str:
        """What the Temporal worker calls with: an API token, else the internal key. SettingsError."""
        if self.api_token is not None:
            return self.required_api_token()
        return self.required_internal_api_keys()[0]

    def api_address(self) -> str:
        """The API's base address: `RQ_API_URL`, else where this machine's would listen."""
        scheme = "http" if self.tls_cert is None else "https"
        host = f"[{self.host}]" if ":" in self.host else self.host
        address = self.api_url or f"{scheme}://{host}:{self.api_port}"
        return address if "://" in address else f"http://{address}"

    def grpc_address(self) -> tuple[str, bool]:
        """`host:port` of the gRPC door, and whether it is spoken to by TLS."""
        scheme, separator, target = (self.grpc_target or "").partition("://")
        if self.grpc_target:
            if separator and scheme not in ("http", "https"):
                raise SettingsError(
                    "RQ_GRPC_TARGET must be host:port, or https://host:port for TLS"
                )
            return (target if separator else self.grpc_target).rstrip("/"), scheme == "https"
        api = urlsplit(self.api_address())
        host = api.hostname or self.host
        address = f"[{host}]:{self.grpc_port}" if ":" in host else f"{host}:{self.grpc_port}"
        return address, api.scheme == "https"

    def required_registry_url(self) -> str:
        """The registry's base URL or host. Raises SettingsError when unset."""
        if not (self.registry_url or "").strip():
            raise SettingsError(
                "RQ_REGISTRY_URL is not set; set it to the registry's address, e.g. http://127.0.0.1:5000"
            )
        return str(self.registry_url).strip()


def _secret(value: SecretStr | None, name: str, example: str) -> str:
    text = value.get_secret_value() if value is not None else ""
    if not text.strip():
        raise SettingsError(f"{name} is not set (or empty); set it to {example}")
    return text.strip()


def _secrets(value: SecretStr | None, name: str, example: str) -> tuple[str, ...]:
    """One or several, by commas or spaces."""
    parts = tuple(re.split(r"[,\s]+", _secret(value, name, example)))
    if "" in parts:
        raise SettingsError(f"{name}: an empty one would open the door; remove the extra comma")
    return parts


def _variable(location: tuple[int | str, ...]) -> str:
    name = str(location[0]) if location else "?"
    return name if name.isupper() else f"RQ_{name.upper()}"
