"""What the environment decides: where the workspace, the bucket and the services are.

Every variable starts with ANIME_GENRE_ (`ANIME_GENRE_BUCKET=my-bucket`), except the two that the tools
themselves name: STORAGE_EMULATOR_HOST and MLFLOW_TRACKING_URI. With none set, everything is Google's.
"""

from pathlib import Path

from pydantic import AliasChoices, Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from infra.errors import ConfigurationError


class Settings(BaseSettings):
    """The places and names that a run uses; moving to Google Cloud changes these and no code."""

    model_config = SettingsConfigDict(env_prefix="ANIME_GENRE_", populate_by_name=True, frozen=True)

    workspace: Path = Field(Path("workspace/live"), description="Folder for everything that is kept on this machine.")
    contact: str | None = Field(
        None,
        pattern=r"^[^\s@()]+@[^\s@()]+$|^https?://[^\s()]+$",
        description="Your e-mail address or a page of yours, told to the sites that are read; only this machine's own "
        "addresses are read without.",
    )
    bucket: str = Field("anime-genre", description="Bucket of catalogue, posters, datasets and bundles.")
    google_project: str = Field("anime-genre", description="Google Cloud project of bucket and function.")
    google_region: str = Field("europe-west1", description="Region the function runs in.")
    service: str = Field("anime-genre", description="Name of the Cloud Run function.")
    poster_hosts: str = Field(
        "cdn.myanimelist.net",
        description="Hosts, with commas between them, whose https:// posters the function may be asked about.",
    )
    poster_buckets: str = Field(
        "",
        description="Buckets besides its own, with commas between them, whose posters the function may be asked about.",
    )
    cors_origins: str = Field(
        "", description="Pages of other origins, with commas between them, that may ask the function; * for all."
    )
    model_name: str = Field("anime-genre", description="Name of the registered model in MLflow.")
    cloud_run_endpoint: str | None = Field(None, description="Address of a Cloud Run stand-in; empty for Google's own.")
    storage_emulator_host: str | None = Field(
        None,
        validation_alias=AliasChoices("STORAGE_EMULATOR_HOST", "storage_emulator_host"),
        description="Address of a storage emulator; empty for Google Cloud Storage.",
    )
    mlflow_tracking_uri: str | None = Field(
        None,
        validation_alias=AliasChoices("MLFLOW_TRACKING_URI", "mlflow_tracking_uri"),
        description="Address of the MLflow server; empty for a sqlite file in the workspace.",
    )
    service_timeout_seconds: float = Field(
        60, gt=0, description="How long a call to a service is tried before the step itself is retried."
    )
    retry_delay_seconds: list[float] = Field(
        [10, 60, 300], description="Waits before a failed step is tried again: as many tries as there are waits."
    )

    @property
    def tracking_uri(self) -> str:
        """MLflow's address: the given one, else a sqlite file in the workspace."""
        return self.mlflow_tracking_uri or f"sqlite:///{(self.workspace / 'mlflow.db').absolute()}"


def read_settings() -> Settings:
    """The settings as the environment gives them.

    Raises:
        ConfigurationError: a variable has a value that cannot be used.
    """
    try:
        return Settings()
    except SettingsError as error:
        raise ConfigurationError(f"The environment is not usable: {error}.") from None
    except ValidationError as error:
        first = error.errors()[0]
        name = "_".join(str(part) for part in first["loc"]).upper()
        raise ConfigurationError(
            f"The environment variable ANIME_GENRE_{name} is not usable: {first['msg']}."
        ) from None
