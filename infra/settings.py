"""Settings from environment variables: the locations of the workspace, the bucket and the services.

Each variable starts with ANIME_GENRE_ (`ANIME_GENRE_BUCKET=my-bucket`), except STORAGE_EMULATOR_HOST and
MLFLOW_TRACKING_URI, whose names are those of Google's and MLflow's own clients. If no address is set, the
services are those of Google Cloud.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlsplit

from pydantic import AliasChoices, Field, PrivateAttr, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from infra.errors import ConfigurationError

_PREFIX = "ANIME_GENRE_"
_MEND = "Correct or unset it."
_HTTP_ADDRESS = r"^(https?://[^\s@]+)?$"
_ACCOUNT = r"^[^\s@]+@[^\s@]+$"
_BUCKET = r"^[a-z0-9][-_.a-z0-9]{1,220}[a-z0-9]$"
_PROJECT = r"^([a-z0-9.-]+:)?[a-z][a-z0-9-]{4,28}[a-z0-9]$"  # some begin with the organisation's domain
_REGION = r"^[a-z]+-[a-z]+[0-9]+$"

# The collection of the site. Its keys have no prefix, because they are older than collections.
MAIN_COLLECTION = "myanimelist"
BUILT_IN_COLLECTION = "built-in"


class Settings(BaseSettings):
    """The addresses and names that a run uses. Only these differ between a laptop and Google Cloud."""

    model_config = SettingsConfigDict(env_prefix=_PREFIX, populate_by_name=True, frozen=True)

    workspace: Path = Field(Path("workspace/live"), description="Folder for all files kept on this machine.")
    cloud: Literal["local", "google"] = Field(
        "local", description="Where the bucket, the builds and the function are: on this machine or on Google Cloud."
    )
    contact: str | None = Field(
        None,
        pattern=r"^[^\s@()]+@[^\s@()]+$|^https?://[^\s()@]+$",
        description="Your e-mail address or the address of a page of yours. It is sent to the sites that are read. "
        "Required, except for sites on this machine.",
    )
    bucket: str = Field(
        "anime-genre", pattern=_BUCKET, description="Bucket for catalogues, posters, datasets and bundles."
    )
    google_project: str = Field(
        "anime-genre", pattern=_PROJECT, description="Google Cloud project of the bucket and the function."
    )
    google_region: str = Field("europe-west1", pattern=_REGION, description="Region of the function.")
    service: str = Field("anime-genre", description="Name of the Cloud Run function.")
    poster_hosts: str = Field(
        "cdn.myanimelist.net",
        description="Comma-separated hosts from which the function accepts https:// posters.",
    )
    poster_buckets: str = Field(
        "",
        description="Comma-separated buckets, besides its own, from which the function accepts posters.",
    )
    cors_origins: str = Field(
        "",
        description="Comma-separated origins of other pages that may call the function; * allows all. On Google Cloud "
        "only for a public function.",
    )
    function_cpu: str = Field(
        "1", pattern=r"^[1248]$", description="CPUs of one instance of the function, as in Cloud Run."
    )
    function_memory: str = Field(
        "1Gi", pattern=r"^[0-9]+(Mi|Gi)$", description="Memory of one instance of the function, as in Cloud Run."
    )
    function_service_account: str | None = Field(
        None,
        pattern=_ACCOUNT,
        description="E-mail address of the service account that the function runs as. If not set, Google's default is "
        "used.",
    )
    build_service_account: str | None = Field(
        None,
        pattern=_ACCOUNT,
        description="E-mail address of the service account that builds the function. If not set, Google's default is "
        "used.",
    )
    caller_service_account: str | None = Field(
        None,
        pattern=_ACCOUNT,
        description="E-mail address of the service account that calls the function, if your own credentials are those "
        "of a person or a workload identity. They must be allowed to act for it.",
    )
    model_name: str = Field("anime-genre", description="Name of the registered model in MLflow.")
    cloud_run_endpoint: str | None = Field(
        None,
        pattern=_HTTP_ADDRESS,
        description="Address of a Cloud Run stand-in. If not set, Google Cloud Run is used.",
    )
    cloud_run_token: SecretStr | None = Field(
        None,
        description="Bearer token of the Cloud Run stand-in, which `anime-genre up` draws at each start. It is neither "
        "shown nor logged.",
    )
    storage_emulator_host: str | None = Field(
        None,
        pattern=_HTTP_ADDRESS,
        validation_alias=AliasChoices("STORAGE_EMULATOR_HOST", "storage_emulator_host"),
        description="Address of a storage emulator. If not set, Google Cloud Storage is used.",
    )
    mlflow_tracking_uri: str | None = Field(
        None,
        validation_alias=AliasChoices("MLFLOW_TRACKING_URI", "mlflow_tracking_uri"),
        description="Address of the MLflow server. If not set, MLflow uses mlflow.db in the workspace.",
    )
    dask: str | None = Field(
        None,
        pattern=r"^((tcp|tls)://[^\s/@]+)?$",
        description="Address of a Dask scheduler, whose workers compute features and predictions. If not set, this "
        "machine computes them. Beyond this machine, the address must begin with tls://.",
    )
    mal_client_id: SecretStr | None = Field(
        None,
        validation_alias=AliasChoices("MAL_CLIENT_ID", "mal_client_id"),
        description="Your client id for MyAnimeList's API, from https://myanimelist.net/apiconfig. Required for "
        "--source api. It is sent to the API only, and neither shown nor stored.",
    )
    service_timeout_seconds: float = Field(
        60, gt=0, description="How long a call to a service is tried before the step fails and is retried."
    )
    retry_delay_seconds: list[float] = Field(
        [10, 60, 300],
        description="Seconds before each retry of a failed step, as a JSON list. Its length is the number of retries.",
    )
    page_url: str | None = Field(
        None, description="Address of the page, for the link in the summary of a run. `anime-genre up` sets it."
    )
    notify_url: SecretStr | None = Field(
        None,
        description="Webhook, such as one of Slack, that gets a message about each failed run, promotion and rollback. "
        "It is neither shown nor logged.",
    )
    ping_url: SecretStr | None = Field(
        None,
        description="Address that is called after each successful run, for a service that notices when the calls stop. "
        "It is neither shown nor logged.",
    )
    title_noun: str = Field("anime", min_length=1, description="The page's word for what a poster shows, such as film.")
    label_noun: str = Field("genre", min_length=1, description="The page's word for what is predicted, such as topic.")
    _collection: str = PrivateAttr(MAIN_COLLECTION)

    @property
    def collection(self) -> str:
        """The collection that a run reads and writes (see `read_settings`)."""
        return self._collection

    @property
    def prefix(self) -> str:
        """The prefix of the collection's keys in the bucket; empty for the site's collection."""
        return "" if self._collection == MAIN_COLLECTION else f"collections/{self._collection}/"

    @property
    def folder(self) -> Path:
        """The collection's folder in the workspace."""
        return self.workspace / self.prefix

    @field_validator("mal_client_id")
    @classmethod
    def _is_sendable(cls, secret: SecretStr | None) -> SecretStr | None:
        """Strip white space from the client id; None if it is empty."""
        value = secret.get_secret_value().strip() if secret else ""
        if not re.fullmatch(r"[!-~]*", value):
            raise ValueError("a client id has only ASCII letters, digits and punctuation")
        return SecretStr(value) if value else None

    @field_validator("notify_url", "ping_url")
    @classmethod
    def _is_address(cls, secret: SecretStr | None) -> SecretStr | None:
        """None if the address is empty."""
        value = secret.get_secret_value() if secret else ""
        if value and not re.fullmatch(r"https?://[^\s/]\S*", value):
            raise ValueError("an address starts with http:// or https://")
        return secret if value else None

    @property
    def tracking_uri(self) -> str:
        """The address of MLflow: `mlflow_tracking_uri` if it is set, otherwise a sqlite file in the workspace.

        It has no user name and password, because it stands in links and messages (see `tracking_credentials`).
        """
        uri = self.mlflow_tracking_uri or f"sqlite:///{(self.workspace / 'mlflow.db').absolute()}"
        return without_user(uri) if uri.startswith("http") else uri

    @property
    def tracking_credentials(self) -> Mapping[str, str]:
        """The environment variables of MLflow's client for the user name and password of `mlflow_tracking_uri`."""
        user, password = user_and_password(self.mlflow_tracking_uri or "")
        return {"MLFLOW_TRACKING_USERNAME": user, "MLFLOW_TRACKING_PASSWORD": password} if user else {}


