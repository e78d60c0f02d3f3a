"""Revisions and traffic of a Cloud Run service: the values used here, and their conversion to Cloud Run's messages."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime

from google.cloud import run_v2
from google.protobuf.duration_pb2 import Duration

from infra.google import STORAGE_ENVIRONMENT
from infra.settings import Settings
from infra.source_zip import BASE_IMAGE, FUNCTION_TARGET

CANDIDATE = "candidate"
_SOURCE_SHA256 = "source-sha256"  # annotation of a revision: the SHA-256 of the source of its image

RUNTIME_ENVIRONMENT = {
    # glibc returns blocks of this size to the system when they are freed. By default it keeps larger and larger blocks
    # per thread: after several large posters a revision held 1.1 GB; with this setting it holds 0.25 GB.
    "MALLOC_MMAP_THRESHOLD_": str(4 * 1024 * 1024),
    # Threads of functions-framework. Most of them only wait for slow senders if no front end buffers requests.
    "THREADS": "32",
    **STORAGE_ENVIRONMENT,
}
"""Environment variables of every revision."""

MODEL_VARIABLES = ("BUNDLE_URI", "BUNDLE_SHA256", "MODEL_VERSION", "DATASET_DATE", "COLLECTION")
"""The environment variables of a revision that describe its model (see serving/function/loading.py)."""


def model_environment(*, uri: str, sha256: str, version: str, dataset_date: str, collection: str) -> dict[str, str]:
    """The environment variables of a revision that describe its model, without those that are "".

    Args:
        uri: the address of the bundle.
        sha256: the bundle's sha256.
        version: the model's version in the registry.
        dataset_date: the day on which the model's catalogue was read.
        collection: the name of the collection that it was trained on.
    """
    values = (uri, sha256, version, dataset_date, collection)
    return {name: value for name, value in zip(MODEL_VARIABLES, values, strict=True) if value}


# /health answers 200 once the model is loaded. A revision with a broken bundle is not ready after this minute.
_LOADED = run_v2.Probe(
    http_get=run_v2.HTTPGetAction(path="/health"), period_seconds=1, timeout_seconds=1, failure_threshold=60
)

_NEW_TEMPLATE = run_v2.RevisionTemplate(
    containers=[run_v2.Container()], scaling=run_v2.RevisionScaling(max_instance_count=4)
)


def _whole(quantity: str, per_unit: int, small: str, unit: str) -> str:
    """A quantity in its larger unit, if it is a whole number: "1000m" CPUs are "1"."""
    number = quantity.removesuffix(small)
    if number == quantity or int(number) % per_unit:
        return quantity
    return f"{int(number) // per_unit}{unit}"


@dataclass(frozen=True)
class Resources:
    """What one instance of a revision has, in Cloud Run's units: CPUs such as "1", memory such as "1Gi".

    Each is kept in its larger unit where it is a whole number of it, because Cloud Run may return either.
    """

    cpu: str
    memory: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "cpu", _whole(self.cpu, 1000, "m", ""))
        object.__setattr__(self, "memory", _whole(self.memory, 1024, "Mi", "Gi"))


def resources(settings: Settings) -> Resources:
    """CPUs and memory of the function."""
    return Resources(settings.function_cpu, settings.function_memory)


@dataclass(frozen=True)
class Image:
    """An image of the function in Artifact Registry.

    `address` is that by digest. `source_sha256` is that of its source. `base_image_uri` is the image of Python and the
    operating system, which Google keeps up to date and adds when an instance starts; empty if the image contains them.
    """

    address: str
    source_sha256: str
    base_image_uri: str = ""


@dataclass(frozen=True)
class Revision:
    """A revision of a service. `url` is its address, None if it has none."""

    name: str
    image: Image
    environment: Mapping[str, str]
    ready: bool
    url: str | None
    resources: Resources
    created: datetime | None = None

    @property
    def bundle_sha256(self) -> str:
        """The sha256 of the bundle that it serves, "" if it serves none."""
        return self.environment.get("BUNDLE_SHA256", "")

    @property
    def version(self) -> str:
        """The version of its model in the registry, "" if unknown."""
        return self.environment.get("MODEL_VERSION", "")


@dataclass(frozen=True)
class Traffic:
    """The revision with most of the traffic, and the name of the revision that a deployment last sent it to.

    `moved` says that another tool has moved traffic since: `revision` is another one, or does not have all of it.
    """

    revision: Revision
    checked: str
    moved: bool


def function_container(containers: Sequence[run_v2.Container]) -> run_v2.Container:
    """The container that receives the requests: beside sidecars, the one with a port."""
    return next((each for each in containers if each.ports), containers[0])


def merged_template(
    current: run_v2.RevisionTemplate | None,
    image: Image,
    environment: Mapping[str, str],
    resources: Resources,
    service_account: str | None,
) -> run_v2.RevisionTemplate:
    """The template of a new revision, without its name.

    Args:
        current: the template of the service; None for a new one. What this project does not set is kept as it is there:
            access to a VPC, secrets and other variables, labels, other probes, numbers of instances, sidecars, volumes.
        environment: the variables that come from the settings and the model, in addition to `RUNTIME_ENVIRONMENT`.
        service_account: the runtime's identity; None keeps the present one.
    """
    template = run_v2.RevisionTemplate(current or _NEW_TEMPLATE)
    template.revision = ""
    if service_account:
        template.service_account = service_account
    # One request keeps one CPU busy. More requests at once only overlap with reading posters and slow senders.
    template.max_instance_request_concurrency = 8
    template.timeout = Duration(seconds=60)
    template.annotations[_SOURCE_SHA256] = image.source_sha256
    for each in template.containers:
        del each.build_info  # set by Google
    container = function_container(template.containers)
    container.image = image.address
    container.base_image_uri = image.base_image_uri
    ours = {**RUNTIME_ENVIRONMENT, **environment}
    others = [each for each in container.env if each.name not in ours and each.name not in MODEL_VARIABLES]
    container.env = [*others, *(run_v2.EnvVar(name=name, value=value) for name, value in sorted(ours.items()))]
    # Without cpu_idle, the CPUs are paid for the whole life of an instance.
    container.resources = run_v2.ResourceRequirements(limits=asdict(resources), cpu_idle=True, startup_cpu_boost=True)
    container.startup_probe = _LOADED
    return template


def merged_build_config(
    current: run_v2.BuildConfig, image: Image, source: str, service_account: str | None
) -> run_v2.BuildConfig:
    """The service's `build_config`, by which Google's Console shows it as a function. `source` is a gs:// address."""
    config = run_v2.BuildConfig(current)
    config.source_location = source
    config.function_target = FUNCTION_TARGET
    config.base_image = BASE_IMAGE if image.base_image_uri else ""
    config.enable_automatic_updates = bool(image.base_image_uri)
    if service_account:
        config.service_account = service_account
    return config


