"""TLS: can the files be used that the settings name."""

from collections.abc import Callable

from cli.doctor.findings import Finding, failed, ok
from runtime.kafka import connection_options
from runtime.settings import Settings, SettingsError
from runtime.tls import client_context, door_certificate


def check(settings: Settings) -> list[Finding]:
    """Findings `tls`; none where no file is named. One that failed: no connection is worth trying."""
    tried: tuple[Callable[[Settings], object], ...] = (
        door_certificate,
        client_context,
        connection_options,
    )
    findings: list[Finding] = []
    for read in tried:
        try:
            read(settings)
        except SettingsError as error:
            found, _, mend = str(error).partition("; ")
            told = failed("tls", found, mend or "correct this setting")
            findings += [told] if told not in findings else []
    if findings or (settings.tls_cert is None and settings.ca_file is None):
        return findings
    shown = "our doors have a certificate" if settings.tls_cert else "our doors speak plain"
    trusted = f"{settings.ca_file} is trusted" if settings.ca_file else "the system says who is"
    return [ok("tls", f"{shown}; {trusted}")]
