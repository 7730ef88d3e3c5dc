"""The client of the configured registry, from the settings."""

from registry.client import USER_AGENT, RegistryClient
from registry.transport import Retries
from runtime.settings import Settings
from runtime.tls import client_context


def registry_client(
    settings: Settings,
    *,
    concurrency: int | None = None,
    retries: Retries | None = None,
    user_agent: str = USER_AGENT,
) -> RegistryClient:
    """A client to use as an async context manager. Raises SettingsError and BadRegistryUrl.

    `concurrency`: requests open at a time, for work with a limit of its own; `retries`: its patience;
    `user_agent`: for a caller that wants to know its own requests again.
    """
    password = settings.registry_password
    return RegistryClient(
        settings.required_registry_url(),
        username=settings.registry_username,
        password=password.get_secret_value() if password is not None else None,
        token_hosts=frozenset(settings.registry_token_hosts),
        redirect_hosts=frozenset(settings.registry_redirect_hosts),
        concurrency=concurrency or settings.registry_concurrency,
        retries=retries,
        tls=client_context(settings),
        user_agent=user_agent,
    )
