"""Postgres by TLS: pool, migrations and doctor verify the server's certificate and name."""

import ssl

import pytest

from cli.doctor import postgres as doctor
from migrations.upgrade import upgrade
from runtime.postgres import UNAVAILABLE, open_pool
from runtime.settings import Settings
from runtime.tls import advice
from tests.support.certificates import Authority
from tests.support.database import empty_database
from tests.support.tls_front import postgres_by_tls


def settings(url: str, trusted: Authority) -> Settings:
    return Settings(database_url=f"{url}?sslmode=verify-full", ca_file=str(trusted.file))


async def test_pool_migrations_and_doctor_verify_the_server(tmp_path, postgres_url):
    authority, stranger = Authority(tmp_path / "ours"), Authority(tmp_path / "another")
    async with (
        empty_database(postgres_url) as bare,
        postgres_by_tls(bare, authority.issue()) as url,
        postgres_by_tls(bare, authority.issue("db.example.com")) as misnamed,
        postgres_by_tls(bare, None) as plain,
    ):
        known = settings(url, authority).required_database_url()
        await upgrade(known)
        async with await open_pool(known, size=2, name="test") as pool:
            assert await pool.fetchval("SELECT count(*) FROM workspaces") == 0
        findings = await doctor.check(settings(url, authority))
        assert {finding.state for finding in findings} == {"ok"}, findings

        wrong = settings(url, stranger).required_database_url()
        with pytest.raises(ssl.SSLCertVerificationError):
            await upgrade(wrong)
        with pytest.raises(UNAVAILABLE) as caught:
            await open_pool(wrong, size=2, name="test")
        assert "set RQ_CA_FILE" in (advice(caught.value) or "")

        for asked, found, mend in (
            (settings(url, stranger), "CERTIFICATE_VERIFY_FAILED", "set RQ_CA_FILE"),
            (settings(misnamed, authority), "not valid for '127.0.0.1'", "for another name"),
            (settings(plain, authority), "rejected SSL upgrade", "check RQ_DATABASE_URL"),
        ):
            (finding,) = await doctor.check(asked)
            assert finding.state == "failed"
            assert found in finding.found
            assert mend in finding.mend
