"""Records that steps pass to each other: store keys, hashes and figures, never tensors, bytes or local paths."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from infra.settings import MAIN_COLLECTION


class Record(BaseModel):
    """A small immutable record. Its JSON uses aliases where a stored key differs from the field's name."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, serialize_by_alias=True)


Promotion = Literal["by_gate", "always", "never"]
"""Whether a new model replaces the champion: if it wins the comparison, or by a person's decision."""


class CatalogueRecord(Record):
    """The table of one scrape, `catalogues/{sha256}.csv`.

    `changes` counts changes of titles since the previous catalogue. `accepted` is when the catalogue passed the drift
    checks, in seconds since 1970.
    """

    key: str
    sha256: str
    site_url: str
    seasons: str
    titles: int
    changes: int
    snapshot_date: str
    accepted: float = 0
    collection: str = MAIN_COLLECTION


class PosterSetRecord(Record):
    """The set of posters of a catalogue, `poster-sets/{sha256}.json`.

    `posters` counts usable posters, `new` those downloaded in this run. `without` counts the other titles by the
    outcome of their posters ("missing", "explicit", ...). `report_key` is the page about the dataset.
    """

    key: str
    sha256: str
    posters: int
    new: int
    without: dict[str, int]
    report_key: str


class CollectedRecord(Record):
    """What was collected last, `collected.json`: a catalogue and its posters."""

    catalogue: CatalogueRecord
    posters: PosterSetRecord


class DatasetRecord(Record):
    """A dataset: the objects below `datasets/{dataset_key}/`. `report_key` is the page about it.

    `notices` are sentences about its parts.
    """

    dataset_key: str
    snapshot_date: str
    posters: int
    parts: dict[str, int]
    genres: list[str]
    report_key: str
    collection: str = MAIN_COLLECTION
    notices: list[str] = []


class NetworkRecord(Record):
    """Scores of one network on the validation part."""

    name: str
    backbone: str | None
    pretrained: bool
    trained: str
    weighted_f1: float
    mean_average_precision: float
    seconds: float
    images_per_second: float | None


class TrainingRecord(Record):
    """The trained networks and the bundle of the chosen one, which is kept with its MLflow run.

    `reason` says why that network was chosen. `predictions_key` is the object with all networks' predictions on the
    test part (`ml.evaluation.predictions`). The stored key is `answers_key`.
    """

    run_id: str
    bundle_sha256: str
    chosen: str
    networks: list[NetworkRecord]
    predictions_key: str = Field(alias="answers_key")
    device: str
    precision: str
    reason: str = ""


class ScoreRecord(Record):
    """Scores of a network or baseline on the test part."""

    name: str
    weighted_f1: float
    macro_f1: float
    micro_f1: float
    mean_average_precision: float


class KnownPoster(Record):
    """A poster of the test part: its object in the bucket, and its title's genres that the model knows."""

    name: str
    title: str
    genres: list[str]


class EvaluationRecord(Record):
    """Scores on the test part, the chosen network's first; whether it replaces the champion, and the reason.

    `passed_gate` is the gate's own result, before a person's decision. `redeploy_champion` says why a champion that
    stays needs a new revision, None if it needs none. `later` says how the champion and its predecessors do on titles
    that came after their training, one sentence each (`tasks.scoreboard`). `overruled_hold` is the time of a hold that
    ends when the model goes live. `compared_with` is the bundle that was live at the comparison, None if none was.
    """

    scores: list[ScoreRecord]
    better: bool
    passed_gate: bool
    reason: str
    known_posters: list[KnownPoster]
    redeploy_champion: str | None
    later: list[str] = []
    overruled_hold: str | None = None
    compared_with: str | None = None


class ModelRecord(Record):
    """A version in MLflow's registry."""

    version: str
    run_id: str
    bundle_sha256: str
    collection: str = MAIN_COLLECTION


class DeploymentRecord(Record):
    """The live revision."""

    url: str
    revision: str


class RetrainRecord(Record):
    """The records of all steps of one run of the flow."""

    catalogue: CatalogueRecord
    posters: PosterSetRecord
    dataset: DatasetRecord
    training: TrainingRecord
    evaluation: EvaluationRecord
    model: ModelRecord
    deployment: DeploymentRecord | None
