"""Settings that come as files, one a setting: what engines and clusters mount."""

import pytest

from runtime.settings import Settings, SettingsError


def test_a_file_is_the_setting_of_its_name(tmp_path, monkeypatch):
    (tmp_path / "RQ_API_TOKEN").write_text("from-the-file\n")
    (tmp_path / "RQ_INTERNAL_API_KEY").write_text("key")
    (tmp_path / "POSTGRES_PASSWORD").write_text("somebody else's")
    monkeypatch.setenv("RQ_SECRETS_DIR", str(tmp_path))
    settings = Settings.load()
    assert settings.required_api_token() == "from-the-file"
    assert settings.required_internal_api_keys() == ("key",)


def test_a_variable_comes_before_the_file(tmp_path, monkeypatch):
    (tmp_path / "RQ_API_TOKEN").write_text("from-the-file")
    monkeypatch.setenv("RQ_SECRETS_DIR", str(tmp_path))
    monkeypatch.setenv("RQ_API_TOKEN", "from-the-variable")
    assert Settings.load().required_api_token() == "from-the-variable"


def test_an_empty_file_opens_no_door(tmp_path, monkeypatch):
    (tmp_path / "RQ_API_TOKEN").write_text("")
    monkeypatch.setenv("RQ_SECRETS_DIR", str(tmp_path))
    with pytest.raises(SettingsError, match="RQ_API_TOKEN"):
        Settings.load().required_api_token()


def test_a_folder_that_is_not_there_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("RQ_SECRETS_DIR", str(tmp_path / "absent"))
    with pytest.raises(SettingsError, match=r"RQ_SECRETS_DIR=.*absent is not a folder"):
        Settings.load()


def test_secrets_are_read_where_kubernetes_mounts_them(tmp_path, monkeypatch):
    (tmp_path / "..2026_11_25").mkdir()
    (tmp_path / "..2026_11_25" / "RQ_API_TOKEN").write_text("a-token-of-the-cluster")
    (tmp_path / "..data").symlink_to("..2026_11_25")
    (tmp_path / "RQ_API_TOKEN").symlink_to("..data/RQ_API_TOKEN")
    monkeypatch.delenv("RQ_API_TOKEN", raising=False)
    monkeypatch.setenv("RQ_SECRETS_DIR", str(tmp_path))
    assert Settings.load().required_api_tokens() == ("a-token-of-the-cluster",)
