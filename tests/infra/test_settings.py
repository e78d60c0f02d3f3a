"""The environment."""

from pathlib import Path

import pytest

from infra.errors import ConfigurationError
from infra.settings import read_settings


def test_variables_set_places_and_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANIME_GENRE_BUCKET", "my-bucket")
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:1")
    settings = read_settings()
    assert (settings.bucket, settings.storage_emulator_host) == ("my-bucket", "http://127.0.0.1:1")


def test_without_a_tracking_server_mlflow_is_a_sqlite_file_in_the_workspace(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("ANIME_GENRE_WORKSPACE", str(tmp_path))
    assert read_settings().tracking_uri == f"sqlite:///{tmp_path}/mlflow.db"


def test_a_value_that_cannot_be_used_names_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANIME_GENRE_SERVICE_TIMEOUT_SECONDS", "soon")
    with pytest.raises(ConfigurationError, match="ANIME_GENRE_SERVICE_TIMEOUT_SECONDS"):
        read_settings()
