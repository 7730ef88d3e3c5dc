"""The settings as they are in force, secrets masked, and what is wrong with them. PURE."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from pydantic import SecretStr
from yarl import URL

from cli.doctor.findings import Finding, failed, ok, skipped, warning
from runtime.settings import DEFAULT_REGISTRY, Settings, SettingsError
from runtime.tracing import why_off

_FROM_THE_STACK: Final = frozenset({"RQ_WEBHOOK_URL", "RQ_WEBHOOK_TOKEN"})
"""Variables of `.run/env` that only tell other programs where a stack is."""

_OF_THE_STACK: Final = frozenset(
    {
        "RQ_RUN_DIR",
        "RQ_CACHE_DIR",
        "RQ_KAFKA_PORT",
        "RQ_REGISTRY_PORT",
        "RQ_REGISTRY_BINARY",
        "RQ_EXTERNAL_REGISTRY_URL",
    }
)
"""Variables that only the embedded stack reads."""

_SHORT_SECRET: Final = 16
"""Characters below which a secret can be guessed."""

_REGISTRY_TIMEOUT: Final = 1.0
"""Seconds after which registries usually give a notification up."""


@dataclass(frozen=True, slots=True)
class Shown:
    """A setting for people's eyes. `given` is False for a default."""

    variable: str
    value: str
    given: bool


def shown(settings: Settings) -> list[Shown]:
    """Every setting, in the order of the code, secrets masked."""
    return [
        Shown(f"RQ_{name.upper()}", _masked(getattr(settings, name)), name in given)
        for given in [settings.model_fields_set]
        for name in type(settings).model_fields
    ]


def _masked(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, SecretStr):
        text = value.get_secret_value().strip()
        if not text:
            return ""
        return _without_password(text) if "://" in text else f"{'*' * 8} ({len(text)} characters)"
    if isinstance(value, tuple):
        return ", ".join(str(item) for item in value)
    return _without_password(str(value))


def _without_password(text: str) -> str:
    """A URL may carry a password before its last `@`, and also in its query."""
    text = re.sub(r"(?<=://)([^/?#]*@)", lambda match: _user(match[1]) + "@", text)
    return re.sub(r"(?i)((?:password|sslpassword|token)=)[^&]*", r"\1********", text)


def _user(userinfo: str) -> str:
    user, separator, _password = userinfo.removesuffix("@").partition(":")
    return f"{user}:********" if separator else "********"


def webhook_url(settings: Settings, environ: Mapping[str, str]) -> URL:
    """Where the receiver listens, as far as it is known here: a running stack says it, else the settings."""
    told = environ.get("RQ_WEBHOOK_URL", "").strip()
    if not told and settings.receiver_url:
        return URL(settings.receiver_url) / "v1" / "notifications"
    host = "127.0.0.1" if settings.host in ("0.0.0.0", "::") else settings.host  # noqa: S104
    return (
        URL(told)
        if told
        else URL.build(
            scheme="http" if settings.tls_cert is None else "https",
            host=host,
            port=settings.receiver_port,
            path="/v1/notifications",
        )
    )


def webhook_token(settings: Settings, environ: Mapping[str, str]) -> str:
    """A token that the receiver takes. Raises SettingsError when none is known here."""
    return next(iter(webhook_tokens(settings, environ)))


def webhook_tokens(settings: Settings, environ: Mapping[str, str]) -> dict[str, str]:
    """Every token that is known here → its registry: each should be taken. Raises SettingsError."""
    if settings.webhook_tokens is None and (told := environ.get("RQ_WEBHOOK_TOKEN", "").strip()):
        return {told: DEFAULT_REGISTRY}
    return dict(settings.required_webhook_tokens())


def of_another_role(settings: Settings, environ: Mapping[str, str]) -> bool:
    """Whether the webhook's tokens are not meant to be here: each role's container has its own secrets."""
    told = environ.get("RQ_WEBHOOK_TOKEN", "").strip()
    return bool(environ.get("RQ_SECRETS_DIR")) and settings.webhook_tokens is None and not told


