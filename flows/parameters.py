"""What a person may set for a run: these models are the form in the Prefect UI and the command's options."""

from pydantic import BaseModel, ConfigDict, Field

from ml.configuration import PreprocessConfig, TrainConfig
from tasks.catalogue.configuration import CollectConfig
from tasks.myanimelist.page_addresses import SITE_URL


class RetrainParameters(BaseModel):
    """One run from the site's pages to the deployed function."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    site_url: str = Field(
        SITE_URL, pattern=r"^https?://[^/\s]+/?$", description="The site that is read, without a path."
    )
    seasons: str = Field(
        "2015-winter..now", description="The seasons that are read: '2015-winter..2019-fall', or '..now' as end."
    )
    collect: CollectConfig = Field(CollectConfig(), description="How the site is read, and when a change is too much.")
    preprocess: PreprocessConfig = Field(PreprocessConfig(), description="How posters become a dataset.")
    train: TrainConfig = Field(TrainConfig(), description="How the networks are trained and compared.")