def without_user(address: str) -> str:
    """An address without its user name and password."""
    parts = urlsplit(address)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def user_and_password(address: str) -> tuple[str, str]:
    """The user name and the password of an address; empty if it has none."""
    user, _, password = urlsplit(address).netloc.rpartition("@")[0].partition(":")
    return unquote(user), unquote(password)


def environment_variable(field: str) -> str:
    """The name of the environment variable that sets a field of `Settings`."""
    alias = Settings.model_fields[field].validation_alias
    return str(alias.choices[0]) if isinstance(alias, AliasChoices) else f"{_PREFIX}{field.upper()}"


def check_cloud(settings: Settings) -> None:
    """Check that Google Cloud is used only if a person chose it, and then with a project and a bucket of theirs.

    Raises:
        ConfigurationError: the message names the variable to set.
    """
    fields = ("google_project", "bucket")
    given = [environment_variable(field) for field in fields if field in settings.model_fields_set]
    missing = [environment_variable(field) for field in fields if field not in settings.model_fields_set]
    cloud = f"{environment_variable('cloud')}=google"
    if settings.cloud == "google":
        if missing:
            raise ConfigurationError(f"Set {' and '.join(missing)}: with {cloud} they have no default.")
    elif given and not (settings.cloud_run_endpoint or settings.storage_emulator_host):
        raise ConfigurationError(
            f"{given[0]} is set, but {cloud} is not. Set this too to use Google Cloud, or unset the former."
        )


