"""The parameters of a run. The form in Prefect and the options of the command are generated from them."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue

from infra.errors import ConfigurationError
from infra.settings import MAIN_COLLECTION, read_settings
from ml.configuration import GateConfig, TrainConfig
from ml.training.candidates import CANDIDATES, check_settings
from tasks.catalogue.configuration import CollectConfig, DatasetConfig
from tasks.catalogue.seasons import NAMES, parse_seasons
from tasks.crawl.addresses import check_contact
from tasks.myanimelist.page_addresses import SITE_URL, api_url
from tasks.records import Promotion
from tasks.table.configuration import TableConfig, collection_of

_SEASON = f"([0-9]{{4}}-({'|'.join(NAMES)})|now)"


class _CandidateNames:
    """Adds the names of the candidate networks to the JSON schema of `TrainConfig`."""

    def __get_pydantic_json_schema__(self, core_schema: Any, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        schema = handler(core_schema)
        candidates = handler.resolve_ref_schema(schema)["properties"]["candidates"]
        candidates["items"]["enum"] = list(CANDIDATES)
        candidates["description"] += "".join(f" {name}: {each.description}." for name, each in CANDIDATES.items())
        return schema


class RetrainParameters(BaseModel):
    """One run from the site's pages to the deployed function."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    seasons: str = Field(
        "2015-winter..now",
        title="Seasons",
        pattern=rf"^{_SEASON}(\.\.{_SEASON})?$",
        description="Range of seasons (winter, spring, summer, fall), such as '2015-winter..2019-fall' or "
        "'2015-winter..now'.",
    )
    site_url: str = Field(
        SITE_URL,
        title="Site",
        pattern=r"^https?://[^/\s@]+/?$",
        description="Address of the site to read, without a path.",
    )
    source: Literal["pages", "api"] = Field(
        "pages",
        title="Source",
        description="What to read: the site's pages, or its official API, which needs a client id in MAL_CLIENT_ID.",
    )
    train: Annotated[TrainConfig, _CandidateNames()] = Field(
        TrainConfig(), title="Training", description="How networks are trained and compared."
    )
    preprocess: DatasetConfig = Field(
        DatasetConfig(), title="Dataset", description="What is predicted, and how posters become a dataset."
    )
    collect: CollectConfig = Field(
        CollectConfig(),
        title="Collecting",
        description="How the site is read, and how much a new catalogue may differ from the last good one.",
    )
    table: TableConfig = Field(TableConfig(), title="Table", description="A table of titles to read instead of a site.")
    collection: str | None = Field(
        None,
        title="Collection",
        pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$",
        max_length=37,
        description="Name under which the catalogue, the model and the function are kept: lower-case letters, digits "
        "and hyphens. By default 'myanimelist', or the name of the table.",
    )
    promote: Promotion = Field(
        "by_gate",
        title="Promote",
        description="Whether the new model goes live: 'by_gate' (if it beats the champion), 'always' or 'never'.",
    )
    gate: GateConfig = Field(
        GateConfig(), title="Gate", description="Limits of the comparison with the champion, for 'by_gate'."
    )
    train_on: str | None = Field(
        None,
        title="Train on",
        pattern=r"^train-step/[^/\s]+$",
        description="Deployment that trains on another machine, such as 'train-step/gpu', which `anime-genre "
        "train-worker` registers there. By default, the run itself trains. If ANIME_GENRE_DASK names a Dask scheduler, "
        "its workers compute the backbone's features.",
    )
    crawl: bool = Field(
        True,
        title="Crawl",
        description="Read the site. Otherwise the run starts from what was collected last into the bucket, without a "
        "request to the site.",
    )

    @property
    def collection_name(self) -> str:
        """The collection of the run."""
        return self.collection or (collection_of(self.table.name) if self.table.catalogue else MAIN_COLLECTION)

    @property
    def selection(self) -> str:
        """What is read: a range of seasons, or the table by its name."""
        return self.table.name if self.table.catalogue else self.seasons

    @property
    def source_url(self) -> str:
        """The address that is read: that of the table, of the site or of its API."""
        if self.table.catalogue:
            return self.table.catalogue
        return api_url(self.site_url) if self.source == "api" else self.site_url


def check_site(parameters: RetrainParameters) -> None:
    """Check the seasons, that the site's owner can reach the person who reads the site, and the access to its API.

    Raises:
        SeasonError: a season does not exist, or the last season is before the first.
        ConfigurationError: no contact is set, or no client id for the API, or a table is given without a crawl.
    """
    if not parameters.crawl:
        if parameters.table.catalogue:
            raise ConfigurationError(
                "A run without a crawl reads no table. Leave the table out, and name its collection with --collection."
            )
        return
    if parameters.table.catalogue.startswith("gs://"):
        return
    parse_seasons(parameters.seasons)
    settings = read_settings()
    if parameters.source == "api" and settings.mal_client_id is None:
        raise ConfigurationError(
            "Reading the API needs a client id. Create one at https://myanimelist.net/apiconfig and set MAL_CLIENT_ID "
            "to it, or read the site's pages with --source pages."
        )
    check_contact(parameters.source_url, settings.contact)


def check_parameters(parameters: RetrainParameters) -> None:
    """Check what the schema of the form cannot express.

    Raises:
        SeasonError, ConfigurationError: see `check_site`.
        SettingError: the backbone, a candidate network or the device is unknown.
        WeightsError: the weights file cannot be read or does not fit the backbone.
        TrainingError: the backbone does not accept posters of the image size.
    """
    check_site(parameters)
    check_settings(parameters.train, parameters.preprocess.image_size, trains_here=not parameters.train_on)