def has_traffic(service: run_v2.Service, targets: Iterable[run_v2.TrafficTarget]) -> bool:
    """Whether the service's traffic is distributed as the targets say."""
    served = {(each.revision, each.percent, each.tag) for each in service.traffic_statuses}
    return served == {(each.revision, each.percent, each.tag) for each in targets}


def latest_target() -> run_v2.TrafficTarget:
    """A traffic target for the latest ready revision, with all the traffic."""
    kind = run_v2.TrafficTargetAllocationType.TRAFFIC_TARGET_ALLOCATION_TYPE_LATEST
    return run_v2.TrafficTarget(type_=kind, percent=100)


def traffic_target(revision: str, percent: int = 0, tag: str = "") -> run_v2.TrafficTarget:
    """A traffic target for a named revision."""
    kind = run_v2.TrafficTargetAllocationType.TRAFFIC_TARGET_ALLOCATION_TYPE_REVISION
    return run_v2.TrafficTarget(type_=kind, revision=revision, percent=percent, tag=tag)


def other_tagged_targets(service: run_v2.Service) -> list[run_v2.TrafficTarget]:
    """The targets of a service that have a tag other than `candidate`; they are kept."""
    return [
        traffic_target(status.revision, tag=status.tag)
        for status in service.traffic_statuses
        if status.tag and status.tag != CANDIDATE
    ]


def serving_targets(service: run_v2.Service) -> list[run_v2.TrafficTarget]:
    """The targets of a service that have traffic, as named revisions with their percents."""
    latest = service.latest_ready_revision.rpartition("/")[2]
    return [
        traffic_target(status.revision or latest, percent=status.percent)
        for status in service.traffic_statuses
        if status.percent and (status.revision or latest)
    ]


def served_revision_name(service: run_v2.Service) -> str | None:
    """The name of the revision with most of the traffic; None if no revision has any."""
    # Other tools send traffic "to the latest revision", which may come without a name.
    served = serving_targets(service)
    return max(served, key=lambda target: target.percent).revision if served else None


def read_revision(revision: run_v2.Revision, url: str | None) -> Revision:
    """Convert Cloud Run's message to a `Revision` with the address `url`."""
    container = function_container(revision.containers)
    limits = container.resources.limits
    return Revision(
        name=revision.name.rpartition("/")[2],
        image=Image(container.image, revision.annotations.get(_SOURCE_SHA256, ""), container.base_image_uri),
        environment={variable.name: variable.value for variable in container.env},
        ready=any(
            condition.type_ == "Ready" and condition.state == run_v2.Condition.State.CONDITION_SUCCEEDED
            for condition in revision.conditions
        ),
        url=url,
        resources=Resources(limits.get("cpu", ""), limits.get("memory", "")),
        created=revision.create_time or None,
    )