def check_google(settings: Settings) -> None:
    """Check that a client of Google Cloud may be made.

    Raises:
        ConfigurationError: Google Cloud is not chosen, or see `check_cloud`.
    """
    check_cloud(settings)
    if settings.cloud != "google":
        raise ConfigurationError(
            f"No bucket and no function are chosen. Set {environment_variable('cloud')}=google to use Google Cloud, or "
            "start local ones with `anime-genre up`."
        )


def read_settings(collection: str = MAIN_COLLECTION) -> Settings:
    """Read the settings from the environment, as they apply to a collection.

    Other collections than the site's have their own service and registered model, unless the environment sets these.

    Raises:
        ConfigurationError: a variable has an invalid value.
    """
    try:
        settings = Settings()
    except SettingsError as error:  # a value that is not JSON; only the error's text names the field
        field = re.findall(r'field "(\w+)"', str(error))[0]
        raise ConfigurationError(
            f"The environment variable {environment_variable(field)} is not valid JSON. {_MEND}"
        ) from None
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])  # the field, or its alias
        variable = environment_variable(name) if name in Settings.model_fields else name
        raise ConfigurationError(f"The environment variable {variable} is invalid: {first['msg']}. {_MEND}") from None
    if collection == MAIN_COLLECTION:
        return settings
    names = {name: f"{getattr(settings, name)}-{collection}" for name in ("service", "model_name")}
    given = settings.model_fields_set
    settings = settings.model_copy(update={name: value for name, value in names.items() if name not in given})
    settings._collection = collection
    return settings
