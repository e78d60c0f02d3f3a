"""What the steps hand to each other: store keys, hashes and figures; never tensors, bytes or local paths."""

from pydantic import BaseModel, ConfigDict


class Record(BaseModel):
    """A small immutable record, kept as JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class CatalogueRecord(Record):
    """The summary table of one scrape: `catalogues/{sha256}.csv`; `changes` are those of titles since the last one, and
    it was `accepted` as good at that moment, in seconds since 1970."""

    key: str
    sha256: str
    site_url: str
    seasons: str
    titles: int
    changes: int
    snapshot_date: str
    accepted: float = 0


class PosterSetRecord(Record):
    """Which posters there are: `poster-sets/{sha256}.json`.

    `posters` can be learned from, `new` of them were downloaded in this run; `without` counts the other titles by
    what became of their posters ("missing", "explicit", ...); `report_key` is a page that shows them all.
    """

    key: str
    sha256: str
    posters: int
    new: int
    without: dict[str, int]
    report_key: str


class DatasetRecord(Record):
    """Decoded posters and labels: the objects below `datasets/{dataset_key}/`; `report_key` is a page about them."""

    key: str
    dataset_key: str
    snapshot_date: str
    image_size: int
    posters: int
    parts: dict[str, int]
    genres: list[str]
    report_key: str


class NetworkRecord(Record):
    """How one network did on the validation part."""

    name: str
    backbone: str | None
    pretrained: bool
    trained: str
    weighted_f1: float
    mean_average_precision: float
    seconds: float
    images_per_second: float | None


class TrainingRecord(Record):
    """The trained networks and the bundle of the chosen one, kept with its MLflow run; and the object with what all
    networks say about the test part (see `ml.evaluation.predictions`)."""

    run_id: str
    bundle_sha256: str
    chosen: str
    networks: list[NetworkRecord]
    answers_key: str
    device: str
    precision: str


class ScoreRecord(Record):
    """Scores on the test part."""

    name: str
    weighted_f1: float
    macro_f1: float
    micro_f1: float
    mean_average_precision: float


class KnownPoster(Record):
    """A poster of the test part: its object in the bucket, and the genres its title has of those that are learned."""

    name: str
    title: str
    genres: list[str]


class EvaluationRecord(Record):
    """The chosen network on the test part (first of the scores), beside the baselines and the champion.

    The two weighted F1 of challenger and champion are over the genres that both know.
    """

    scores: list[ScoreRecord]
    champion_version: str | None
    champion_weighted_f1: float | None
    challenger_weighted_f1: float | None
    better: bool
    reason: str
    known_posters: list[KnownPoster]


class ModelRecord(Record):
    """A version in MLflow's registry."""

    version: str
    run_id: str
    bundle_sha256: str


class BundleRecord(Record):
    """A bundle in the bucket: the objects below `bundles/{sha256}/`."""

    uri: str
    sha256: str


class DeploymentRecord(Record):
    """What is live now."""

    url: str
    revision: str
    version: str
    bundle_sha256: str


class RetrainRecord(Record):
    """Everything that one run of the flow handed from step to step."""

    catalogue: CatalogueRecord
    posters: PosterSetRecord
    dataset: DatasetRecord
    training: TrainingRecord
    evaluation: EvaluationRecord
    model: ModelRecord
    deployment: DeploymentRecord | None
