"""What is said about TLS before any connection is tried."""

import ssl

import pytest
from pydantic import SecretStr

from runtime.kafka import connection_options
from runtime.settings import Settings, SettingsError
from runtime.tls import advice, authorities, client_context, door_certificate
from tests.support.certificates import Authority


def test_doors_speak_plain_without_a_certificate_and_an_empty_one_is_none():
    assert door_certificate(Settings()) is None
    assert door_certificate(Settings(tls_cert="", tls_key=" ")) is None


def test_half_of_a_pair_is_refused(tmp_path):
    pair = Authority(tmp_path).issue()
    for half in (Settings(tls_cert=str(pair.certificate)), Settings(tls_key=str(pair.key))):
        with pytest.raises(SettingsError, match="RQ_TLS_CERT and RQ_TLS_KEY belong together"):
            door_certificate(half)


def test_files_that_are_no_pair_are_refused_by_name(tmp_path):
    authority = Authority(tmp_path)
    one, other = authority.issue(), authority.issue()
    absent = str(tmp_path / "absent.pem")
    for certificate, key in (
        (one.certificate, other.key),
        (absent, one.key),
        (one.certificate, absent),
        (one.key, one.certificate),
    ):
        with pytest.raises(SettingsError, match=f"RQ_TLS_CERT={certificate} and RQ_TLS_KEY={key}"):
            door_certificate(Settings(tls_cert=str(certificate), tls_key=str(key)))


def test_no_context_takes_less_than_tls_1_2_or_leaves_anything_unverified(tmp_path):
    authority = Authority(tmp_path)
    pair = authority.issue()
    door = door_certificate(Settings(tls_cert=str(pair.certificate), tls_key=str(pair.key)))
    assert door is not None
    assert door.server_context().minimum_version == ssl.TLSVersion.TLSv1_2
    own = str(authority.file)
    for context in (
        client_context(Settings()),
        client_context(Settings(ca_file=own)),
        connection_options(Settings(kafka_security_protocol="SSL"))["ssl_context"],
        connection_options(Settings(kafka_security_protocol="SSL", kafka_ssl_cafile=own))[
            "ssl_context"
        ],
    ):
        assert context.minimum_version == ssl.TLSVersion.TLSv1_2
        assert context.check_hostname
        assert context.verify_mode == ssl.CERT_REQUIRED


@pytest.mark.parametrize("content", [None, b"", b"no certificate"])
def test_an_authority_that_is_none_is_refused_by_the_name_of_its_setting(tmp_path, content):
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_bytes(content)
    for ask in (client_context, authorities):
        with pytest.raises(SettingsError, match=f"RQ_CA_FILE={path}"):
            ask(Settings(ca_file=str(path)))
    with pytest.raises(SettingsError, match=f"RQ_KAFKA_SSL_CAFILE={path}"):
        connection_options(Settings(kafka_security_protocol="SASL_SSL", kafka_ssl_cafile=str(path)))


def test_sasl_without_a_user_is_refused():
    for user, password in ((None, None), ("quota", None), (None, SecretStr("secret"))):
        settings = Settings(
            kafka_security_protocol="SASL_PLAINTEXT",
            kafka_sasl_username=user,
            kafka_sasl_password=password,
        )
        with pytest.raises(SettingsError, match="RQ_KAFKA_SASL_USERNAME"):
            connection_options(settings)


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("postgresql://u@h/d?sslmode=verify-full", True),
        ("postgresql://u@h/d?sslmode=verify-ca&application_name=x", True),
        ("postgresql://u@h/d", False),
        ("postgresql://u@h/d?sslmode=require", False),
        ("postgresql://u@h/d?sslmode=verify-full&sslrootcert=/other.pem", False),
    ],
)
def test_the_database_is_verified_by_our_authority_unless_it_names_its_own(monkeypatch, url, told):
    monkeypatch.delenv("PGSSLROOTCERT", raising=False)
    asked = Settings(database_url=url, ca_file="/etc/ca & more.pem").required_database_url()
    assert asked == url + ("&sslrootcert=%2Fetc%2Fca+%26+more.pem" if told else "")
    assert Settings(database_url=url).required_database_url() == url


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, ("127.0.0.1:9090", False)),
        ({"api_url": "https://quota.example.com"}, ("quota.example.com:9090", True)),
        ({"api_url": "http://[::1]:81"}, ("[::1]:9090", False)),
        ({"tls_cert": "x"}, ("127.0.0.1:9090", True)),
        ({"grpc_target": "h:1", "api_url": "https://h"}, ("h:1", False)),
        ({"grpc_target": "https://h:1/"}, ("h:1", True)),
        ({"grpc_target": "http://h:1", "api_url": "https://h"}, ("h:1", False)),
    ],
)
def test_grpc_is_spoken_to_as_the_api_is_unless_its_target_says_otherwise(settings, expected):
    assert Settings(**settings).grpc_address() == expected


def test_another_scheme_of_the_grpc_target_is_refused():
    with pytest.raises(SettingsError, match="RQ_GRPC_TARGET"):
        Settings(grpc_target="ftp://h:1").grpc_address()


def test_what_is_no_failure_of_tls_gets_no_advice():
    assert advice(None) is None
    assert advice(OSError("gone")) is None
    circle = ValueError("a")
    circle.__cause__ = circle
    assert advice(circle) is None