def registries(settings: Settings) -> set[str]:
    """Names that RQ_WEBHOOK_TOKENS has; none where it is not known here."""
    if settings.webhook_tokens is None:
        return set()
    try:
        return set(settings.required_webhook_tokens().values())
    except SettingsError:
        return set()  # said elsewhere


def check(settings: Settings, environ: Mapping[str, str], *, library: bool = True) -> list[Finding]:
    """Secrets, names that no setting has, and settings that do not fit together.

    `library`: whether what sends traces is installed.
    """
    return [
        *_secrets(settings, environ),
        *_unknown(environ),
        *_ack_timeout(settings),
        *_traces(environ, library=library),
    ]


def _secrets(settings: Settings, environ: Mapping[str, str]) -> list[Finding]:
    required: dict[str, Callable[[], tuple[str, ...]]] = {
        "RQ_WEBHOOK_TOKENS": lambda: (webhook_token(settings, environ),),
        "RQ_API_TOKEN": settings.required_api_tokens,
        "RQ_INTERNAL_API_KEY": settings.required_internal_api_keys,
        "RQ_DATABASE_URL": lambda: (settings.required_database_url(),),
    }
    values: dict[str, tuple[str, ...]] = {}
    findings: list[Finding] = []
    for name, read in required.items():
        if name == "RQ_WEBHOOK_TOKENS" and of_another_role(settings, environ):
            findings.append(
                skipped("secrets", f"{name}: the receiver alone has them, and the registry")
            )
            continue
        try:
            values[name] = read()
        except SettingsError as error:
            what, _, mend = str(error).partition("; ")
            findings.append(failed("secrets", what, mend or f"correct {name}"))
    values.pop("RQ_DATABASE_URL", None)
    make = "make one with `openssl rand -hex 24`"
    findings += [
        warning("secrets", f"{name} has only {len(value)} characters", make)
        for name, secrets in values.items()
        for value in secrets
        if len(value) < _SHORT_SECRET
    ]
    if len({value for secrets in values.values() for value in set(secrets)}) < sum(
        len(set(secrets)) for secrets in values.values()
    ):
        # The webhook's token stands in the registry's configuration, and v2.8 prints it into its log.
        found = "one text serves as two secrets: whoever may notify may also read and delete"
        findings.append(warning("secrets", found, make))
    return findings or [ok("secrets", "all are set")]


def _unknown(environ: Mapping[str, str]) -> list[Finding]:
    known = {f"RQ_{name.upper()}" for name in Settings.model_fields}
    known |= _FROM_THE_STACK | _OF_THE_STACK | {"RQ_SECRETS_DIR"}
    names = sorted(
        name
        for name in environ
        if name.startswith("RQ_") and name not in known and not name.startswith("RQ_TEST_")
    )
    if not names:
        return []
    mend = "nothing reads them: correct the spelling (`registry-quota doctor --settings` has all that there are), or unset them"
    return [warning("settings", f"not a setting: {', '.join(names)}", mend)]


def _traces(environ: Mapping[str, str], *, library: bool) -> list[Finding]:
    reason = why_off(environ)
    if reason == "":
        return []  # nobody asked for them
    if reason is not None:
        mend = "docs/traces.md says what is understood"
        return [warning("traces", f"none are sent: {reason}", mend)]
    if not library:
        mend = "pip install 'registry-quota[otel]'"
        return [warning("traces", "none are sent: the library is not installed", mend)]
    return [ok("traces", "are sent where OTEL_EXPORTER_OTLP_ENDPOINT says")]


def _ack_timeout(settings: Settings) -> list[Finding]:
    if settings.ack_timeout < _REGISTRY_TIMEOUT:
        return []
    return [
        warning(
            "settings",
            f"RQ_ACK_TIMEOUT is {settings.ack_timeout:g} s: a registry with the usual time-out of "
            f"{_REGISTRY_TIMEOUT:g} s hangs up first and sends the event again",
            "set it below the `timeout` of the registry's notification endpoint (default 0.8)",
        )
    ]
