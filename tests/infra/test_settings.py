"""Settings from environment variables."""

from pathlib import Path

import pytest

from infra.errors import ConfigurationError
from infra.settings import read_settings


def test_settings_are_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANIME_GENRE_BUCKET", "my-bucket")
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:1")
    settings = read_settings()
    assert (settings.bucket, settings.storage_emulator_host) == ("my-bucket", "http://127.0.0.1:1")


def test_tracking_uri_defaults_to_sqlite_in_the_workspace(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("ANIME_GENRE_WORKSPACE", str(tmp_path))
    assert read_settings().tracking_uri == f"sqlite:///{tmp_path}/mlflow.db"


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("ANIME_GENRE_SERVICE_TIMEOUT_SECONDS", "soon"),
        ("ANIME_GENRE_RETRY_DELAY_SECONDS", "[1,"),
        ("ANIME_GENRE_RETRY_DELAY_SECONDS", '["soon"]'),
        ("ANIME_GENRE_CONTACT", "nobody"),
        ("ANIME_GENRE_CLOUD_RUN_ENDPOINT", "127.0.0.1:8899"),
        ("STORAGE_EMULATOR_HOST", "127.0.0.1:8898"),
        ("STORAGE_EMULATOR_HOST", "http://me:hidden@127.0.0.1:8898"),
        ("MAL_CLIENT_ID", "two words"),
        ("ANIME_GENRE_NOTIFY_URL", "hooks.example/hidden"),
        ("ANIME_GENRE_PING_URL", "https:///hidden"),
        ("ANIME_GENRE_BUCKET", "gs://my-bucket"),
        ("ANIME_GENRE_GOOGLE_PROJECT", "My project"),
        ("ANIME_GENRE_GOOGLE_REGION", "europe"),
    ],
)
def test_settings_errors_name_the_variable(monkeypatch: pytest.MonkeyPatch, variable: str, value: str) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(
        ConfigurationError, match=rf"^The environment variable {variable} is (invalid:|not valid JSON)"
    ) as caught:
        read_settings()
    assert "hidden" not in str(caught.value)


def test_password_of_the_tracking_server_is_separated_from_its_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:p%40ss@mlflow.example:5000/path")
    settings = read_settings()
    assert settings.tracking_uri == "https://mlflow.example:5000/path"
    assert settings.tracking_credentials == {
        "MLFLOW_TRACKING_USERNAME": "me",
        "MLFLOW_TRACKING_PASSWORD": "p@ss",
    }
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://mlflow.example:5000")
    assert not read_settings().tracking_credentials


@pytest.mark.parametrize("variable", ["ANIME_GENRE_CLOUD_RUN_ENDPOINT", "STORAGE_EMULATOR_HOST", "MLFLOW_TRACKING_URI"])
def test_settings_treat_an_empty_address_as_not_set(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, "")
    settings = read_settings()
    assert not (settings.cloud_run_endpoint or settings.storage_emulator_host or settings.mlflow_tracking_uri)
