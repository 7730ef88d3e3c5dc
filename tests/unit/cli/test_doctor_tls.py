"""Files for TLS that cannot be used are named before any connection is tried."""

from cli.doctor import tls
from runtime.settings import Settings
from tests.support.certificates import Authority


def test_without_any_there_is_nothing_to_say():
    assert tls.check(Settings()) == []


def test_files_that_are_fine_are_told(tmp_path):
    authority = Authority(tmp_path)
    pair = authority.issue()
    (finding,) = tls.check(
        Settings(tls_cert=str(pair.certificate), tls_key=str(pair.key), ca_file=str(authority.file))
    )
    assert finding.state == "ok"
    assert str(authority.file) in finding.found


def test_each_that_is_not_is_named_with_what_mends_it(tmp_path):
    absent = str(tmp_path / "absent")
    findings = tls.check(
        Settings(
            tls_cert=absent,
            ca_file=absent,
            kafka_security_protocol="SASL_PLAINTEXT",
            kafka_sasl_username="quota",
        )
    )
    assert [finding.state for finding in findings] == ["failed"] * 3
    assert "RQ_TLS_CERT and RQ_TLS_KEY" in findings[0].found
    assert "RQ_CA_FILE" in findings[1].found
    assert "RQ_KAFKA_SASL_PASSWORD" in findings[2].mend
    # One file, however many connections need it.
    (finding,) = tls.check(Settings(ca_file=absent, kafka_security_protocol="SSL"))
    assert "RQ_CA_FILE" in finding.found
